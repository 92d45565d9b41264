"""What nodes tell each other. Each is a hint: lost, late or twice, it must do no harm, since PostgreSQL knows better.

A hint belongs to a channel: those of a chatroom, those for all nodes, or those
for one node. They are encoded as MessagePack and sealed (`storage.redis_bus`).
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import msgspec
from msgspec import Raw, Struct

from protocol.events import DURABLE, EPHEMERAL, Event
from protocol.models import User
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


AnyHint = Committed | Ephemeral | SignInEnded | UserChanged | MembersAdded

encode = msgspec.msgpack.Encoder().encode
_decoder: msgspec.msgpack.Decoder[AnyHint] = msgspec.msgpack.Decoder(AnyHint)
_data = {name: msgspec.msgpack.Decoder(kind) for name, kind in {**DURABLE, **EPHEMERAL}.items()}


def decode(data: bytes) -> AnyHint:
    """A hint. Raises msgspec.MsgspecError for what a newer Parley says."""
    return _decoder.decode(data)


def committed(events: Sequence[CommittedEvent]) -> Committed:
    """Events of one chatroom as a hint."""
    return Committed(
        tuple(EventHint(e.chatroom_id, e.seq, e.kind, Raw(encode(e.data)), e.adds, e.removes) for e in events)
    )


def events_of(hint: Committed) -> list[CommittedEvent]:
    """The events of a hint. Raises msgspec.MsgspecError or KeyError for what a newer Parley says."""
    return [
        CommittedEvent(e.chatroom_id, e.seq, e.kind, data_of(e.kind, e.data), e.adds, e.removes) for e in hint.events
    ]


def data_of(event: str, data: Raw) -> Event:
    """The data of a durable or ephemeral event. Raises msgspec.MsgspecError or KeyError."""
    found: Event = _data[event].decode(data)
    return found
