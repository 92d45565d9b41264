"""What the user sees: events come in, lines come out. No I/O; every line is safe to print."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from gateway.client import ClientEvent
from gateway.terminal.text import lines, plain
from protocol import events
from protocol.models import FOREVER, Attachment, ChatroomState, ChatroomSummary, Member, Message, User

TYPING_LASTS = 6.0
"""Seconds after which a typist who says nothing more is forgotten."""


class View:
    """What is known of people and chatrooms, and what of it was shown.

    `chatrooms` is the client's own view of them, `clock` gives the local time, `steady`
    seconds of a clock that never jumps.
    """

    def __init__(
        self,
        me: User,
        chatrooms: Mapping[UUID, ChatroomState],
        clock: Callable[[], datetime],
        steady: Callable[[], float],
    ) -> None:
        self.me = me
        self.open: UUID | None = None
        self.listed: list[UUID] = []
        self._files: list[Attachment] = []
        self._chatrooms = chatrooms
        self._clock = clock
        self._steady = steady
        self._people: dict[UUID, str] = {me.id: me.username}
        self._rooms: dict[UUID, str] = {}
        self._online: set[UUID] = set()
        self._counted: int | None = None  # who is online in a large chatroom is not told, only how many
        self._typing: dict[UUID, float] = {}
        self._read: dict[UUID, int] = {}
        self._shown = 0
        self._mine = 0
        self.oldest = 0
        self._handlers: dict[str, Callable[[Any], list[str]]] = {
            "message_received": lambda data: self.message(data.message),
            "message_recalled": self._recalled,
            "user_joined": self._joined,
            "user_left": self._left,
            "member_updated": self._role,
            "member_muted": self._muted,
            "chatroom_updated": self._renamed,
            "chatroom_deleted": lambda data: self._gone(data.chatroom_id, "was deleted"),
            "chatroom_lost": lambda data: self._gone(data.chatroom_id, "is no longer yours"),
            "history_gap": lambda data: [
                f"! {self.room(data.chatroom_id)}: some messages did not come; /join it again"
            ],
            "typing_indicator": self._types,
            "read_receipt": self._reads,
            "presence_count": self._counts,
            "user_online": lambda data: self._presence(data, online=True),
            "user_offline": lambda data: self._presence(data, online=False),
        }

    # --- names ---------------------------------------------------------------------------------

    def room(self, chatroom_id: UUID) -> str:
        """A chatroom's name."""
        if state := self._chatrooms.get(chatroom_id):
            self._rooms[chatroom_id] = plain(state.name)
        return self._rooms.get(chatroom_id, "a chatroom")

    def person(self, user_id: UUID) -> str:
        """A user's name."""
        return self._people.get(user_id, "someone")

    def find(self, words: str) -> list[UUID]:
        """The chatrooms that the user may mean: a number in the last list, a name, or an id."""
        if words.isdecimal() and 0 < int(words) <= len(self.listed):
            return [self.listed[int(words) - 1]]
        return [
            id
            for id, state in self._chatrooms.items()
            if state.name.casefold() == words.casefold() or str(id) == words.lower()
        ]

    # --- answers -------------------------------------------------------------------------------

    def rooms(self, listed: Iterable[ChatroomSummary]) -> list[str]:
        """The list of the user's chatrooms."""
        found = list(listed)
        self.listed = [room.id for room in found]
        shown = [
            f"{number:3}  {plain(room.name)}  ({_count(room.member_count, 'member')}, {room.unread_count} unread)"
            for number, room in enumerate(found, 1)
        ]
        return shown or ["You are in no chatroom yet: /create NAME makes one."]

    def opened(
        self, fetched: events.ChatroomFetched, opened: events.ChatroomOpened, messages: Iterable[Message]
    ) -> list[str]:
        """A chatroom, newly open: its newest messages, oldest first."""
        self.open = fetched.chatroom.id
        self._online = {*(opened.online or ())}
        self._counted = opened.online_count if opened.online is None else None
        self._typing, self._read = {}, {}
        self._shown = self._mine = self.oldest = 0
        for member in fetched.members:
            self._people[member.user_id] = plain(member.username)
            self._read[member.user_id] = member.last_read_seq
        name, count = plain(fetched.chatroom.name), fetched.chatroom.member_count
        return [f"--- {name} ({_count(count, 'member')}) ---", *self.history(messages)]

    def history(self, messages: Iterable[Message]) -> list[str]:
        """Messages that were fetched, oldest first; older ones than those shown may come after them."""
        found = list(messages)
        if not found:
            return ["--- no older messages ---"] if self.oldest else []
        self.oldest = found[0].seq
        self._shown = max(self._shown, found[-1].seq)
        self._mine = max([self._mine, *(message.seq for message in found if message.user_id == self.me.id)])
        return [line for message in found for line in self._said(message)]

    def who(self, members: Iterable[Member]) -> list[str]:
        """The members of a chatroom."""
        return [
            f"  {'*' if member.is_online else ' '} {plain(member.username)}"
            + ("" if member.role == "member" else f" ({member.role})")
            for member in members
        ] + ["  (* is online)"]

    # --- events --------------------------------------------------------------------------------

    def event(self, event: ClientEvent) -> list[str]:
        """What an event shows; much of it shows only in `status`."""
        handler = self._handlers.get(event.event)
        return handler(event.data) if handler else []

    def message(self, message: Message) -> list[str]:
        """A new message: of the open chatroom as it is, of another one with its name."""
        if message.chatroom_id != self.open:
            first, *more = self._said(message)
            return [f"[{self.room(message.chatroom_id)}] {first}", *more]
        self._typing.pop(message.user_id, None)
        if message.seq <= self._shown:
            return []
        self._shown = message.seq
        self.oldest = self.oldest or message.seq
        if message.user_id == self.me.id:
            self._mine = message.seq
        return self._said(message)

    def _said(self, message: Message) -> list[str]:
        self._people[message.user_id] = plain(message.username)
        text = message.content if isinstance(message.content, str) else "(encrypted end to end)"
        if message.recalled_at is not None:
            text = "(taken back)"
        first, *more = lines(text)
        said = [f"{self._time(message.created_at)} {plain(message.username)}: {first}", *more]
        return said + [self._file(attached) for attached in message.attachments]

    def _file(self, attached: Attachment) -> str:
        """A file, with the number by which it is saved; a sealed one is for clients that have the key."""
        size = f"{attached.file_size:,} bytes"
        if attached.encrypted is not None:
            return f"  a file of {size} (encrypted end to end)"
        self._files.append(attached)
        return f"  file {len(self._files)}: {plain(attached.filename)} ({plain(attached.file_type)}, {size})"

    def file(self, number: str) -> Attachment | None:
        """The file that was shown with this number."""
        found = number.isdecimal() and 0 < int(number) <= len(self._files)
        return self._files[int(number) - 1] if found else None

    def _recalled(self, data: events.MessageRecalled) -> list[str]:
        return [f"* {self.person(data.recalled_by)} took a message back in {self.room(data.chatroom_id)}"]

    def _time(self, at: datetime) -> str:
        local, now = at.astimezone(), self._clock()
        return local.strftime("%H:%M" if local.date() == now.date() else "%Y-%m-%d %H:%M")

    def _joined(self, data: events.UserJoined) -> list[str]:
        self._people[data.user.id] = plain(data.user.username)
        if data.user.id == self.me.id:
            return [f"* you are now in {plain(data.chatroom.name)}: /join {plain(data.chatroom.name)}"]
        return [f"* {self.person(data.user.id)} joined {self.room(data.chatroom_id)}"]

    def _left(self, data: events.UserLeft) -> list[str]:
        if data.user_id == self.me.id:
            return self._gone(data.chatroom_id, "is no longer yours")
        return [f"* {self.person(data.user_id)} left {self.room(data.chatroom_id)}"]

    def _role(self, data: events.MemberUpdated) -> list[str]:
        return [f"* {self.person(data.user_id)} is now {data.role} of {self.room(data.chatroom_id)}"]

    def _muted(self, data: events.MemberMuted) -> list[str]:
        return [f"* {self.person(data.user_id)} {self._voice(data.muted_until)} in {self.room(data.chatroom_id)}"]

    def _voice(self, muted_until: datetime | None) -> str:
        if muted_until is None:
            return "may write again"
        return "may not write" + ("" if muted_until == FOREVER else f" before {self._time(muted_until)}")

    def _renamed(self, data: events.ChatroomUpdated) -> list[str]:
        name, before = plain(data.chatroom.name), self._rooms.get(data.chatroom.id)
        self._rooms[data.chatroom.id] = name
        return [f"* {before} is now called {name}"] if before not in (None, name) else []

    def _gone(self, chatroom_id: UUID, how: str) -> list[str]:
        if chatroom_id == self.open:
            self.open = None
        return [f"* {self.room(chatroom_id)} {how}"]

    # --- typing, presence, read positions --------------------------------------------------------

    def _types(self, data: events.TypingIndicator) -> list[str]:
        self._people[data.user_id] = plain(data.username)
        self._typing.pop(data.user_id, None)
        if data.is_typing and data.chatroom_id == self.open:
            self._typing[data.user_id] = self._steady() + TYPING_LASTS
        return []

    def _reads(self, data: events.ReadReceipt) -> list[str]:
        if data.chatroom_id == self.open:
            self._read[data.user_id] = data.seq
        return []

    def _presence(self, data: events.UserOnline | events.UserOffline, *, online: bool) -> list[str]:
        self._people[data.user_id] = plain(data.username)
        (self._online.add if online else self._online.discard)(data.user_id)
        return [f"* {self.person(data.user_id)} is {'online' if online else 'offline'}"]

    def _counts(self, data: events.PresenceCount) -> list[str]:
        if data.chatroom_id == self.open:
            self._counted = data.online_count
        return []

    def typing(self) -> list[str]:
        """Who types in the open chatroom now."""
        now = self._steady()
        return [self.person(user_id) for user_id, until in self._typing.items() if until > now]

    def readers(self) -> list[str]:
        """Who has read the user's newest message in the open chatroom."""
        return [
            self.person(user_id)
            for user_id, seq in self._read.items()
            if self._mine and seq >= self._mine and user_id != self.me.id
        ]

    def status(self) -> str:
        """One line on the open chatroom."""
        if self.open is None:
            return "no chatroom is open: /rooms, /join ROOM, /create NAME, /help"
        online = len(self._online | {self.me.id}) if self._counted is None else self._counted
        parts = [self.room(self.open), f"{online} online"]
        if typists := self.typing():
            parts.append(f"{_names(typists)} {'types' if len(typists) == 1 else 'type'}…")
        if readers := self.readers():
            parts.append(f"read by {_names(readers)}")
        return " · ".join(parts)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _names(names: list[str]) -> str:
    shown = names[:3]
    return ", ".join(shown) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
