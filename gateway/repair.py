"""Finds durable events that were committed but never delivered here, and delivers them from the database.

It happens when the answer to a COMMIT was lost, or the hint of another node. A gap in a room's seq is filled
at once; the sweep finds what no later event has betrayed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine
from typing import Any
from uuid import UUID

from gateway.hub import Hub
from gateway.room import Room
from protocol.errors import ChatError
from storage import events
from storage.bus import Bus
from storage.database import Database
from storage.events import CommittedEvent
from storage.room_keys import RoomKeys

log = logging.getLogger(__name__)

SWEEP = 2.0
"""Seconds between sweeps: one query for all live rooms. The promise is 5 s from loss to delivery."""
BATCH = 500
"""Events read at once."""
UNDER_WAY = 0.05
"""Seconds without progress after which a missing event is read from the database. Two nodes that write into a chatroom
by turns tell of it side by side, so most events that are missing are here a moment later."""


class Repair:
    """Fills gaps for one hub."""

    def __init__(self, hub: Hub, bus: Bus, database: Database, room_keys: RoomKeys) -> None:
        self._hub = hub
        self._bus = bus
        self._database = database
        self._room_keys = room_keys
        self._tasks: set[asyncio.Task[None]] = set()
        self._doubts: dict[UUID, int] = {}
        self._patient: set[Room] = set()
        self._sweep_now = asyncio.Event()
        hub.on_gap = self.mind_gap

    def mind_gap(self, room: Room) -> None:
        """An event came too early. Those before it are filled in when they do not come by themselves in a moment."""
        if not room.repairing:
            self._patient.add(room)
        self._begin(room, self._wait_and_fill)

    def fill_soon(self, room: Room) -> None:
        """Begins to fill a room, unless that is under way."""
        self._patient.discard(room)
        self._begin(room, self._fill)

    def _begin(self, room: Room, fill: Callable[[Room], Coroutine[Any, Any, None]]) -> None:
        if room.repairing:
            return
        room.repairing = True
        task = asyncio.create_task(fill(room))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def doubt(self, heads: dict[UUID, int]) -> None:
        """Events after these seqs may have been committed unheard; the next sweep looks."""
        for chatroom_id, seq in heads.items():
            self._doubts[chatroom_id] = min(seq, self._doubts.get(chatroom_id, seq))

    async def sweep_forever(self) -> None:
        """Compares every live room's head with the database's, again and again."""
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._sweep_now.wait(), SWEEP)
            self._sweep_now.clear()
            with contextlib.suppress(ChatError):
                await self.sweep()

    def sweep_soon(self) -> None:
        """Hints were missed: looks now rather than in its time."""
        self._sweep_now.set()

    async def sweep(self) -> None:
        """One comparison. Raises ChatError when the database is away."""
        await self._resolve_doubts()
        behind = [room for room in self._hub.rooms.values() if room.head is not None]
        if not behind:
            return
        async with self._database.acquire() as conn:
            heads = await events.heads(conn, [room.id for room in behind])
        for room in behind:
            if room.head is not None and heads.get(room.id, 0) > room.head:
                self.fill_soon(room)

    async def _resolve_doubts(self) -> None:
        """The hub drops what it has delivered already; newcomers to a room hear of it here."""
        doubts = dict(self._doubts)
        for chatroom_id, found in (await self._read(doubts)).items():
            log.info("found events of a commit in doubt", extra={"chatroom_id": str(chatroom_id), "events": len(found)})
            self._hub.deliver(found)
        for chatroom_id, seq in doubts.items():
            if self._doubts.get(chatroom_id) == seq:
                del self._doubts[chatroom_id]

    async def _read(self, after: dict[UUID, int]) -> dict[UUID, list[CommittedEvent]]:
        if not after:
            return {}
        return await events.read_after(self._database, self._room_keys, after, BATCH)

    async def _wait_and_fill(self, room: Room) -> None:
        head: int | None = -1
        while room.early and room.head != head and room in self._patient:  # as long as events come, this one may
            head = room.head
            await asyncio.sleep(UNDER_WAY)
        asked = room not in self._patient
        self._patient.discard(room)
        if room.early or asked:
            await self._fill(room)
        else:
            room.repairing = False

    async def _fill(self, room: Room) -> None:
        try:
            await self._bus.heard([room.id])  # else what is committed between the look and that would be missed
            while room.head is not None and self._hub.rooms.get(room.id) is room:
                missing = (await self._read({room.id: room.head})).get(room.id, [])
                self._hub.deliver([event for event in missing if event.seq > room.head])
                if len(missing) < BATCH:
                    return
        except ChatError as error:
            log.warning("a gap could not be filled yet", extra={"chatroom_id": str(room.id), "code": error.code})
        finally:
            room.repairing = False
