"""Redis dies, forgets, falls silent and loses messages: it carries hints, so nobody notices but by a short delay."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from bench.faults.history import Ack, Delivery
from bench.faults.load import Load
from bench.faults.proxy import Proxy
from tests.faults.cluster import Cluster, until
from tests.faults.conftest import MakeCluster
from tests.valkey import Valkey

pytestmark = pytest.mark.timeout(240)

REPAIRED = 5.0
"""Seconds by which an event is delivered whose hint was lost: the promise. Twice that is given to a busy machine."""
BEFORE = 40
"""Messages that are acked before, within and after each fault."""


def _slowest(load: Load) -> float:
    """The longest time from an ack to a delivery of the same message."""
    acked = {(ack.room, ack.seq): ack.at for ack in load.history.of(Ack)}
    return max(event.at - acked.get((event.room, event.seq), event.at) for event in load.history.of(Delivery))


async def _killed(made: Cluster, valkey: Valkey, load: Load, seconds: float) -> None:
    """It is gone for a while, and comes back empty."""
    valkey.kill()
    await load.acked(BEFORE)
    valkey.start()


async def _flushed(made: Cluster, valkey: Valkey, load: Load, seconds: float) -> None:
    """It forgets leases and claims; subscriptions stay."""
    valkey.flush()
    await load.acked(BEFORE)


async def _black_hole(made: Cluster, valkey: Valkey, load: Load, seconds: float) -> None:
    """Nothing that goes there arrives, and nothing comes back, on links that stay open."""
    for proxy in _redis(made):
        proxy.faults.black_hole = True
    async with asyncio.timeout(seconds + 60):
        await asyncio.gather(asyncio.sleep(seconds), load.acked(BEFORE))
    for proxy in _redis(made):
        await proxy.heal()


async def _losing(made: Cluster, valkey: Valkey, load: Load, seconds: float) -> None:
    """One publish in ten reaches nobody."""
    kinds = [node.losing for node in made.nodes if node.losing]
    for losing in kinds:
        losing.share = 0.1
    await load.acked(5 * BEFORE)
    await until(lambda: not sum(losing.lost for losing in kinds))
    for losing in kinds:
        losing.share = 0.0


async def _reply_lost(made: Cluster, valkey: Valkey, load: Load, seconds: float) -> None:
    """A publish is heard by all, and its reply by nobody: sent again, it would be there twice."""
    lost = [proxy.drop_reply(b"PUBLISH") for proxy in _redis(made)]
    for trigger in lost:
        await asyncio.wait_for(trigger.fired.wait(), 60)
    await load.acked(BEFORE)
    for proxy in _redis(made):
        await proxy.heal()


def _redis(made: Cluster) -> list[Proxy]:
    return [node.redis for node in made.nodes if node.redis]


Fault = Callable[[Cluster, Valkey, Load, float], Awaitable[None]]
FAULTS: list[Fault] = [_killed, _flushed, _black_hole, _losing, _reply_lost]

LONG = pytest.param(30.0, marks=[pytest.mark.faults, pytest.mark.timeout(600)])


@pytest.mark.parametrize("seconds", [6.0, LONG])
async def test_redis_may_lose_anything(cluster: MakeCluster, valkey: Valkey, seconds: float) -> None:
    """Killed, flushed, black-holed, with a tenth of its messages lost, and a reply lost: all events come, on time."""
    made = await cluster(2, redis=True)
    load = await made.load()
    await made.note_levels()
    async with load.running():
        for fault in FAULTS:
            await load.acked(BEFORE)
            await fault(made, valkey, load, seconds)
        await load.acked(BEFORE)
    await made.judge(load)
    assert _slowest(load) < 2 * REPAIRED
    assert made.balancer.accepted == len(made.people), "somebody had to connect again"
