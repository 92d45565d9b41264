"""The wheel keeps every deadline, once, not early and not more than a tick or two late."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.wheel import TICK, Wheel


class Deadline:
    """Notes when it was looked at, and may ask for more."""

    def __init__(self, again: list[float] | None = None) -> None:
        self.due = 0
        self.fired: list[float] = []
        self._again = again or []

    def tick(self, now: float) -> float | None:
        """Takes the next of the deadlines it was given, in seconds from now."""
        self.fired.append(now)
        return now + self._again.pop(0) if self._again else None


@pytest.fixture
async def wheel() -> AsyncIterator[Wheel]:
    """A running wheel."""
    wheel = Wheel()
    yield wheel
    wheel.stop()


async def test_fires_once_after_the_deadline(wheel: Wheel) -> None:
    """A deadline is looked at once, not before it has passed and within two ticks after."""
    deadline = Deadline()
    when = wheel.now() + 0.25
    wheel.schedule(deadline, when)
    await asyncio.sleep(0.8)
    assert len(deadline.fired) == 1
    assert when <= deadline.fired[0] <= when + 0.4  # two ticks, and what a busy machine needs


async def test_an_earlier_deadline_wins(wheel: Wheel) -> None:
    """Filing anew for later changes nothing; filing anew for earlier brings it forward; it fires once for both."""
    deadline = Deadline()
    start = wheel.now()
    wheel.schedule(deadline, start + 0.3)
    wheel.schedule(deadline, start + 5.0)
    wheel.schedule(deadline, start + 0.1)
    await asyncio.sleep(0.7)
    assert len(deadline.fired) == 1
    assert deadline.fired[0] < start + 0.3


async def test_a_tick_that_returns_a_deadline_is_filed_again(wheel: Wheel) -> None:
    """What `tick` returns is the next deadline; None is the end."""
    deadline = Deadline(again=[0.1, 0.1])
    wheel.schedule(deadline, wheel.now())
    await asyncio.sleep(1.2)
    assert len(deadline.fired) == 3
    assert deadline.due == 0


async def test_a_deadline_in_the_past_fires_at_the_next_tick(wheel: Wheel) -> None:
    """A moment that has passed already is not lost."""
    deadline = Deadline()
    wheel.schedule(deadline, wheel.now() - 100)
    await asyncio.sleep(3 * TICK)
    assert len(deadline.fired) == 1


async def test_a_tick_may_file_itself(wheel: Wheel) -> None:
    """Calling `schedule` inside `tick` is as good as returning the deadline."""

    class Selfish(Deadline):
        def tick(self, now: float) -> float | None:
            self.fired.append(now)
            if len(self.fired) < 3:
                wheel.schedule(self, now)
            return None

    deadline = Selfish()
    wheel.schedule(deadline, wheel.now())
    await asyncio.sleep(0.9)
    assert len(deadline.fired) == 3


async def test_nothing_is_lost_when_the_loop_was_busy(wheel: Wheel) -> None:
    """A turn that comes late fires everything that was due meanwhile."""
    deadlines = [Deadline() for _ in range(5)]
    for place, deadline in enumerate(deadlines):
        wheel.schedule(deadline, wheel.now() + place * TICK)
    time.sleep(0.6)  # noqa: ASYNC251  # the loop is kept busy on purpose
    await asyncio.sleep(0.3)
    assert [len(deadline.fired) for deadline in deadlines] == [1] * 5


async def test_a_stopped_wheel_fires_nothing() -> None:
    """After `stop` nobody is looked at."""
    wheel = Wheel()
    deadline = Deadline()
    wheel.schedule(deadline, wheel.now() + 0.1)
    wheel.stop()
    await asyncio.sleep(0.3)
    assert not deadline.fired


class _Clock(asyncio.SelectorEventLoop):
    """A loop whose time stands still until it is moved."""

    def __init__(self) -> None:
        super().__init__()
        self.at = 1_000.0

    def time(self) -> float:
        """Seconds, as set."""
        return self.at


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0, 30), max_size=30), st.lists(st.floats(0.001, 5), min_size=1, max_size=60))
def test_every_deadline_fires_in_its_time(delays: list[float], steps: list[float]) -> None:
    """However time moves, a deadline fires at the first turn a tick or more after it, and never before it."""
    loop = _Clock()

    async def run() -> None:
        wheel = Wheel()
        deadlines = [(Deadline(), loop.at + delay) for delay in delays]
        for deadline, when in deadlines:
            wheel.schedule(deadline, when)
        for step in steps:
            loop.at += step
            wheel._turn()
            for deadline, when in deadlines:
                if loop.at < when:
                    assert not deadline.fired
                elif loop.at >= when + 2 * TICK:
                    assert len(deadline.fired) == 1
        wheel.stop()

    try:
        loop.run_until_complete(run())
    finally:
        loop.close()
