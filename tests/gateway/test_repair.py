"""Gaps are filled from the database, as long as somebody hears the room."""

from __future__ import annotations

import asyncio
from typing import Any, cast
from uuid import UUID

from gateway.hub import Hub
from gateway.repair import BATCH, Repair
from gateway.session import Session
from storage.bus import LocalBus
from storage.events import CommittedEvent
from tests.gateway.hub_world import ROOM, World, event


class LongGap(Repair):
    """There are always more events to read; the only one who hears the room leaves during the first look."""

    def __init__(self, hub: Hub, session: Session) -> None:
        super().__init__(hub, LocalBus(), cast("Any", None), cast("Any", None))
        self.session = session
        self.looks = 0

    async def _read(self, after: dict[UUID, int]) -> dict[UUID, list[CommittedEvent]]:
        self.looks += 1
        assert self.looks < 3
        await asyncio.sleep(0)
        self._hub.forget(self.session)
        return {ROOM: [event(after[ROOM] + number) for number in range(1, BATCH + 1)]}


async def test_everyone_has_left() -> None:
    """Filling a room ends when nobody hears it any more, however much is missing."""
    world = World()
    session, _ = world.member(0)
    repair = LongGap(world.hub, session)
    room = world.hub.rooms[ROOM]
    repair.fill_soon(room)
    async with asyncio.timeout(5):
        while room.repairing:
            await asyncio.sleep(0)
    assert repair.looks == 1
