"""Token buckets that all nodes share, kept in Redis and filled by Redis' own clock.

A bucket is one number: when it will be full again. From that follows how much is in
it now (the generic cell rate algorithm: ITU-T I.371, annex A). A full bucket is the
same as none, so the key expires at that moment.

Redis may be away or slow. It gets 50 ms; after that it is left alone for a second,
and then asked by one request alone, so that its silence costs one of them 50 ms a second.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Any, NamedTuple

from storage.redis_client import AWAY, RedisClient

PATIENCE = 0.05
"""Seconds that Redis has to answer."""
PAUSE = 1.0
"""Seconds in which Redis is not asked after it has failed."""
AT_ONCE = 8
"""Questions under way together, each on a connection of its own; the others wait, within the same patience."""

_TAKE = """
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local most, each = tonumber(ARGV[1]), tonumber(ARGV[2])
local full = tonumber(redis.call('GET', KEYS[1]) or 0)
full = math.min(math.max(full, now), now + most * each)
if full - now > (most - 1) * each then
    return {0, full - now}
end
full = full + each
redis.call('SET', KEYS[1], string.format('%.0f', full), 'PX', math.ceil((full - now) / 1000 + 1))
return {1, full - now}
"""


class Taken(NamedTuple):
    """Whether there was one in the bucket, and the seconds until it is full."""

    allowed: bool
    reset: float


class SharedBuckets:
    """One bucket a key, each of `limit` and refilled evenly within `period` seconds."""

    def __init__(
        self, redis: RedisClient, limit: int, clock: Callable[[], float] = monotonic, period: float = 60.0
    ) -> None:
        self._take: Callable[..., Any] = redis.register_script(_TAKE)
        self._args = (limit, period * 1e6 / limit)
        self._clock = clock
        self._not_before: float | None = None  # while Redis has failed
        self._turns = asyncio.Semaphore(AT_ONCE)

    async def take(self, key: str) -> Taken | None:
        """Takes one out of the key's bucket, if there is one in it. None where Redis does not say; raises nothing."""
        if self._not_before is not None:
            if self._clock() < self._not_before:
                return None
            self._not_before = self._clock() + PAUSE  # this one finds out; nobody else asks meanwhile
        try:
            async with asyncio.timeout(PATIENCE), self._turns:
                allowed, micros = await self._take(keys=[f"parley:bucket:{key}"], args=self._args)
        except AWAY:
            self._not_before = self._clock() + PAUSE
            return None
        self._not_before = None
        return Taken(bool(allowed), micros / 1e6)
