"""A node that was paused asks what it has lost before it does anything more."""

from __future__ import annotations

import asyncio
import time

from gateway.fence import STALL, PauseFence


class Redis:
    """Answers when it is told to."""

    def __init__(self) -> None:
        self.asked: list[float] = []
        self.answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    async def ask(self, pause: float) -> bool:
        """What was lost in the pause."""
        self.asked.append(pause)
        return await self.answer


def fence_on(redis: Redis) -> PauseFence:
    """A fence that asks it."""
    fence = PauseFence()
    fence.ask_by(redis.ask)
    return fence


async def test_busy() -> None:
    """A loop that goes round is not asked about."""
    redis = Redis()
    fence = fence_on(redis)
    watch = asyncio.create_task(fence.watch_forever())
    for _ in range(5):
        await asyncio.sleep(0.01)
        assert fence.clear
    watch.cancel()
    assert not redis.asked


async def test_pause() -> None:
    """After a pause the very first look says no, until it is known what was lost; then work that waited goes on."""
    redis = Redis()
    fence = fence_on(redis)
    time.sleep(STALL + 0.1)  # noqa: ASYNC251  # this is the pause
    assert not fence.clear
    called: list[str] = []
    fence.then(lambda: called.append("then"))
    waiting = asyncio.create_task(fence.passed())
    await asyncio.sleep(0.05)
    assert not waiting.done()
    assert not called
    assert not fence.clear
    assert len(redis.asked) == 1
    assert redis.asked[0] > STALL
    redis.answer.set_result(True)
    await asyncio.wait_for(waiting, 5)
    assert called == ["then"]
    assert fence.losses == 1


async def test_nothing_lost() -> None:
    """When nothing was claimed meanwhile, what was begun may be committed."""
    redis = Redis()
    fence = fence_on(redis)
    redis.answer.set_result(False)
    time.sleep(STALL + 0.1)  # noqa: ASYNC251  # this is the pause
    await asyncio.wait_for(fence.passed(), 5)
    assert fence.losses == 0


async def test_paused_again() -> None:
    """An answer that came before another pause says nothing about that one: it is asked again."""
    redis = Redis()
    fence = fence_on(redis)
    time.sleep(STALL + 0.1)  # noqa: ASYNC251  # this is the pause
    assert not fence.clear
    await asyncio.sleep(0.05)
    assert len(redis.asked) == 1
    time.sleep(STALL + 0.2)  # noqa: ASYNC251  # the other one
    redis.answer.set_result(False)
    assert not fence.clear
    await asyncio.wait_for(fence.passed(), 5)
    assert len(redis.asked) == 2
    assert redis.asked[1] > STALL + 0.1
