"""Who is online. Only a user's first and last session make an event, after a grace as long as a reconnect takes."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from uuid import UUID

from gateway.hub import Hub
from gateway.room import Room
from gateway.session import Session
from gateway.wheel import Wheel
from protocol.events import PresenceCount, UserOffline, UserOnline
from protocol.models import User

NAMED = 200
"""Chatrooms with more members are told how many are online, not who."""
COUNT_INTERVAL = 1.0
"""Seconds between two counts of one large chatroom."""


class Presence:
    """Keeps `hub.online` and tells those who have a room open."""

    def __init__(self, hub: Hub, wheel: Wheel, grace: float) -> None:
        self._hub = hub
        self._wheel = wheel
        self._grace = grace
        self._counting: set[UUID] = set()
        self.due = 0
        hub.on_forget.append(self.went)

    def came(self, session: Session) -> None:
        """A session is open: the user is online, if they were not."""
        user = session.user
        if user.id in self._hub.online or not session.hears:  # whoever hears nothing cannot be talked to
            return
        self._hub.online.add(user.id)
        self._tell(user, session.rooms, "user_online", UserOnline(user_id=user.id, username=user.username))

    def went(self, session: Session) -> None:
        """A session lost its socket or ended: if no other comes within the grace, the user is offline."""
        leaving = _Leaving(self, session.user, tuple(session.rooms))
        self._wheel.schedule(leaving, self._wheel.now() + self._grace)

    def settle(self, user: User, room_ids: Iterable[UUID]) -> None:
        """The grace is over."""
        if user.id not in self._hub.online or self._hub.connections_of(user.id):
            return
        self._hub.online.discard(user.id)
        self._tell(user, room_ids, "user_offline", UserOffline(user_id=user.id, username=user.username))

    def _tell(self, user: User, room_ids: Iterable[UUID], event: str, data: UserOnline | UserOffline) -> None:
        hearers: dict[Session, None] = {}
        for room_id in room_ids:
            room = self._hub.rooms.get(room_id)
            if room is None or not room.openers:
                continue
            if room.member_count > NAMED:
                self._count_soon(room_id)
            else:
                hearers.update(room.openers)
        self._hub.tell([s for s in hearers if s.user.id != user.id], event, data)

    def _count_soon(self, room_id: UUID) -> None:
        self._counting.add(room_id)
        self._wheel.schedule(self, self._wheel.now() + COUNT_INTERVAL)

    def tick(self, now: float) -> None:
        """Tells large chatrooms how many are online; many changes make one event."""
        counting, self._counting = self._counting, set()
        for room_id in counting:
            if (room := self._hub.rooms.get(room_id)) is not None:
                data = PresenceCount(chatroom_id=room_id, online_count=len(online_in(self._hub, room)))
                self._hub.tell(room.openers, "presence_count", data)


def online_in(hub: Hub, room: Room) -> set[UUID]:
    """The members of a room who are online: each of them has a session that hears it, or is about to."""
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
