"""A day in the life of a server, and many of them: does its memory grow?"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from bench.day import PEOPLE, RATES, Day, live, open_chatrooms
from bench.errands import MESSAGE
from bench.results import Figure, Point, Run
from bench.stage import Stage, timed
from bench.talking import talk
from bench.target import TargetError

AWAY = 12.0
"""Seconds for which one is away who leaves: longer than the grace after which a user is offline."""
BLOCKS = 24
"""Means that a slope is fitted to: neighbouring readings are alike, and would seem to say more than they do."""
STUDENT = 2.074
"""Student's t for 95 % and BLOCKS - 2 degrees of freedom."""
WARM = 0.1
"""Share of a soak in which caches fill."""
TELLING = 1800.0
"""Seconds after which a soak says something about leaks."""
TOLERATED = 0.01
"""Share of its memory that a server may gain in an hour."""


class Mixed:
    """Chatrooms of ten, and a session for each of their members; `rate` is messages a second, the rest goes with it."""

    def __init__(self, connections: int, rate: float | None, seconds: float, away: float = AWAY) -> None:
        self._connections = connections
        usual = RATES[MESSAGE] * connections / 1000
        self._day = Day(1.0 if rate is None else rate / usual, min(away, seconds))
        self._seconds = seconds

    async def prepare(self, stage: Stage) -> None:
        """All are there, and some have their chatroom open. Raises TargetError."""
        if self._connections < PEOPLE * stage.crew.size:
            raise TargetError(f"A process needs {PEOPLE} connections or more.")
        await stage.crew.all(talk)
        everyone = range(self._connections)
        seats = await stage.seat(self._connections, [everyone[at : at + PEOPLE] for at in everyone[::PEOPLE]])
        await stage.open(seats.credentials, self._connections)
        await stage.crew.all(open_chatrooms)

    async def runs(self, stage: Stage) -> list[Run]:
        """Once."""
        return [await self.run(stage, "mixed")]

    async def run(self, stage: Stage, title: str) -> Run:
        """A part of a day."""
        return await stage.measure(title, live, lambda: [timed(self._seconds)] * stage.crew.size, self._day)


class Soak(Mixed):
    """The same for long."""

    async def runs(self, stage: Stage) -> list[Run]:
        """Once, with a verdict on memory."""
        return [judged(await self.run(stage, "soak"), self._seconds)]


class Leak(NamedTuple):
    """Bytes that memory grows by in an hour, and by how much this may be wrong (95 %)."""

    slope: float
    margin: float


def judged(run: Run, seconds: float) -> Run:
    """The same with the slope of its memory; one that grows is not clean."""
    found = leak(run.series)
    pss = [point.pss_mib for point in run.series if point.pss_mib is not None]
    figures: dict[str, Figure] = {
        "memory_kb_per_hour": found and found.slope / 1000,
        "memory_margin_kb_per_hour": found and found.margin / 1000,
        "pss_first_mib": pss[0] if pss else None,
        "pss_last_mib": pss[-1] if pss else None,
    }
    run = run.with_figures(figures)
    if found is None or seconds < TELLING:
        return run.titled("soak: too short to tell of leaks")
    least = found.slope - found.margin
    if least <= TOLERATED * pss[0] * 2**20:
        return run.titled("soak: memory does not grow")
    failures = {**run.verdict.failures, f"memory grows by {least / 1000:,.0f} KB an hour or more": 1}
    verdict = msgspec.structs.replace(run.verdict, clean=False, failures=failures)
    return msgspec.structs.replace(run, title="soak: memory grows", verdict=verdict)


def leak(series: Sequence[Point]) -> Leak | None:
    """The slope of memory over time, by least squares; None with too few readings."""
    readings = [(point.t, point.pss_mib * 2**20) for point in series if point.pss_mib is not None]
    readings = readings[int(WARM * len(readings)) :]
    if len(readings) < BLOCKS:
        return None
    blocks = [readings[len(readings) * at // BLOCKS : len(readings) * (at + 1) // BLOCKS] for at in range(BLOCKS)]
    times = [statistics.fmean(t for t, _ in block) / 3600 for block in blocks]
    sizes = [statistics.fmean(size for _, size in block) for block in blocks]
    slope, intercept = statistics.linear_regression(times, sizes)
    left = sum((size - intercept - slope * t) ** 2 for t, size in zip(times, sizes, strict=True))
    spread = sum((t - statistics.fmean(times)) ** 2 for t in times)
    return Leak(slope, STUDENT * (left / (BLOCKS - 2) / spread) ** 0.5)
