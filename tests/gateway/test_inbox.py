"""Frames that wait: in order, bounded by not reading, and given up at once when the connection ends."""

from __future__ import annotations

import asyncio

from gateway.inbox import LIMIT, Inbox


class World:
    """A client of an inbox: `gate` lets one frame after the other through."""

    def __init__(self) -> None:
        self.gate = asyncio.Semaphore(0)
        self.taken: list[int] = []
        self.reading: list[bool] = []
        self.full = False
        self.ended = asyncio.Event()
        self.failure: Exception | None = None

    def inbox(self) -> Inbox[int]:
        """With one frame in it, number 0."""
        return Inbox(0, self._take, lambda: self.full, self.reading.append, self._done)

    async def _take(self, frame: int) -> None:
        await self.gate.acquire()
        if frame < 0:
            raise ValueError("broken")
        self.taken.append(frame)

    def _done(self, failure: Exception | None) -> None:
        self.failure = failure
        self.ended.set()

    async def let(self, frames: int) -> None:
        """Lets so many through."""
        for _ in range(frames):
            self.gate.release()
        for _ in range(4 * frames + 4):
            await asyncio.sleep(0)


async def test_one_after_the_other() -> None:
    """Each frame is done before the next begins; with the last the inbox is over."""
    world = World()
    inbox = world.inbox()
    inbox.put(1)
    inbox.put(2)
    await world.let(2)
    assert (world.taken, world.ended.is_set()) == ([0, 1], False)
    await world.let(1)
    assert (world.taken, world.ended.is_set(), world.failure) == ([0, 1, 2], True, None)


async def test_too_many_frames_are_not_read() -> None:
    """With the limit reached the socket is not read, until half of them are done."""
    world = World()
    inbox = world.inbox()
    await world.let(0)  # the first one is being worked on
    for number in range(1, LIMIT):
        inbox.put(number)
    assert world.reading == []
    inbox.put(LIMIT)
    assert world.reading == [False]
    await world.let(LIMIT // 2)
    assert world.reading == [False]
    await world.let(1)
    assert world.reading == [False, True]
    await world.let(LIMIT)
    assert world.taken == list(range(LIMIT + 1))


async def test_what_waits_is_given_up() -> None:
    """After `stop` the frame that is being worked on is finished, and no other is begun."""
    world = World()
    inbox = world.inbox()
    inbox.put(1)
    await world.let(0)
    inbox.stop()
    await world.let(2)
    assert (world.taken, world.ended.is_set()) == ([0], True)


async def test_answers_have_to_be_read_first() -> None:
    """While the client's answers lie unread, its frames wait."""
    world = World()
    world.full = True
    world.inbox()
    await world.let(1)
    assert world.taken == []
    world.full = False
    await asyncio.wait_for(world.ended.wait(), 5)
    assert world.taken == [0]


async def test_a_failure_is_told() -> None:
    """Work that breaks ends the inbox, with the reason."""
    world = World()
    inbox = world.inbox()
    inbox.put(-1)
    inbox.put(2)
    await world.let(3)
    assert (world.taken, world.ended.is_set(), str(world.failure)) == ([0], True, "broken")
