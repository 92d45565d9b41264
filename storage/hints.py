"""What nodes tell each other. Each is a hint: lost, late or twice, it must do no harm, since PostgreSQL knows better.

A hint belongs to a channel: those of a chatroom, those for all nodes, or those
for one node. They are encoded as MessagePack and sealed (`storage.redis_bus`).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from msgspec import Raw, Struct

from protocol.events import DURABLE, EPHEMERAL, Event
from protocol.models import Scope, User
from storage.events import CommittedEvent


class Hint(Struct, frozen=True, tag=True):
    """What every hint is."""


# --- on a chatroom's channel -----------------------------------------------------------------


class EventHint(Struct, frozen=True, array_like=True):
    """A CommittedEvent on its way. `data` is encoded apart, since its type follows from `kind`."""

    chatroom_id: UUID
    seq: int
    kind: str
    data: Raw
    adds: tuple[UUID, ...] = ()
    removes: tuple[UUID, ...] = ()


class Committed(Hint, frozen=True):
    """Events that were committed by another node, in seq order."""

    events: tuple[EventHint, ...]


class Ephemeral(Hint, frozen=True):
    """An ephemeral event for those who have the chatroom open, except one user."""

    chatroom_id: UUID
    event: str
    data: Raw
    but: UUID | None = None


# --- for all nodes ---------------------------------------------------------------------------


class SignInEnded(Hint, frozen=True):
    """A sign-in ended: its sockets are closed with this code."""

    sign_in_id: UUID
    code: int
    reason: str


class UserChanged(Hint, frozen=True):
    """A profile changed."""

    user: User


class MembersAdded(Hint, frozen=True):
    """Users became members with this event; a node that has them and nobody else of the chatroom does not hear it."""

    chatroom_id: UUID
    seq: int
    adds: tuple[UUID, ...]


class Stopping(Hint, frozen=True):
    """A node is stopping: it takes no sessions over any more."""

    node_id: UUID


class PresenceChanged(Hint, frozen=True):
    """Users came to a node or went from it, in the changes after number `after` up to `number`.

    It tells of each what `gateway.online.presence_of` says. Without users it only says how far the node is.
    """

    node_id: UUID
    after: int
    number: int
    users: dict[UUID, int]


class PresenceTold(Hint, frozen=True):
    """A part of all users of a node, as they are after its change `number`. Parts are counted from 0."""

    node_id: UUID
    number: int
    part: int
    last: bool
    users: dict[UUID, int]


# --- for one node ----------------------------------------------------------------------------


class PresenceAsked(Hint, frozen=True):
    """Tell all users you have: somebody does not know them."""


class SocketsAsked(Hint, frozen=True):
    """How many sockets does this user have with you?"""

    asker: UUID
    user_id: UUID


class SocketsTold(Hint, frozen=True):
    """So many."""

    node_id: UUID
    user_id: UUID
    sockets: int


class KeptFrames(Struct, frozen=True, array_like=True):
    """Frames that a session keeps for resume, as they went out. `ends` says where each ends."""

    data: bytes
    ends: tuple[int, ...]
    chatroom_id: UUID | None
    seq: int


class SessionState(Struct, frozen=True, array_like=True):
    """A session on its way from one node to another. `rooms` says up to which seq it has each chatroom's events."""

    id: UUID
    resume_token: str
    user: User
    sign_in_id: UUID
    token_expires_at: datetime | None
    scopes: tuple[Scope, ...] | None
    sent: int
    handled: int
    replay: tuple[KeptFrames, ...]
    rooms: dict[UUID, int]
    open_rooms: tuple[UUID, ...]
    lagging: tuple[UUID, ...]


class SessionAsked(Hint, frozen=True):
    """Somebody resumes a session of yours here, and `asker` has claimed it under the number `fence`.

    `user_id` and `scopes` are those of a new access token, where the client showed one.
    """

    asker: UUID
    session_id: UUID
    digest: bytes
    fence: int
    wire: str
    user_id: UUID | None
    scopes: tuple[Scope, ...] | None


class SessionGiven(Hint, frozen=True):
    """Here it is; I have it no more."""

    digest: bytes
    fence: int
    state: SessionState


class SessionRefused(Hint, frozen=True):
    """It cannot go on, for this reason. `handled` is given when its count is still known."""

    digest: bytes
    fence: int
    reason: str
    handled: int | None


AnyHint = (
    Committed
    | Ephemeral
    | SignInEnded
    | UserChanged
    | MembersAdded
    | Stopping
    | PresenceChanged
    | PresenceAsked
    | PresenceTold
    | SocketsAsked
    | SocketsTold
    | SessionAsked
    | SessionGiven
    | SessionRefused
)

encode = msgspec.msgpack.Encoder().encode
_decoder: msgspec.msgpack.Decoder[AnyHint] = msgspec.msgpack.Decoder(AnyHint)
_data = {name: msgspec.msgpack.Decoder(kind) for name, kind in {**DURABLE, **EPHEMERAL}.items()}
_any = msgspec.msgpack.Decoder(dict[str, Any])


def decode(data: bytes) -> AnyHint:
    """A hint. Raises msgspec.MsgspecError for what a newer Parley says."""
    return _decoder.decode(data)


def committed(events: Sequence[CommittedEvent]) -> Committed:
    """Events of one chatroom as a hint."""
    return Committed(
        tuple(EventHint(e.chatroom_id, e.seq, e.kind, Raw(encode(e.data)), e.adds, e.removes) for e in events)
    )


def events_of(hint: Committed) -> list[CommittedEvent]:
    """The events of a hint. Raises msgspec.MsgspecError."""
    return [
        CommittedEvent(e.chatroom_id, e.seq, e.kind, _data.get(e.kind, _any).decode(e.data), e.adds, e.removes)
        for e in hint.events
    ]


def data_of(event: str, data: Raw) -> Event:
    """The data of an ephemeral event. Raises msgspec.MsgspecError, and KeyError for what only a newer Parley says."""
    found: Event = _data[event].decode(data)
    return found
