"""Errands: an open loop of several kinds, on a clock that the test moves."""

from __future__ import annotations

import asyncio

import pytest

from bench.errands import MESSAGE, Errand, Errands
from bench.load import Window
from bench.target import TargetError

SECOND = 1_000_000


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        """The time."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    """At zero."""
    return Clock()


@pytest.fixture
def begun() -> list[tuple[int, int]]:
    """Number and due time of every errand that was begun."""
    return []


def _errands(clock: Clock, *errands: Errand, seconds: int = 10) -> Errands:
    load = Errands(Window(SECOND, seconds * SECOND), 0, 100, clock)
    load.plan(errands)
    return load


def test_each_kind_has_its_own_rate(clock: Clock) -> None:
    """In ten seconds one of 2 a second is begun 20 times and one of 0.5 five times, whatever became of those before."""
    kinds: list[str] = []
    often = Errand("often", 2.0, lambda _number, _due: kinds.append("often"))
    rarely = Errand("rarely", 0.5, lambda _number, _due: kinds.append("rarely"))
    never = Errand("never", 0.0, lambda _number, _due: kinds.append("never"))
    load = _errands(clock, often, rarely, never)
    for clock.now in range(0, 20 * SECOND, SECOND // 10):
        load.go()
    assert [kinds.count(kind) for kind in ("often", "rarely", "never")] == [20, 5, 0]
    assert load.sent == 25


def test_latency_runs_from_when_it_was_due(clock: Clock, begun: list[tuple[int, int]]) -> None:
    """One that begins late because we were busy has waited since it was due; the warm-up does not count."""
    load = _errands(clock, Errand("page", 1.0, lambda *errand: begun.append(errand)), seconds=4)
    clock.now = 5 * SECOND
    load.go()
    for number, _ in begun:
        load.answered(number, {})
    assert [number for number, _ in begun] == [100, 101, 102, 103]
    assert sum(load.waits["page"].values()) == 3  # the first was due in the warm-up
    waited = [clock.now - due for _, due in begun[1:]]
    assert sorted(load.waits["page"]) == pytest.approx(sorted(waited), rel=0.001)
    assert (load.acks, load.failures) == (4, {})


def test_a_message_counts_as_an_ack(clock: Clock, begun: list[tuple[int, int]]) -> None:
    """Its latency is that of acks; other kinds have their own."""
    load = _errands(clock)
    clock.now = 2 * SECOND
    load.begin(Errand(MESSAGE, 1.0, lambda *errand: begun.append(errand)), clock.now)
    clock.now += 7
    load.done(100)
    assert (dict(load.ack), dict(load.waits)) == ({7: 1}, {})


def test_an_answer_is_looked_at(clock: Clock) -> None:
    """One that does not pass is a failure, as is a refusal, and an answer that nobody waits for."""
    load = _errands(clock)
    for _ in range(3):
        load.begin(Errand("page", 1.0, lambda number, _due: load.expect(number, lambda data: data["wrong"])), 0)
    load.answered(100, {"wrong": None})
    load.answered(101, {"wrong": "a page is wrong"})
    load.refused(102, "RATE_LIMIT_EXCEEDED")
    load.answered(100, {})
    assert load.failures == {
        "page: a page is wrong": 1,
        "page: RATE_LIMIT_EXCEEDED": 1,
        "an answer that nobody waits for": 1,
    }
    assert load.acks == load.sent == 3


async def test_errands_may_take_their_time(clock: Clock) -> None:
    """One that awaits ends with that; what it did before `rest` does not count, and its errors are told."""
    load = _errands(clock)
    clock.now = 2 * SECOND

    async def comes_back(number: int, _due: int) -> None:
        await asyncio.sleep(0)
        clock.now += 500
        load.rest(number)
        clock.now += 30

    async def fails(_number: int, _due: int) -> None:
        raise TargetError("closed: 4100")

    load.begin(Errand("reconnect", 1.0, comes_back), clock.now)
    load.begin(Errand("return", 1.0, fails), clock.now)
    await load.ended(10.0)
    assert {kind: dict(times) for kind, times in load.waits.items()} == {"reconnect": {30: 1}}
    assert load.failures == {"return: closed: 4100": 1}


async def test_what_is_never_answered_is_a_failure(clock: Clock) -> None:
    """It is waited for, but not for ever; a task that hangs is ended."""
    load = _errands(clock)
    hung = asyncio.Event()

    async def hangs(_number: int, _due: int) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            hung.set()

    load.begin(Errand("upload", 1.0, hangs), 0)
    load.begin(Errand("read", 1.0, lambda _number, _due: None), 0)
    await load.ended(0.05)
    assert load.failures == {"upload: no answer within 0.05 s": 1, "read: no answer within 0.05 s": 1}
    await asyncio.wait_for(hung.wait(), 10)
