"""Buckets that nodes share, in a real Valkey, and what happens when it is away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from gateway.rates import Rates
from storage.buckets import PAUSE, SharedBuckets
from storage.redis_client import RedisClient, connect
from tests.valkey import Valkey


class Clock:
    """Seconds, set by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """What it shows."""
        return self.now


class Counting:
    """Does what another does, and counts."""

    def __init__(self, take: Callable[..., Any]) -> None:
        self._take = take
        self.count = 0

    def __call__(self, **given: Any) -> Any:
        """One more."""
        self.count += 1
        return self._take(**given)


@pytest.fixture
async def redis(valkey: Valkey) -> AsyncIterator[RedisClient]:
    """A client of a Valkey that is empty."""
    client = connect(valkey.url)
    yield client
    await client.aclose()


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis has all the time it wants, for tests that are not about that."""
    monkeypatch.setattr("storage.buckets.PATIENCE", 20.0)


@pytest.mark.usefixtures("patient")
async def test_nodes_share_a_bucket(redis: RedisClient) -> None:
    """Of thirty requests at two nodes six are allowed, as many as at one. Another key is another bucket."""
    one, other = SharedBuckets(redis, 6), SharedBuckets(redis, 6)
    taken = await asyncio.gather(*((one, other)[n % 2].take("ada") for n in range(30)))
    assert sum(t is not None and t.allowed for t in taken) == 6
    left = await one.take("bob")
    assert left is not None
    assert left.allowed
    assert left.reset == pytest.approx(10.0, abs=1e-3)


@pytest.mark.usefixtures("patient")
async def test_a_bucket_fills_by_the_clock_of_redis(redis: RedisClient) -> None:
    """What was taken comes back evenly, whatever the clocks of the nodes say; then the key is gone."""
    buckets = SharedBuckets(redis, 600, clock=lambda: -1e9)
    while (taken := await buckets.take("ada")) and taken.allowed:
        pass
    assert taken is not None
    assert 59.8 < taken.reset <= 60
    assert 30_000 < await redis.pttl("parley:bucket:ada") <= 60_001
    await asyncio.sleep(0.2)
    again = await buckets.take("ada")
    assert again is not None
    assert again.allowed


@pytest.mark.usefixtures("patient")
async def test_a_full_bucket_is_none(redis: RedisClient) -> None:
    """The key of a bucket lives until it is full, and then takes no place."""
    buckets = SharedBuckets(redis, 6_000)
    assert (await buckets.take("ada")) is not None
    async with asyncio.timeout(10):
        while await redis.exists("parley:bucket:ada"):
            await asyncio.sleep(0.01)


@pytest.mark.usefixtures("patient")
async def test_a_bucket_from_the_future(redis: RedisClient) -> None:
    """After Redis moved to a machine whose clock is behind, a bucket is at most empty; nobody waits for hours."""
    await redis.set("parley:bucket:ada", 4_000_000_000_000_000)
    buckets = SharedBuckets(redis, 60)
    taken = await buckets.take("ada")
    assert taken == (False, 60.0)


@pytest.mark.usefixtures("patient")
async def test_any_limit_works(redis: RedisClient) -> None:
    """One a minute, and as many as nobody could send."""
    for per_minute in (1, 10**9):
        buckets = SharedBuckets(redis, per_minute)
        first, second = await buckets.take(f"ada {per_minute}"), await buckets.take(f"ada {per_minute}")
        assert first is not None
        assert first.allowed
        assert second is not None
        assert second.allowed is (per_minute > 1)


@pytest.mark.usefixtures("patient")
async def test_redis_forgets_the_script(redis: RedisClient, valkey: Valkey) -> None:
    """A Redis that was restarted or flushed is given the script again."""
    buckets = SharedBuckets(redis, 60)
    assert await buckets.take("ada")
    valkey.flush()
    assert await buckets.take("ada")


async def test_a_silent_redis_costs_one_request_a_second_its_patience(redis: RedisClient, valkey: Valkey) -> None:
    """Nobody is told anything, those who ask at once wait once, and within the next second nobody asks."""
    clock = Clock()
    buckets = SharedBuckets(redis, 60, clock)
    valkey.pause()
    asked = Counting(buckets._take)
    buckets._take = asked
    assert await asyncio.gather(*(buckets.take("ada") for _ in range(4))) == [None] * 4
    assert asked.count == 4
    clock.now += PAUSE - 0.01
    assert await asyncio.gather(*(buckets.take("ada") for _ in range(4))) == [None] * 4
    assert asked.count == 4
    clock.now += 0.02
    assert await asyncio.gather(*(buckets.take("ada") for _ in range(4))) == [None] * 4
    assert asked.count == 5
    valkey.resume()


async def test_redis_comes_back(redis: RedisClient, valkey: Valkey, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed and started anew, it is asked again after a second, and counts from then on."""
    clock = Clock()
    buckets = SharedBuckets(redis, 60, clock)
    valkey.kill()
    assert await buckets.take("ada") is None
    valkey.start()
    monkeypatch.setattr("storage.buckets.PATIENCE", 20.0)
    assert await buckets.take("ada") is None
    clock.now += PAUSE
    first, second = await buckets.take("ada"), await buckets.take("ada")
    assert first is not None
    assert second is not None
    assert second.reset > first.reset


async def test_without_redis_the_node_decides_from_where_the_shared_bucket_was(
    redis: RedisClient, valkey: Valkey, patient: None
) -> None:
    """What other nodes have taken is known here from the last answer; a silent Redis is no new bucket."""
    clock = Clock()
    rates = Rates(6, clock, SharedBuckets(redis, 6, clock).take)
    elsewhere = SharedBuckets(redis, 6)
    for _ in range(3):
        await elsewhere.take("ada")
    before = await rates.take("ada")
    assert (before.allowed, before.limit, before.retry_after) == (True, 6, 0.0)
    assert before.remaining == 2
    valkey.kill()
    after = [await rates.take("ada") for _ in range(3)]
    assert [(allowance.allowed, allowance.remaining) for allowance in after] == [(True, 1), (True, 0), (False, 0)]
    assert 0 < after[2].retry_after <= 10
