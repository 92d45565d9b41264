"""Three nodes are restarted one after the other, under load, as an upgrade does it."""

from __future__ import annotations

import time

import pytest

from tests.faults.cluster import until
from tests.faults.conftest import MakeCluster

pytestmark = pytest.mark.timeout(240)

GAP = 3.0
"""Seconds without an event, at most, for 99 of 100 clients and restarts."""

LONG = pytest.param(10, 200.0, GAP, marks=[pytest.mark.faults, pytest.mark.timeout(3600)])


@pytest.mark.parametrize(("times", "rate", "gap"), [(1, 50.0, None), LONG])
async def test_rolling_restart(cluster: MakeCluster, times: int, rate: float, gap: float | None) -> None:
    """Nothing is lost; in the long run, with 200 messages a second, no client goes without an event for long.

    How long is not measured in the short one: a busy machine has gaps of its own.
    """
    made = await cluster(3, settings={"PARLEY_DRAIN": "3"})
    load = await made.load(members=9, rate=rate)
    await made.note_levels()
    gaps: list[float] = []
    async with load.running():
        await load.acked(50)
        for _ in range(times):
            for server in made.servers:
                began = time.monotonic()
                await server.stop()
                await server.start()
                await until(lambda: len(made.balancer.ready) < 3 and "not every node is ready")
                await load.acked(50)
                gaps += load.history.longest_silence(began, time.monotonic()).values()
    await made.judge(load)
    if gap is not None:
        assert sorted(gaps)[int(len(gaps) * 0.99)] < gap
