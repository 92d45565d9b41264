"""A bad network between clients and two nodes: sessions are cut anywhere, and go on on either node."""

from __future__ import annotations

import asyncio
import random

import pytest

from bench.faults.chaos import Chaos
from tests.faults.conftest import MakeCluster

pytestmark = pytest.mark.timeout(240)

LONG = pytest.param(120.0, marks=[pytest.mark.faults, pytest.mark.timeout(600)])


@pytest.mark.parametrize("seconds", [5.0, LONG])
async def test_bad_network(cluster: MakeCluster, dice: random.Random, seconds: float) -> None:
    """Latency, stalls, black holes, resets, half-closes, cuts, lost answers and slices: nobody misses anything."""
    made = await cluster(2)
    load = await made.load()
    await made.note_levels()
    async with load.running():
        await load.acked(20)
        breaking = asyncio.create_task(Chaos([made.balancer], dice).run())
        await asyncio.wait({breaking}, timeout=seconds)
        assert not breaking.done()
        breaking.cancel()
        await asyncio.gather(breaking, return_exceptions=True)
        await made.balancer.heal()
        await load.acked(20)
    report = await made.judge(load)
    assert report.resumes > 0
