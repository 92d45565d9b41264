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


class Counting(Repair):
    """Finds the events after a seq, and counts how often it looked."""

    def __init__(self, hub: Hub) -> None:
        super().__init__(hub, LocalBus(), cast("Any", None), cast("Any", None))
        self.looks = 0

    async def _read(self, after: dict[UUID, int]) -> dict[UUID, list[CommittedEvent]]:
        self.looks += 1
        return {ROOM: [event(seq) for seq in range(after[ROOM] + 1, 6)]}


async def _repaired(world: World) -> None:
    async with asyncio.timeout(10):
        while world.hub.rooms[ROOM].repairing:
            await asyncio.sleep(0.01)


async def test_a_gap_that_closes_by_itself() -> None:
    """Two nodes tell of their commits side by side: what comes early waits for the rest, and nothing is read."""
    world = World()
    session, _ = world.member(0)
    repair = Counting(world.hub)
    for seq in (1, 3, 4, 2, 5):
        world.hub.deliver([event(seq)])
    await _repaired(world)
    assert (world.hub.rooms[ROOM].head, world.hub.rooms[ROOM].early, repair.looks) == (5, {}, 0)
    assert session.sent == 5


async def test_a_gap_that_stays() -> None:
    """What does not come is read, and what came early is delivered once."""
    world = World()
    session, _ = world.member(0)
    repair = Counting(world.hub)
    for seq in (1, 3, 4):
        world.hub.deliver([event(seq)])
    await _repaired(world)
    assert (world.hub.rooms[ROOM].head, world.hub.rooms[ROOM].early, repair.looks) == (5, {}, 1)
    assert session.sent == 5


async def test_who_asks_does_not_wait() -> None:
    """A sweep that finds the room behind reads, also while an early event waits."""
    world = World()
    world.member(0)
    repair = Counting(world.hub)
    for seq in (1, 3):
        world.hub.deliver([event(seq)])
    room = world.hub.rooms[ROOM]
    repair.fill_soon(room)
    world.hub.deliver([event(2)])
    await _repaired(world)
    assert (room.head, repair.looks) == (5, 1)


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
