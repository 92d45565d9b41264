"""Ids as the database's driver makes them: each is a `uuid.UUID`, whose hash and comparison are a tenth of the work.

An id from the wire is another kind of object. It is compared and hashed by Python code, each time that it is looked
up: so whatever goes through many hands, such as a message, takes the ids of what it found in memory.
"""

from __future__ import annotations

from uuid import UUID

from asyncpg.pgproto.pgproto import UUID as DriverUUID  # noqa: N811  it is another class of the same name
from uuid_utils import uuid7


def new_id() -> UUID:
    """A fresh UUIDv7 (RFC 9562): later ones are greater."""
    return DriverUUID(uuid7().bytes)
