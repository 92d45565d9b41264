"""The commands that a client has not had an answer to: numbered as the server counts them, re-sent when lost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from protocol import commands, events
from protocol.codec import ClientFrame
from protocol.commands import Command
from protocol.errors import ERRORS, ChatError
from protocol.events import Event

RESULTS: dict[type[Command], type[Event] | None] = {
    commands.SendMessage: events.MessageSent,
    commands.RecallMessage: events.Done,
    commands.FetchMessages: events.MessagesFetched,
    commands.JoinChatroom: events.ChatroomOpened,
    commands.LeaveChatroom: None,
    commands.TypingStart: None,
    commands.TypingStop: None,
    commands.MessageRead: events.ReadPosition,
    commands.CreateChatroom: events.ChatroomChanged,
    commands.ListChatrooms: events.ChatroomsListed,
    commands.GetChatroom: events.ChatroomFetched,
    commands.UpdateChatroom: events.ChatroomChanged,
    commands.DeleteChatroom: events.Done,
    commands.AddMembers: events.MembersAdded,
    commands.UpdateMember: events.Done,
    commands.RemoveMember: events.Done,
    commands.MuteMember: events.Done,
    commands.UnmuteMember: events.Done,
    commands.BanMember: events.Done,
    commands.UnbanMember: events.Done,
    commands.ListBans: events.BansListed,
    commands.LeaveMembership: events.Done,
    commands.PutDeviceKey: events.DeviceKeyPut,
    commands.ListDeviceKeys: events.DeviceKeysListed,
    commands.DeleteDeviceKey: events.DeviceKeyDeleted,
    commands.GetUserKeys: events.DeviceKeysListed,
    commands.PutChatroomKeys: events.ChatroomKeysPut,
    commands.GetChatroomKeys: events.ChatroomKeysFetched,
    commands.GetFileUrls: events.FileUrlsSigned,
}
"""What the user may ask, and the struct of its ack; None where the ack says nothing."""

REPEATABLE: frozenset[type[Command]] = frozenset(
    {
        commands.Sync,
        commands.SendMessage,  # the client gives each one a client_id
        commands.RecallMessage,  # of one that is recalled nothing is left to do
        commands.FetchMessages,
        commands.JoinChatroom,
        commands.LeaveChatroom,
        commands.TypingStart,
        commands.TypingStop,
        commands.MessageRead,
        commands.ListChatrooms,
        commands.GetChatroom,
        commands.ListBans,
        commands.PutDeviceKey,
        commands.ListDeviceKeys,
        commands.GetUserKeys,
        commands.PutChatroomKeys,  # what is stored is never replaced, and the same wraps are known again
        commands.GetChatroomKeys,
        commands.GetFileUrls,
    }
)
"""Commands that may be handled twice without harm."""

ATTEMPTS = 6
"""Times a command is sent when its errors are retryable, before the error reaches the caller."""

RETRY_BASE = 0.5
"""Seconds that the first delay is at most; each further one may be twice as long."""

DELAY_CAP = 30.0
"""Seconds that no delay exceeds, apart from what the server asks for."""

_EVENT_OF = {command: event for event, command in commands.SOCKET_COMMANDS.items()}


def backoff(failures: int, random: Callable[[], float]) -> float:
    """Seconds to wait after `failures` earlier ones: "full jitter", so that a crowd does not return as one."""
    return random() * min(DELAY_CAP, RETRY_BASE * 2.0 ** min(failures, 16))


def chat_error(data: events.Error) -> ChatError:
    """The exception for an `error` frame. A code that this client does not know is kept, and never retried."""
    error = ChatError(
        data.code if data.code in ERRORS else "INTERNAL_ERROR",
        data.message,
        details=data.details,
        retry_after=data.retry_after,
    )
    error.code = data.code
    return error


def outcome_unknown() -> ChatError:
    """For a command that the lost session may or may not have carried out, and that must not be done twice."""
    return ChatError("SERVICE_UNAVAILABLE", "The session was lost before the answer came: the outcome is unknown.")


@dataclass(slots=True)
class Pending:
    """A command without an answer.

    `number` is its place among the frames that the server counts, None while it is not
    on its way; `internal` ones are the client's own.
    """

    id: str
    command: Command
    internal: bool
    number: int | None = None
    failures: int = 0


class Commands:
    """Unanswered commands in the order they were given. `random` returns a number in [0, 1)."""

    def __init__(self, random: Callable[[], float]) -> None:
        self._random = random
        self._pending: dict[str, Pending] = {}
        self._retry_at: dict[str, float] = {}
        self._sent = 0
        self._made = 0

    def add(self, command: Command, internal: bool) -> Pending:
        """Takes in a command. It is not sent yet."""
        self._made += 1
        pending = Pending(f"c{self._made}", command, internal)
        self._pending[pending.id] = pending
        return pending

    def get(self, id: str | None) -> Pending | None:
        """The command that an answer belongs to."""
        return self._pending.get(id) if id is not None else None

    def remove(self, pending: Pending) -> None:
        """The command has its answer, or needs none."""
        del self._pending[pending.id]
        self._retry_at.pop(pending.id, None)

    def abandon(self, id: str) -> None:
        """The caller has gone. What is on its way stays, so that its answer is known for what it is."""
        pending = self._pending.get(id)
        if pending is not None and pending.number is None:
            self.remove(pending)

    def send(self, pending: Pending) -> ClientFrame[Any]:
        """The next frame of the session, which carries this command."""
        self._sent += 1
        pending.number = self._sent
        self._retry_at.pop(pending.id, None)
        return ClientFrame(_EVENT_OF[type(pending.command)], pending.command, pending.id)

    # --- after a break -------------------------------------------------------------------------

    def unsend(self, handled: int) -> None:
        """The server never saw what came after frame `handled`: it waits to be sent again."""
        for pending in self._pending.values():
            if pending.number is not None and pending.number > handled:
                pending.number = None
        self._sent = handled

    def restart(self) -> list[Pending]:
        """A new session counts from zero. Returns, and drops, what may have been handled and must not be repeated."""
        unknown = [p for p in self._pending.values() if p.number is not None and type(p.command) not in REPEATABLE]
        stale = [p for p in self._pending.values() if p.internal]
        for pending in unknown + stale:
            self.remove(pending)
        for pending in self._pending.values():
            pending.number = None
        self._sent = 0
        return unknown

    def send_waiting(self) -> list[ClientFrame[Any]]:
        """The frames of everything that waits for a session, in the order it was given."""
        waiting = [p for p in self._pending.values() if p.number is None and p.id not in self._retry_at]
        return [self.send(pending) for pending in waiting]

    # --- after an error ------------------------------------------------------------------------

    def retry(self, pending: Pending, error: ChatError, now: float) -> bool:
        """Plans another attempt if the error allows it: then the command stays."""
        if not self._worth_retrying(pending, error):
            return False
        delay = (error.retry_after or 0.0) + backoff(pending.failures, self._random)
        self._retry_at[pending.id] = now + delay
        pending.number = None
        pending.failures += 1
        return True

    def _worth_retrying(self, pending: Pending, error: ChatError) -> bool:
        if isinstance(pending.command, commands.Sync):
            return True  # without its verdict the chatroom would stand still
        if pending.failures + 1 >= ATTEMPTS or error.code not in ERRORS or not error.kind.retryable:
            return False
        # A command over the rate was not carried out, so it may be sent again whatever it is.
        return error.code == "RATE_LIMIT_EXCEEDED" or type(pending.command) in REPEATABLE

    def next_retry(self) -> float | None:
        """When `due` has something to send."""
        return min(self._retry_at.values(), default=None)

    def due(self, now: float) -> list[ClientFrame[Any]]:
        """The attempts whose time has come."""
        ready = [id for id, retry_at in self._retry_at.items() if retry_at <= now]
        return [self.send(self._pending[id]) for id in ready]
