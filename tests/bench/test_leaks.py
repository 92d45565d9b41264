"""Whether memory grows, and what a soak says of it."""

from __future__ import annotations

import math
import random

import pytest

from bench.mixed import judged, leak
from bench.results import Point, Run, Verdict

MIB = 2**20
HOUR = 3600.0


def _series(kb_per_hour: float, noise_kb: float = 0.0, seconds: float = 4 * HOUR) -> list[Point]:
    """A reading every minute, with noise that comes and goes slowly, as that of a garbage collector does."""
    drift = random.Random(7)
    return [
        Point(
            t,
            1,
            1,
            1,
            pss_mib=150 + (kb_per_hour * t / HOUR + noise_kb * (math.sin(t / 900) + drift.random())) * 1000 / MIB,
        )
        for t in range(0, int(seconds), 60)
    ]


def test_the_slope_of_memory_is_found() -> None:
    """Without noise it is exact; with noise it lies within the margin that is told."""
    found = leak(_series(500))
    assert found is not None
    assert found.slope == pytest.approx(500_000)
    assert found.margin < 1_000
    found = leak(_series(500, noise_kb=400))
    assert found is not None
    assert abs(found.slope - 500_000) < found.margin < 1_000_000


def test_a_few_readings_tell_nothing() -> None:
    """Nor does a server whose memory can't be read."""
    assert leak(_series(500, seconds=20 * 60)) is None
    assert leak([Point(t, 1, 1, 1) for t in range(1000)]) is None


def _judged(series: list[Point], seconds: float = 4 * HOUR) -> Run:
    return judged(Run("soak", Verdict(clean=True), series=series), seconds)


def test_memory_that_grows_fails_a_soak() -> None:
    """By more than a hundredth of it an hour, and beyond doubt; the figures say by how much."""
    run = _judged(_series(9_000, noise_kb=400))
    assert run.title == "soak: memory grows"
    assert not run.verdict.clean
    assert run.figures["memory_kb_per_hour"] == pytest.approx(9_000, rel=0.2)
    [why] = run.verdict.failures
    assert why.startswith("memory grows by ")


@pytest.mark.parametrize("kb_per_hour", [-5_000, 0, 500])
def test_memory_that_stays_does_not(kb_per_hour: float) -> None:
    """Nor what shrinks, or grows by so little that a day changes nothing."""
    run = _judged(_series(kb_per_hour, noise_kb=400))
    assert (run.title, run.verdict.clean) == ("soak: memory does not grow", True)


def test_a_short_soak_says_that_it_was_short() -> None:
    """In the first minutes caches fill, which looks like a leak."""
    run = _judged(_series(9_000, seconds=29 * 60), seconds=29 * 60)
    assert (run.title, run.verdict.clean) == ("soak: too short to tell of leaks", True)
