"""Messages to Redis that could not be sent are given up and counted, whatever the driver calls the failure."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from redis.exceptions import ConnectionError as Lost

from storage import publisher
from storage.publisher import Publisher


class Redis:
    """Fails once, with this; then it takes everything."""

    def __init__(self, *errors: Exception) -> None:
        self._errors = list(errors)
        self.taken: list[bytes] = []
        self.batches: list[int] = []

    def pipeline(self, *, transaction: bool) -> Redis:
        """Commands are kept until they are executed."""
        self._kept: list[bytes] = []
        return self

    def publish(self, channel: bytes, data: bytes) -> None:
        """One of them."""
        self._kept.append(data)

    async def execute(self) -> None:
        """All of them, or the failure."""
        if self._errors:
            raise self._errors.pop()
        self.taken += self._kept
        self.batches.append(sum(map(len, self._kept)))


@pytest.mark.parametrize(
    "error", [Lost("refused"), OSError("reset"), RuntimeError("unable to perform operation; the handler is closed")]
)
async def test_a_failure_is_counted_and_the_next_message_goes(error: Exception, monkeypatch: Any) -> None:
    """Nothing is sent twice, and the publisher goes on."""
    monkeypatch.setattr(publisher, "REST", 0.0)
    redis, counts = Redis(error), {"sent": 0, "dropped": 0}

    def count(what: str, number: int) -> None:
        counts[what] += number

    made = Publisher(redis, lambda n: count("sent", n), lambda n: count("dropped", n))  # type: ignore[arg-type]
    running = asyncio.create_task(made.run())
    made.put(b"room", b"lost")
    async with asyncio.timeout(10):
        while not counts["dropped"]:
            await asyncio.sleep(0)
        made.put(b"room", b"heard")
        while not counts["sent"]:
            await asyncio.sleep(0)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert redis.taken == [b"heard"]
    assert counts == {"sent": 1, "dropped": 1}


async def test_large_messages(monkeypatch: Any) -> None:
    """Large messages wait only up to so many bytes, the newest of them, and go in pipelines of bounded size."""
    monkeypatch.setattr(publisher, "QUEUE_BYTES", 10_000)
    monkeypatch.setattr(publisher, "BATCH_BYTES", 2_000)
    redis, dropped = Redis(), [0]

    def drop(number: int) -> None:
        dropped[0] += number

    made = Publisher(redis, lambda _: None, drop)  # type: ignore[arg-type]
    messages = [bytes([number]) * 1_000 for number in range(25)]
    for message in messages:
        made.put(b"node", message)
    assert dropped == [15]
    running = asyncio.create_task(made.run())
    async with asyncio.timeout(10):
        while len(redis.taken) < 10:
            await asyncio.sleep(0)
        made.put(b"node", b"small")
        while len(redis.taken) < 11:
            await asyncio.sleep(0)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert redis.taken == [*messages[15:], b"small"]
    assert max(redis.batches) == 2_000
