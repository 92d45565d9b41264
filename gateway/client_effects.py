"""What the client's state machine asks of its shell, and what the user gets to see."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

import msgspec

from protocol.codec import ClientFrame, ServerFrame
from protocol.events import CONTROL, DURABLE, EPHEMERAL, Event

_KNOWN: dict[str, type[Event]] = {**DURABLE, **EPHEMERAL, **CONTROL}


class ClientClosed(Exception):
    """The client has ended and will not come back by itself.

    `code` is the server's close code (4000-4099: do not come back unchanged), or
    1000 after `Client.close()`.
    """

    def __init__(self, code: int, reason: str) -> None:
        self.code = code
        self.reason = reason
        super().__init__(f"{code}: {reason}" if reason else str(code))


@dataclass(frozen=True, slots=True)
class ClientEvent:
    """One event as the user sees it.

    `data` is the struct that `protocol.events` has for `event`, or a plain dict
    where this client does not know the name. `seq` stands on durable events.
    """

    event: str
    data: Any
    chatroom_id: UUID | None = None
    seq: int | None = None


def typed(frame: ServerFrame) -> Any:
    """The struct of a frame's data; a plain dict for an event that this client does not know."""
    known = _KNOWN.get(frame.event)
    return frame.data if known is None else msgspec.convert(frame.data, known)


# --- events that the client itself makes: what it knows without having been sent an event ---------


class HistoryGap(Event, frozen=True, kw_only=True):
    """Too much was missed: events after `from_seq` up to and including `to_seq` do not come; fetch history instead.

    `to_seq` below `from_seq` means that the server's data went back, as after restoring a backup.
    """

    chatroom_id: UUID
    from_seq: int
    to_seq: int


class ChatroomGained(Event, frozen=True, kw_only=True):
    """The user became a member while events could not reach this client; they go on from `seq` plus one."""

    chatroom_id: UUID
    seq: int


class ChatroomLost(Event, frozen=True, kw_only=True):
    """The user is no longer a member, and the event that says so did not reach this client."""

    chatroom_id: UUID


LocalEvent = HistoryGap | ChatroomGained | ChatroomLost

_LOCAL_NAMES: dict[type[LocalEvent], str] = {
    HistoryGap: "history_gap",
    ChatroomGained: "chatroom_gained",
    ChatroomLost: "chatroom_lost",
}


def local(data: LocalEvent) -> ClientEvent:
    """An event that the client makes: it has a name like the others, and no seq."""
    return ClientEvent(_LOCAL_NAMES[type(data)], data, data.chatroom_id)


# --- effects -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Connect:
    """Open a connection, then call `connected`, or `disconnected` if that failed."""


@dataclass(frozen=True, slots=True)
class Drop:
    """Cut the connection at once: nobody answers on it, or nothing can come of it."""

    reason: str


@dataclass(frozen=True, slots=True)
class ConnectNext:
    """Open another connection beside the one there is, then call `next.connected`, or `next.disconnected`."""


@dataclass(frozen=True, slots=True)
class DropNext:
    """Cut that other connection: nothing can come of it."""

    reason: str


@dataclass(frozen=True, slots=True)
class Switch:
    """The other connection is now the one there is.

    Of the former nothing more is read, and nothing is written to it. Cut it, without a
    goodbye, when a session is open again or the new connection has ended.
    """


@dataclass(frozen=True, slots=True)
class FetchToken:
    """Get a fresh access token, then call `authorize` with it."""


@dataclass(frozen=True, slots=True)
class Send:
    """Write a frame. Frames are numbered as they are made, so their order must be kept."""

    frame: ClientFrame[Any]


@dataclass(frozen=True, slots=True)
class Opened:
    """A session is open: `user`, `chatrooms` and `session_id` are known."""


@dataclass(frozen=True, slots=True)
class Deliver:
    """Hand an event to the user."""

    event: ClientEvent


@dataclass(frozen=True, slots=True)
class Answer:
    """The command `id` succeeded; `result` is None where the answer says nothing."""

    id: str
    result: Event | None


@dataclass(frozen=True, slots=True)
class Refuse:
    """The command `id` failed for good."""

    id: str
    error: Exception


@dataclass(frozen=True, slots=True)
class End:
    """The client has ended; whatever still waits ends with `error`."""

    error: ClientClosed


Effect = Connect | Drop | ConnectNext | DropNext | Switch | FetchToken | Send | Opened | Deliver | Answer | Refuse | End
