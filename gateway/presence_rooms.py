"""Who of a chatroom is online on any node. A node knows the chatrooms of its own users; of others the database says."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from itertools import islice
from typing import Never
from uuid import UUID

from gateway.hub import Hub
from gateway.presence import COUNT_INTERVAL, NAMED, Presence, online_in
from gateway.room import Room
from gateway.session import Session
from protocol.errors import ChatError
from storage import online, rooms
from storage.database import Database

BATCH_SECONDS = 0.2
"""How long changes on other nodes are gathered before they are told."""
BATCH = 500
"""Users whose chatrooms are looked up at once."""
AGAIN = 1.0
"""Seconds until the database is asked again, after it was away."""


@dataclass(frozen=True, slots=True)
class Online:
    """How many members of a chatroom are online, and who; in a large one they are not named."""

    count: int
    named: tuple[UUID, ...] | None


class RoomPresence:
    """Answers who is online, and tells of users of other nodes."""

    def __init__(self, hub: Hub, presence: Presence, database: Database) -> None:
        self._hub = hub
        self._presence = presence
        self._database = database
        self._wanted = asyncio.Event()
        self._counting: set[UUID] = set()
        self.is_online = presence.is_online
        presence.on_wait = self._wanted.set
        presence.on_count = self._count_later

    # --- opening a room ----------------------------------------------------------------------

    async def open(self, session: Session, room: Room) -> Online | None:
        """Opens a room on a session, and says who is online in it. None when it does not hear the room any more.

        What is said and what is told from then on have no seam, except that a change of the last BATCH_SECONDS
        on another node may be in both.
        """
        large = room.member_count > NAMED
        count, members = 0, list[UUID]()
        if self._presence.elsewhere and large:
            count = await self._count_of(room)
        elif self._presence.elsewhere:
            async with self._database.acquire() as conn:
                members = await rooms.member_ids(conn, room.id)
        if session.rooms.get(room.id) is not room:
            return None
        self._hub.open_room(session, room.id)
        found = online_in(self._hub, room) | {user_id for user_id in members if self.is_online(user_id)}
        return Online(max(count, len(found)), None if large else tuple(sorted(found)))

    async def _count_of(self, room: Room) -> int:
        """How many are online in a large room, a second ago or less: thousands may open it in that second."""
        now = asyncio.get_running_loop().time()
        if room.counted is None or now - room.counted[0] > COUNT_INTERVAL:
            room.counted = now, asyncio.create_task(self._count(room.id))
        else:
            self._presence.count_soon(room.id)  # if that is not true any more, it is told
        return await asyncio.shield(room.counted[1])

    async def _count(self, room_id: UUID) -> int:
        async with self._database.acquire() as conn:
            members = await rooms.member_ids(conn, room_id)
        return sum(map(self.is_online, members))

    # --- telling -----------------------------------------------------------------------------

    def _count_later(self, room_ids: set[UUID]) -> None:
        self._counting |= room_ids
        self._wanted.set()

    async def tell_forever(self) -> Never:
        """Tells what only the database can say, gathered for a moment."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            await asyncio.sleep(BATCH_SECONDS)
            try:
                await self.tell()
            except ChatError:
                self._wanted.set()
                await asyncio.sleep(AGAIN)

    async def tell(self) -> None:
        """Tells all that waits. Raises ChatError when the database is away; it goes on waiting then."""
        waiting = self._presence.waiting
        while waiting:
            self._presence.looking = set(islice(waiting, BATCH))
            waiting -= self._presence.looking
            try:
                await self._tell_of(self._presence.looking)
            except BaseException:
                waiting |= self._presence.looking
                raise
            finally:
                self._presence.looking = set()
        await self._tell_counts()

    async def _tell_of(self, user_ids: set[UUID]) -> None:
        async with self._database.acquire() as conn:
            found = await online.belongings(conn, user_ids)
            unsized = {room_id for user in found for room_id in user.chatroom_ids if self._presence.unsized(room_id)}
            sizes = await online.sizes(conn, unsized) if unsized else {}
        for room_id, size in sizes.items():
            if (room := self._hub.rooms.get(room_id)) is not None:
                room.member_count = size
        for user in found:
            if user.user_id not in self._presence.waiting:  # else there is newer to tell
                self._presence.tell(*user)

    async def _tell_counts(self) -> None:
        """One room after the other, so that many large ones do not keep the database from its work."""
        while self._counting:
            room_id = next(iter(self._counting))
            count = await self._count(room_id)
            self._counting.discard(room_id)
            if (room := self._hub.rooms.get(room_id)) is not None:
                self._presence.tell_count(room, count)
