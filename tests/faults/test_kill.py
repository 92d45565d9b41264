"""kill -9 of nodes at random moments, under load."""

from __future__ import annotations

import asyncio
import random

import pytest

from tests.faults.cluster import Cluster
from tests.faults.conftest import MakeCluster

pytestmark = pytest.mark.timeout(240)

LONG = pytest.param(200, marks=[pytest.mark.faults, pytest.mark.timeout(3600)])


async def _kill_and_restart(made: Cluster, dice: random.Random) -> None:
    server = dice.choice(made.servers)
    await asyncio.sleep(dice.uniform(0.0, 0.2))
    await server.kill()
    await server.start()
    await made.spread()


@pytest.mark.parametrize("kills", [20, LONG])
async def test_two_nodes(cluster: MakeCluster, dice: random.Random, kills: int) -> None:
    """Two nodes are killed at random moments: nothing is lost, repeated, out of order or left behind."""
    made = await cluster(2)
    load = await made.load(rate=80.0)
    await made.note_levels()
    async with load.running():
        for number in range(kills):
            if number % 5 == 4:
                await load.read()  # what is in history once has to stay there
            await load.acked(dice.choice([0, 1, 20]))
            await _kill_and_restart(made, dice)
    report = await made.judge(load)
    assert report.resumes > 0, "no session was ever resumed"
    assert report.syncs > 0, "no session was ever lost"
