"""Who is online. Only a user's first and last session make an event, after a grace as long as a reconnect takes.

A user is online while any node has them. Each node tells those who have a room open there, of users who
come to it or go, and of users of other nodes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from itertools import chain
from uuid import UUID

from gateway.hub import Hub
from gateway.online import Elsewhere
from gateway.room import Room
from gateway.session import Session
from gateway.wheel import Wheel
from protocol.events import PresenceCount, UserOffline, UserOnline
from protocol.models import User

NAMED = 200
"""Chatrooms with more members are told how many are online, not who."""
COUNT_INTERVAL = 1.0
"""Seconds between two counts of one large chatroom."""


async def _nobody(_: UUID) -> int:
    return 0


class Presence:
    """Keeps `hub.online` and tells those who have a room open.

    `on_change` is called with each user whose sockets or presence here may not be what they were, `on_wait` when
    something waits that only the database can say, `on_count` with large chatrooms in which somebody came or went,
    and `confirm_sockets` to hear how many sockets a user really has on other nodes.
    """

    def __init__(self, hub: Hub, wheel: Wheel, grace: float) -> None:
        self.elsewhere = Elsewhere(grace)
        self.elsewhere.on_change = self._changed_elsewhere
        self.on_change: Callable[[UUID], None] = lambda _: None
        self.on_wait: Callable[[], None] = lambda: None
        self.on_count: Callable[[set[UUID]], None] = lambda _: None
        self.confirm_sockets: Callable[[UUID], Awaitable[int]] = _nobody
        self.waiting: set[UUID] = set()
        """Users whose chatrooms have to be looked up, to tell there whether they are online."""
        self.looking: set[UUID] = set()
        """Those of whom this is under way."""
        self._hub = hub
        self._wheel = wheel
        self._grace = grace
        self._counting: set[UUID] = set()
        self.due = 0
        hub.on_forget.append(self.went)

    def is_online(self, user_id: UUID) -> bool:
        """Whether the user has a session on any node, or had one within the grace."""
        return user_id in self._hub.online or self.elsewhere.is_online(user_id)

    # --- here --------------------------------------------------------------------------------

    def came(self, session: Session) -> None:
        """A session is open: the user is online, if they were not."""
        user = session.user
        self.on_change(user.id)
        if user.id in self._hub.online or not session.hears:  # whoever hears nothing cannot be talked to
            return
        self._hub.online.add(user.id)
        self._changed_here(user, session.rooms)

    def went(self, session: Session) -> None:
        """A session lost its socket or ended: if no other comes within the grace, the user is offline."""
        self.on_change(session.user.id)
        leaving = _Leaving(self, session.user, tuple(session.rooms))
        self._wheel.schedule(leaving, self._wheel.now() + self._grace)

    def settle(self, user: User, room_ids: Iterable[UUID]) -> None:
        """The grace is over."""
        if user.id not in self._hub.online or self._hub.is_connected(user.id):
            return
        self._hub.online.discard(user.id)
        self.on_change(user.id)
        self._changed_here(user, room_ids)

    def _changed_here(self, user: User, room_ids: Iterable[UUID]) -> None:
        if self.elsewhere.is_online(user.id):
            return
        overtakes = user.id in self.waiting or user.id in self.looking
        if overtakes or any(map(self.unsized, room_ids)):
            self._wait(user.id)
        else:
            self.tell(user.id, user.username, room_ids)

    # --- elsewhere ---------------------------------------------------------------------------

    def _changed_elsewhere(self, user_id: UUID) -> None:
        if user_id not in self._hub.online:
            self._wait(user_id)

    def _wait(self, user_id: UUID) -> None:
        self.waiting.add(user_id)
        self.on_wait()

    # --- telling -----------------------------------------------------------------------------

    def unsized(self, room_id: UUID) -> bool:
        """Whether a room came open with a session of another node, so that it is not known how large it is."""
        room = self._hub.rooms.get(room_id)
        return room is not None and bool(room.openers) and not room.member_count

    def tell(self, user_id: UUID, username: str, room_ids: Iterable[UUID]) -> None:
        """Tells those who have one of these rooms open whether the user is online; each session once."""
        hearers: dict[Session, None] = {}
        for room_id in room_ids:
            room = self._hub.rooms.get(room_id)
            if room is None or not room.openers:
                continue
            if room.member_count > NAMED:
                self.count_soon(room_id)
            else:
                hearers.update(room.openers)
        others = [session for session in hearers if session.user.id != user_id]
        if self.is_online(user_id):
            self._hub.tell(others, "user_online", UserOnline(user_id=user_id, username=username))
        else:
            self._hub.tell(others, "user_offline", UserOffline(user_id=user_id, username=username))

    def count_soon(self, room_id: UUID) -> None:
        """Has a large room told how many are online; many changes make one event."""
        self._counting.add(room_id)
        self._wheel.schedule(self, self._wheel.now() + COUNT_INTERVAL)

    def tick(self, now: float) -> None:
        """The rooms that have to be counted are."""
        counting, self._counting = self._counting, set()
        if self.elsewhere:
            self.on_count(counting)
            return
        for room_id in counting:
            if (room := self._hub.rooms.get(room_id)) is not None:
                self.tell_count(room, len(online_in(self._hub, room)))

    def tell_count(self, room: Room, count: int) -> None:
        """How many are online."""
        self._hub.tell(room.openers, "presence_count", PresenceCount(chatroom_id=room.id, online_count=count))


def online_in(hub: Hub, room: Room) -> set[UUID]:
    """The members of a room who are online here: each of them has a session that hears it, or is about to."""
    return {session.user.id for session in chain(room.sessions(), room.held)} & hub.online


class _Leaving:
    """A user whose grace is running."""

    def __init__(self, presence: Presence, user: User, room_ids: tuple[UUID, ...]) -> None:
        self._presence = presence
        self._user = user
        self._room_ids = room_ids
        self.due = 0

    def tick(self, now: float) -> None:
        self._presence.settle(self._user, self._room_ids)
