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
QUEUE_BYTES = 64 << 20
"""Bytes of them that may wait: a session on its way may be a megabyte."""
BATCH = 500
"""Messages in one pipeline."""
BATCH_BYTES = 1 << 20
"""Bytes after which a pipeline is full. Redis cuts a subscriber off that has 32 MB to read, if not set otherwise."""
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
        self._queued = 0  # bytes
        self._waiting = asyncio.Event()

    def put(self, channel: bytes, data: bytes) -> None:
        """Queues a message."""
        self._queue.append((channel, data))
        self._queued += len(data)
        while len(self._queue) > QUEUE or self._queued > QUEUE_BYTES:
            self._next()
            self._dropped(1)
        self._waiting.set()

    def _next(self) -> tuple[bytes, bytes]:
        message = self._queue.popleft()
        self._queued -= len(message[1])
        return message

    async def run(self) -> Never:
        """Sends what comes, for ever."""
        while True:
            await self._waiting.wait()
            while self._queue:
                await self._send(self._batch())
            self._waiting.clear()

    def _batch(self) -> list[tuple[bytes, bytes]]:
        batch: list[tuple[bytes, bytes]] = []
        size = 0
        while self._queue and len(batch) < BATCH and size < BATCH_BYTES:
            batch.append(self._next())
            size += len(batch[-1][1])
        return batch

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
            self._queued = 0
            log.debug("could not publish", extra={"error": str(error)})
            await asyncio.sleep(REST)
        else:
            self._sent(len(batch))
