"""Leases and claims in a real Redis: who lives, and whose a session is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from uuid import UUID, uuid4

import pytest

from storage import leases
from storage.leases import Leases
from storage.redis_client import RedisClient, connect
from tests.valkey import Valkey

DIGEST = bytes(range(16))


@pytest.fixture
async def redis(valkey: Valkey) -> AsyncIterator[RedisClient]:
    """A client of an empty Redis."""
    async with AsyncExitStack() as stack:
        client = connect(valkey.url)
        stack.push_async_callback(client.aclose)
        yield client


async def test_live(redis: RedisClient) -> None:
    """Nodes that beat know each other; one that leaves is gone at once."""
    one, two = Leases(redis, uuid4()), Leases(redis, uuid4())
    await one.look()
    assert one.live == frozenset()
    await two.look()
    await one.look()
    assert (one.live, two.live) == (frozenset({two.node_id}), frozenset({one.node_id}))
    await two.leave()
    await one.look()
    assert one.live == frozenset()


async def test_dead(redis: RedisClient) -> None:
    """A node whose last beat is too long ago, by Redis' clock, is dead."""
    one, dead = Leases(redis, uuid4()), uuid4()
    seconds, micros = await redis.time()
    await redis.hset("parley:leases", dead.hex, str((seconds - 6) * 1000 + micros // 1000))
    await one.look()
    assert one.live == frozenset()


async def test_lost_memory(redis: RedisClient) -> None:
    """A beat notices that Redis has lost everything since the one before."""
    one = Leases(redis, uuid4())
    assert [await one.beat(), await one.beat()] == [False, False]
    await redis.flushall()
    assert [await one.beat(), await one.beat()] == [True, False]


async def test_claims_are_numbered(redis: RedisClient) -> None:
    """Each claim learns the owner before it, and has a higher number."""
    home, other, third = (Leases(redis, uuid4()) for _ in range(3))
    assert await home.claim(home.node_id, DIGEST) == (home.node_id, 0)
    assert await home.claims_of(home.node_id) == {}
    assert await other.claim(home.node_id, DIGEST) == (home.node_id, 1)
    assert await third.claim(home.node_id, DIGEST) == (other.node_id, 2)
    assert await home.claim(home.node_id, DIGEST) == (third.node_id, 3)
    assert await home.claims_of(home.node_id) == {DIGEST: (home.node_id, 3)}


async def test_one_owner(redis: RedisClient) -> None:
    """Claims at the same moment form a chain: each number once, each but the last the former owner of another."""
    home = uuid4()
    nodes = [Leases(redis, uuid4()) for _ in range(20)]
    claims = await asyncio.gather(*(node.claim(home, DIGEST) for node in nodes))
    assert sorted(claim.fence for claim in claims) == list(range(1, 21))
    by_number = sorted(
        zip((c.fence for c in claims), (c.owner for c in claims), nodes, strict=True), key=lambda x: x[0]
    )
    former: UUID = home
    for _, owner, node in by_number:
        assert owner == former
        former = node.node_id


async def test_a_home_that_left(redis: RedisClient) -> None:
    """Who has a session stays known when its home has stopped in good order: it can move on from there."""
    home, one, two = (Leases(redis, uuid4()) for _ in range(3))
    await one.claim(home.node_id, b"digest")
    await home.leave()
    assert await two.claim(home.node_id, b"digest") == (one.node_id, 2)


async def test_changes(redis: RedisClient) -> None:
    """Claims are read again only when there are new ones; what is over is forgotten."""
    home, other = Leases(redis, uuid4()), Leases(redis, uuid4())
    assert await home.claims_of(home.node_id) == {}
    assert await home.claims_of(home.node_id) is None
    await other.claim(home.node_id, DIGEST)
    assert await home.claims_of(home.node_id) == {DIGEST: (other.node_id, 1)}
    assert await home.claims_of(home.node_id) is None
    assert await home.claims_of(home.node_id, anew=True) == {DIGEST: (other.node_id, 1)}
    await other.give_up(home.node_id, {DIGEST: 1})
    await other.claim(home.node_id, bytes(16))
    assert await home.claims_of(home.node_id) == {bytes(16): (other.node_id, 1)}


async def test_restore(redis: RedisClient) -> None:
    """An owner writes its claim again after Redis has lost it, and never over a newer one."""
    home, other, third = (Leases(redis, uuid4()) for _ in range(3))
    await other.restore(home.node_id, {DIGEST: 5})
    assert await third.claim(home.node_id, DIGEST) == (other.node_id, 6)
    await other.restore(home.node_id, {DIGEST: 5})
    assert await home.claims_of(home.node_id) == {DIGEST: (third.node_id, 6)}


async def test_give_up(redis: RedisClient) -> None:
    """Who gives up a session that somebody else has claimed since takes nothing away."""
    home, other, third = (Leases(redis, uuid4()) for _ in range(3))
    await other.claim(home.node_id, DIGEST)
    await third.claim(home.node_id, DIGEST)
    await other.give_up(home.node_id, {DIGEST: 1})
    assert await home.claims_of(home.node_id) == {DIGEST: (third.node_id, 2)}
    await third.give_up(home.node_id, {DIGEST: 2})
    assert await redis.hkeys(f"parley:claims:{home.node_id.hex}") == [b"changes"]


async def test_away(redis: RedisClient) -> None:
    """Redis is away once it has not answered for a while, and no longer when it answers."""
    one = Leases(redis, uuid4())
    assert not one.away
    one._heard_at -= 60 * leases.AWAY_AFTER
    assert one.away
    await one.look()
    assert not one.away
