"""A server with people on it, and a crew that puts load on them: what every scenario begins with."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from bench.clock import now_us
from bench.cores import generators_core
from bench.crew import Crew, Work
from bench.deployment import Deployment, Seats
from bench.dialect import Dialect
from bench.display import Display
from bench.generator import READ_FULLY, Generator, Outcome, Plan
from bench.results import Run
from bench.series import Series, judged

WARM_UP = 1.0
"""Seconds of load before the measured ones: connections to the database open, caches fill."""
LEAD_US = 100_000
"""Microseconds in which every process has its plan."""
TICK_US = 500_000
"""Microseconds of a point in a series, as long as there are not more than POINTS of them."""
POINTS = 2000
PATIENCE = 120.0
"""Seconds by which anything may take longer than it was meant to, until it is given up."""

Writers = Sequence[tuple[str, Sequence[int]]]
"""Each chatroom with the sessions, by number, that write into it in turn."""


@dataclass(frozen=True)
class Drive:
    """One load: `rate` messages a second, whatever becomes of them, or always so many `in_flight`.

    With `until_heard` a message into the one chatroom is in flight until everyone has it, else until it is acked.
    """

    in_flight: int = 0
    rate: float | None = None
    until_heard: bool = False
    timed: int = READ_FULLY

    @property
    def title(self) -> str:
        """As it stands above a column."""
        return f"{self.in_flight} in flight" if self.rate is None else f"{self.rate:g} a second"


class Stage:
    """`heads` are the last seqs of the chatrooms, as far as we sent; `sessions` counts those that are open."""

    def __init__(self, deployment: Deployment, crew: Crew, display: Display) -> None:
        self.deployment = deployment
        self.crew = crew
        self.display = display
        self.heads: dict[bytes, int] = {}
        self.sessions = 0
        self._place: list[int] = []  # the process that each session is in

    async def seat(self, accounts: int, rooms: Sequence[Sequence[int]]) -> Seats:
        """Accounts, and chatrooms of them."""
        self.display.say(f"making {accounts} accounts and {len(rooms)} chatrooms for {self.deployment.name}")
        return await self.deployment.seat(accounts, rooms)

    async def open(self, credentials: Sequence[str], count: int) -> None:
        """So many more sessions, that go round the accounts; each process has those that are next to each other."""
        self.display.say(f"opening {count} sessions on {self.deployment.name}")
        size, first = self.crew.size, self.sessions
        shares: list[dict[int, str]] = [{} for _ in range(size)]
        for number in range(first, first + count):
            place = (number - first) * size // count
            self._place.append(place)
            shares[place][number] = credentials[number % len(credentials)]
        async with asyncio.timeout(PATIENCE):
            for heads in await self.crew.each(Generator.open, shares):
                self.heads.update(heads)
        self.sessions += count

    async def leave(self) -> None:
        """All of them go."""
        await self.crew.all(Generator.leave)
        self.heads, self.sessions, self._place = {}, 0, []

    async def run(self, drive: Drive, writers: Writers, seconds: float) -> Run:
        """Measures one load and judges it."""
        return await self.measure(drive.title, Generator.run, lambda: self._plans(drive, writers, seconds))

    async def measure(
        self, title: str, work: Work[Mapping[str, int]], plans: Callable[[], Sequence[Plan]], *given: Any
    ) -> Run:
        """What every process does with its plan, and with what else is given, is measured and judged.

        `plans` is asked when they begin. The work says how many messages it has written into each chatroom.
        """
        self.display.say(f"{self.deployment.name}: {title}")
        before = await self.deployment.counters()
        each = plans()
        seconds = (each[0].end - each[0].begin) / 1e6
        series = Series(self.deployment, self.display, each[0], self.crew.size)
        self.crew.on_sample = series.add
        everything = [each, *([item] * self.crew.size for item in given)]
        async with asyncio.timeout(seconds + PATIENCE):
            sent, _ = await asyncio.gather(self.crew.each(work, *everything), series.watch())
            outcomes = await self._settle(sent)
        after = await self.deployment.counters()
        run = judged(series, outcomes, batch(before, after))
        return run.about(title, self.deployment.name, list(self.deployment.lacks) or None)

    async def _settle(self, sent: Sequence[Mapping[str, int]]) -> list[Outcome]:
        for room, count in sum(map(Counter, sent), Counter[str]()).items():
            self.heads[room.encode()] += count
        return await self.crew.all(Generator.settle, self.heads)

    def _plans(self, drive: Drive, writers: Writers, seconds: float) -> list[Plan]:
        size, times = self.crew.size, timed(seconds)
        shares: list[list[tuple[str, Sequence[int]]]] = [[] for _ in range(size)]
        for room, numbers in writers:
            for place, share in enumerate(shares):
                if here := [number for number in numbers if self._place[number] == place]:
                    share.append((room, here))
        if drive.until_heard and drive.rate is None:
            shares[1:] = [[] for _ in range(size - 1)]  # the others tell this one how far theirs are
        busy = [place for place, share in enumerate(shares) if share]
        heard = writers[0][0] if drive.until_heard and drive.rate is None else None
        return [
            replace(
                times,
                writers=shares[place],
                rate=drive.rate,
                offset=busy.index(place) if place in busy else 0,
                step=len(busy),
                in_flight=_part(drive.in_flight, busy.index(place), len(busy)) if place in busy else 0,
                heard=heard,
                head=self.heads[heard.encode()] if heard else 0,
                others=size - 1,
                timed=drive.timed,
            )
            for place in range(size)
        ]


def timed(seconds: float) -> Plan:
    """When a load of so many measured seconds begins and ends, from now on: a plan without anything to do."""
    start = now_us() + LEAD_US
    begin, length = start + int(min(WARM_UP, seconds) * 1e6), int(seconds * 1e6)
    return Plan(start, begin, begin + length, max(TICK_US, length // POINTS), writers=[])


def _part(whole: int, index: int, of: int) -> int:
    """One of so many parts that differ by one at most."""
    return whole * (index + 1) // of - whole * index // of


def batch(before: Mapping[str, float], after: Mapping[str, float]) -> float | None:
    """The mean size of the commits between two readings of Parley's metrics."""
    size, count = (
        after.get(name, 0.0) - before.get(name, 0.0)
        for name in ("parley_commit_batch_size_sum", "parley_commit_batch_size_count")
    )
    return size / count if count else None


@asynccontextmanager
async def staged(deployment: Deployment, processes: int, display: Display) -> AsyncIterator[Stage]:
    """Starts the server, then the crew beside it; both are gone at the end. Raises TargetError."""
    display.say(f"starting {deployment.name}")
    try:
        await deployment.start()
        async with crewed(deployment, deployment.dialect(), processes, display) as stage:
            yield stage
    finally:
        await deployment.stop()


@asynccontextmanager
async def crewed(deployment: Deployment, dialect: Dialect, processes: int, display: Display) -> AsyncIterator[Stage]:
    """A crew that speaks this dialect to a server that runs."""
    crew = Crew(dialect, processes)
    try:
        with generators_core():
            await crew.start()
        yield Stage(deployment, crew, display)
    finally:
        crew.stop()
