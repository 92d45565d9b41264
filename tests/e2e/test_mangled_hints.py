"""Hints between nodes that are lost, repeated, late or out of order do no harm: readers hear all, once, in order."""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from storage.bus import LocalBus
from storage.events import CommittedEvent
from tests.e2e.node import Reader, running_node

MESSAGES = 300
LATEST = 0.2
"""Seconds that a hint is late at most."""


class MangledBus(LocalBus):
    """Tells its own node as it should, and the other one anyhow."""

    def __init__(self, chance: random.Random, lost: float, twice: float, late: float) -> None:
        super().__init__()
        self.other: LocalBus | None = None
        self._chance = chance
        self._lost, self._twice, self._late = lost, twice, late

    def publish(self, events: list[CommittedEvent]) -> None:
        """Each event is a hint of its own, and has a fate of its own."""
        super().publish(events)
        for event in events:
            for _ in range(1 + (self._chance.random() < self._twice)):
                if self._chance.random() >= self._lost:
                    self._send(event)

    def _send(self, event: CommittedEvent) -> None:
        assert self.other is not None
        later = self._chance.uniform(0, LATEST) if self._chance.random() < self._late else 0.0
        asyncio.get_running_loop().call_later(later, LocalBus.publish, self.other, [event])


@pytest.mark.parametrize(
    ("lost", "twice", "late"),
    [(0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (0.1, 0.0, 0.0), (1.0, 0.0, 0.0), (0.2, 0.5, 0.5)],
    ids=["repeated", "out of order", "a tenth lost", "all lost", "all of it"],
)
async def test_mangled(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: float, twice: float, late: float
) -> None:
    """Readers on two nodes, while senders on both write to the same chatrooms."""
    monkeypatch.setattr("gateway.repair.SWEEP", 0.3)
    chance = random.Random(7)
    buses = [MangledBus(chance, lost, twice, late) for _ in range(2)]
    buses[0].other, buses[1].other = buses[1], buses[0]
    async with AsyncExitStack() as stack:
        one, two = [await stack.enter_async_context(running_node(database_url, tmp_path, bus)) for bus in buses]
        sweeps = [asyncio.create_task(node.repair.sweep_forever()) for node in (one, two)]
        actor, token = await one.user("ann")
        rooms = [await one.room(actor) for _ in range(3)]
        readers = [Reader(node, token) for node in (one, two) for _ in range(3)]
        await asyncio.gather(*(reader.open() for reader in readers))
        for room in rooms:
            await asyncio.gather(*(node.services.room_keys.get(room) for node in (one, two)))
        for number in range(MESSAGES):
            chance.choice((one, two)).send(actor, chance.choice(rooms), str(number))
            if number % 10 == 0:
                await asyncio.sleep(0.005)
        await asyncio.gather(one.journal.drain(), two.journal.drain())
        async with asyncio.timeout(30):
            while any(sum(reader.next[room] - 2 for room in rooms) < MESSAGES for reader in readers):
                assert not any(reader.faults for reader in readers), [reader.faults[:3] for reader in readers]
                await asyncio.sleep(0.01)
        assert not any(reader.faults for reader in readers), [reader.faults[:3] for reader in readers]
        for sweep in sweeps:
            sweep.cancel()
