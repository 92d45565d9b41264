"""Messages on their way to Redis: pipelined, in order, never sent twice."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Never

from storage.redis_client import AWAY, Cluster, RedisClient

log = logging.getLogger(__name__)

QUEUE = 10_000
"""Messages that may wait; beyond that the oldest are dropped: they are hints, and late ones help least."""
BATCH = 500
"""Messages in one pipeline."""
REST = 0.2
"""Seconds without an attempt after one has failed."""


class Publisher:
    """Sends messages. `dropped` is told how many were given up."""

    def __init__(self, redis: RedisClient, sent: Callable[[int], None], dropped: Callable[[int], None]) -> None:
        self._redis = redis
        self._sharded = isinstance(redis, Cluster)
        self._sent = sent
        self._dropped = dropped
        self._queue: deque[tuple[bytes, bytes]] = deque()
        self._waiting = asyncio.Event()

    def put(self, channel: bytes, data: bytes) -> None:
        """Queues a message."""
        if len(self._queue) >= QUEUE:
            self._queue.popleft()
            self._dropped(1)
        self._queue.append((channel, data))
        self._waiting.set()

    async def run(self) -> Never:
        """Sends what comes, for ever."""
        while True:
            await self._waiting.wait()
            while self._queue:
                await self._send([self._queue.popleft() for _ in range(min(BATCH, len(self._queue)))])
            self._waiting.clear()

    async def _send(self, batch: list[tuple[bytes, bytes]]) -> None:
        pipeline = self._redis.pipeline(transaction=False)
        publish = pipeline.spublish if self._sharded else pipeline.publish
        for channel, data in batch:
            publish(channel, data)
        try:
            await pipeline.execute()
        except AWAY as error:
            # Whether the server took them is not known. Sending them again could only repeat them.
            self._dropped(len(batch) + len(self._queue))
            self._queue.clear()
            log.debug("could not publish", extra={"error": str(error)})
            await asyncio.sleep(REST)
        else:
            self._sent(len(batch))
