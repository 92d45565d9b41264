"""Load on two workers: everything arrives, wherever it was said. Times are not looked at."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from bench import nodes
from bench.display import Display
from bench.nodes import Arrivals, NodeOptions
from bench.results import Run, Verdict, median
from bench.target import Target, target

FEW = NodeOptions(connections=40, in_flight=4, rooms=2, users=4, duration=0.3, rounds=2)


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[int, Target]]:
    """By the number of workers."""
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        made = {
            count: runner.run(stack.enter_async_context(target(None, apart=False, workers=count))) for count in (1, 2)
        }
        yield made
        runner.run(stack.aclose())


@pytest.fixture(autouse=True)
def _running(servers: dict[int, Target], monkeypatch: pytest.MonkeyPatch) -> None:
    """Scenarios use the servers that are there."""

    @asynccontextmanager
    async def there(url: str | None, *, apart: bool, workers: int) -> AsyncIterator[Target]:
        yield servers[workers]

    monkeypatch.setattr("bench.parley.target", there)


async def test_fanout() -> None:
    """Every session of a chatroom gets each of its messages once, from both workers; the ratios are of the medians."""
    one, two = await nodes.fanout(FEW, Display())
    for result in (one, two):
        assert result.verdict.clean, result.verdict
        assert result.verdict.counts["delivered"] == 20 * result.verdict.counts["sent"] > 0
    assert two.figures["of_one_with_a_core_each"] == pytest.approx(2 * (two.figures["of_one_per_cpu_s"] or 0))
    assert (two.figures["redis_cpu_share"] or 0) >= 0


async def test_hop() -> None:
    """What was said on one worker comes to the other."""
    [result] = await nodes.hop(FEW, Display())
    assert result.verdict.clean, result.verdict
    assert result.figures["messages"] == 30
    assert (result.figures["after_ack_p99_ms"] or 0) > 0


async def test_idle() -> None:
    """Memory and CPU are read without anything, with sessions, and with chatrooms."""
    results = await nodes.idle(FEW, Display(), sessions=(8, 16), rooms=(20,))
    assert [result.title for result in results] == ["nothing", "8 sessions", "16 sessions", "20 rooms"]
    assert all(result.verdict.clean and (result.figures["pss_of_all_nodes_mib"] or 0) > 1 for result in results)


def test_medians() -> None:
    """Of several runs each figure's median counts; one that was not clean makes the whole unclean."""
    runs = [
        Run("", Verdict(clean, lost=not clean, counts={"sent": 1}), figures={"x": x})
        for clean, x in ((True, 3), (True, 1), (False, 9))
    ]
    found = median(runs)
    assert (found.figures, found.verdict) == ({"x": 3}, Verdict(False, lost=1, counts={"sent": 3}))


def test_hopped() -> None:
    """The time from one node to the other is that between two arrivals; what is missing there makes it unclean."""
    here, there = Arrivals(), Arrivals()
    here.events, there.events = {5: 1_000, 6: 2_000}, {5: 1_500, 6: 2_250}
    here.answers = {0: 750, 1: 1_750}
    result = nodes.hopped(here, there, 1)
    assert result.verdict.clean
    assert result.figures["after_delivery_here_p50_ms"] == 0.25
    assert result.figures["after_ack_p50_ms"] == 0.5
    del there.events[6]
    assert not nodes.hopped(here, there, 0).verdict.clean
