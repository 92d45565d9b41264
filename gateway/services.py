"""What an action needs, passed to each of them; made once, in __main__."""

from __future__ import annotations

from dataclasses import dataclass

from crypto.passwords import Passwords
from crypto.signed_urls import Grants
from crypto.tokens import AccessTokens, RefreshTokens
from gateway.config import Config
from gateway.files.grants import FileGrant, PartGrant
from gateway.files.pictures import Pictures
from gateway.files.scanner import Scanner
from gateway.files.store import FileStore
from gateway.files.types import Types
from gateway.hub import Hub
from gateway.metrics import Metrics
from gateway.nodes import Nodes
from gateway.presence_rooms import RoomPresence
from gateway.rates import Rates
from storage.database import Database
from storage.journal import Journal
from storage.lookups import Lookups
from storage.room_keys import RoomKeys


@dataclass(frozen=True, slots=True)
class Services:
    """The parts of one Parley process that rules and use-cases work with."""

    config: Config
    database: Database
    lookups: Lookups
    journal: Journal
    hub: Hub
    nodes: Nodes
    presence: RoomPresence
    room_keys: RoomKeys
    passwords: Passwords
    access_tokens: AccessTokens
    refresh_tokens: RefreshTokens
    metrics: Metrics
    rates: Rates
    uploads: Rates
    files: FileStore
    types: Types
    pictures: Pictures
    file_grants: Grants[FileGrant]
    part_grants: Grants[PartGrant]
    scanner: Scanner | None
