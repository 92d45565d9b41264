"""The scenarios: who is in which chatroom, who writes, and what is measured. Each works with any Deployment."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from bench.display import Display
from bench.generator import READ_FULLY, Generator
from bench.lines import noise_costs
from bench.parley import ParleyDeployment
from bench.results import Figure, MemoryAt, Run, Verdict
from bench.stage import Drive, Stage, Writers, crewed, staged
from bench.usage import Memory

FIRST = 100
"""Idle sessions before the first reading: what the code itself needs is there then."""
PAUSE = 1.0
"""Seconds of rest before memory is read, in runs that are not shorter themselves."""
TIMED = 7
"""In small chatrooms each seventh session looks at when events should have gone: at all places of a chatroom of ten."""


class Scenario(Protocol):
    """`prepare` once, then `runs` as often as wanted, with the same chatrooms and sessions. Both raise TargetError."""

    async def prepare(self, stage: Stage) -> None:
        """Makes accounts and chatrooms, and opens sessions."""
        ...

    async def runs(self, stage: Stage) -> list[Run]:
        """Measures."""
        ...


def drives(in_flight: Sequence[int], rates: Sequence[float], *, until_heard: bool, timed: int) -> list[Drive]:
    """One for each number in flight, then one for each rate."""
    closed = [Drive(in_flight=number, until_heard=until_heard, timed=timed) for number in in_flight]
    return closed + [Drive(rate=rate, timed=timed) for rate in rates]


class Loaded:
    """Several loads one after the other, by the same writers."""

    def __init__(self, loads: Sequence[Drive], seconds: float) -> None:
        self._loads = loads
        self._seconds = seconds
        self._writers: dict[Stage, Writers] = {}

    async def runs(self, stage: Stage) -> list[Run]:
        """Each load."""
        return [await stage.run(load, self._writers[stage], self._seconds) for load in self._loads]


@dataclass(frozen=True)
class Sizes:
    """How many of each. Sessions go round the accounts; `members` is what each chatroom has."""

    connections: int
    accounts: int
    rooms: int = 1
    members: int = 2


class Fanout(Loaded):
    """One chatroom that all sessions hear, and write into in turn."""

    def __init__(self, sizes: Sizes, in_flight: Sequence[int], rates: Sequence[float], seconds: float) -> None:
        super().__init__(drives(in_flight, rates, until_heard=True, timed=READ_FULLY), seconds)
        self._sizes = sizes

    async def prepare(self, stage: Stage) -> None:
        """Everyone in one chatroom."""
        sizes = self._sizes
        accounts = min(sizes.accounts, sizes.connections)
        seats = await stage.seat(accounts, [range(accounts)])
        await stage.open(seats.credentials, sizes.connections)
        self._writers[stage] = [(seats.rooms[0], range(sizes.connections))]


class Rooms(Loaded):
    """Chatrooms of a few, which share the sessions: each account has one, and is in as many chatrooms as it takes."""

    def __init__(self, sizes: Sizes, in_flight: Sequence[int], rates: Sequence[float], seconds: float) -> None:
        super().__init__(drives(in_flight, rates, until_heard=False, timed=TIMED), seconds)
        self._sizes = sizes

    async def prepare(self, stage: Stage) -> None:
        """Neighbours are together; after the last account it begins again, shifted, so that others are."""
        rooms = seating(self._sizes)
        seats = await stage.seat(self._sizes.accounts, rooms)
        await stage.open(seats.credentials, self._sizes.accounts)
        self._writers[stage] = list(zip(seats.rooms, rooms, strict=True))


def seating(sizes: Sizes) -> list[list[int]]:
    """Which accounts are in each chatroom: different ones as far as there are enough."""
    rooms = []
    for number in range(sizes.rooms):
        turn, at = divmod(number * sizes.members, sizes.accounts)
        rooms.append(sorted({(at + turn + member) % sizes.accounts for member in range(sizes.members)}))
    return rooms


async def clear_and_sealed(server: ParleyDeployment, scenario: Fanout, processes: int, display: Display) -> list[Run]:
    """The same load over TCP without Noise and then with it, on one server, so that the difference is Noise."""
    async with staged(server, processes, display) as stage:
        clear = await _once(scenario, stage)
        async with crewed(server, server.dialect("tcp-noise"), processes, display) as noisy:
            sealed = await _once(scenario, noisy)
    costs = dict(zip(("seal_256_bytes_us", "open_256_bytes_us"), noise_costs(), strict=True))
    return [
        *(run.titled(f"clear, {run.title}") for run in clear),
        *(
            run.with_figures({**_more(run, without), **costs}).titled(f"Noise, {run.title}")
            for run, without in zip(sealed, clear, strict=True)
        ),
    ]


async def _once(scenario: Fanout, stage: Stage) -> list[Run]:
    await scenario.prepare(stage)
    runs = await scenario.runs(stage)
    await stage.leave()
    return runs


def _more(run: Run, clear: Run) -> dict[str, Figure]:
    """What each end's CPU does more, a delivery."""
    more: dict[str, Figure] = {}
    for end in ("process", "generator"):
        figure, other = (each.figures[f"{end}_us_per_delivery"] for each in (run, clear))
        more[f"{end}_us_more_than_clear"] = None if figure is None or other is None else figure - other
    return more


class Idle:
    """Sessions that do nothing; the server's memory is read as they grow in number, then its CPU while they rest."""

    def __init__(self, sizes: Sizes, steps: Sequence[int], seconds: float) -> None:
        self._sizes = sizes
        self._steps = steps
        self._seconds = seconds
        self._credentials: dict[Stage, list[str]] = {}

    async def prepare(self, stage: Stage) -> None:
        """Chatrooms that every account is in."""
        accounts = range(min(self._sizes.accounts, max(self._steps)))
        seats = await stage.seat(len(accounts), [accounts] * self._sizes.rooms)
        self._credentials[stage] = seats.credentials

    async def runs(self, stage: Stage) -> list[Run]:
        """Opens, step by step."""
        before = stage.deployment.memory()
        memory = []
        for step in sorted({min(FIRST, min(self._steps) // 2), *self._steps}):
            await stage.open(self._credentials[stage], step - stage.sessions)
            await asyncio.sleep(min(PAUSE, self._seconds))
            if now := stage.deployment.memory():
                memory.append(MemoryAt(step, now.pss, now.rss))
        figures = await self._rest(stage) | {"sessions": stage.sessions, **grown(before, memory)}
        lost = sum(await stage.crew.all(failed))
        verdict = Verdict(not lost, failures={"connections lost": lost} if lost else {})
        run = Run("resting", verdict, figures=figures, memory=memory)
        return [run.about(run.title, stage.deployment.name, list(stage.deployment.lacks) or None)]

    async def _rest(self, stage: Stage) -> dict[str, Figure]:
        stage.display.say(f"{stage.deployment.name}: resting")
        usage, began = stage.deployment.usage(), time.perf_counter()
        await asyncio.sleep(self._seconds)
        used, seconds = stage.deployment.usage(), time.perf_counter() - began
        resting = used.since(usage) if used and usage else None
        return {
            "process_cpu_share": resting.server / seconds if resting else None,
            "postgres_cpu_share": resting.postgres / seconds if resting else None,
        }


async def failed(generator: Generator) -> int:
    """How much went wrong while nothing was sent."""
    return sum(generator.load.failures.values())


def grown(before: Memory | None, memory: Sequence[MemoryAt]) -> dict[str, Figure]:
    """What sessions take: by the slope over all steps, and with what is loaded once."""
    if before is None or not memory:
        return {"bytes_per_session": None}
    last = memory[-1]
    return {
        "bytes_per_session": slope(memory),
        "bytes_per_session_from_none": (last.pss - before.pss) / last.sessions,
        "pss_before_mib": before.pss / 2**20,
        "pss_after_mib": last.pss / 2**20,
        "rss_after_mib": last.rss / 2**20,
    }


def slope(memory: Sequence[MemoryAt]) -> float | None:
    """Bytes of PSS per session, by least squares; None with less than two readings."""
    if len(memory) < 2:
        return None
    return statistics.linear_regression([point.sessions for point in memory], [point.pss for point in memory]).slope
