"""PostgreSQL goes away, or falls silent, under two nodes."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.e2e.socket_client import socket_client
from tests.e2e.test_postgres_restart import Postgres
from tests.faults.cluster import Cluster, metric
from tests.faults.conftest import MakeCluster

pytestmark = pytest.mark.timeout(240)

LAG = 0.1
"""Seconds that the event loop may be late while the database is silent."""


@pytest.fixture
async def postgres(tmp_path: Path) -> AsyncIterator[Postgres]:
    """A server of this test's own."""
    made = Postgres(tmp_path / "own")
    yield made
    await made.stop()


@pytest.mark.parametrize("times", [3, pytest.param(10, marks=pytest.mark.faults)])
async def test_restarts(cluster: MakeCluster, postgres: Postgres, times: int) -> None:
    """Its immediate shutdown, as in a crash, again and again: what was acked is there, and everybody hears it."""
    made = await cluster(2, database=await postgres.start())
    load = await made.load()
    await made.note_levels()
    async with load.running():
        for _ in range(times):
            await load.acked(40)
            await postgres.shut_down(signal.SIGQUIT)
            await postgres.start()
        await load.acked(40)
    await made.judge(load)


async def _lags(made: Cluster) -> tuple[float, float]:
    """How often the loops were looked at, and how often they were late."""
    texts = [await node.metrics() for node in made.nodes]
    looks = sum(metric(text, "parley_loop_lag_seconds_count") for text in texts)
    return looks, looks - sum(metric(text, f'parley_loop_lag_seconds_bucket{{le="{LAG}"}}') for text in texts)


@pytest.mark.parametrize(
    ("seconds", "late"), [(3.0, 0.9), pytest.param(20.0, 0.0, marks=[pytest.mark.faults, pytest.mark.timeout(240)])]
)
async def test_silence(cluster: MakeCluster, seconds: float, late: float) -> None:
    """Nothing comes from it for a while: pings are answered, loops are on time, and then it all goes on.

    A share of the looks at the loops may find them late: none in the long run, most on a machine with other work.
    """
    made = await cluster(2, postgres=True)
    load = await made.load()
    await made.note_levels()
    async with load.running(), socket_client(made.nodes[0].server) as pinging:
        await pinging.authenticate(made.people[0].token)
        await load.acked(40)
        before = await _lags(made)
        for node in made.nodes:
            assert node.postgres
            node.postgres.faults.stalled = True
        deadline = asyncio.get_running_loop().time() + seconds
        while asyncio.get_running_loop().time() < deadline:
            await pinging.send("ping", {})
            await pinging.until("pong")
            await asyncio.sleep(0.1)
        after = await _lags(made)
        for node in made.nodes:
            assert node.postgres
            node.postgres.faults.stalled = False
        await load.acked(40)
    looks, found = (now - then for now, then in zip(after, before, strict=True))
    assert looks >= 2 * seconds
    assert found <= late * looks
    await made.judge(load)
