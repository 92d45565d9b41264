"""Parley and other servers under the same load by turns: what is compared has the same neighbours on the machine."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack

import msgspec

from bench.deployment import Deployment
from bench.display import Display
from bench.peers.ejabberd import Ejabberd
from bench.peers.installed import NotInstalledError
from bench.peers.small import KINDS, SmallServer
from bench.results import Comparison, Figure, Range, Run, median
from bench.scenarios import Idle, Scenario
from bench.stage import Stage, staged

NAMES = (*KINDS, Ejabberd.name)
"""The servers that Parley can be compared with."""
FIGURES = (
    "deliveries_per_server_cpu_s",
    "acked_per_server_cpu_s",
    "deliveries_per_s",
    "acked_per_s",
    "ack_p50_ms",
    "ack_p99_ms",
    "bytes_per_session",
)
"""What is compared, of what both have."""
ARCHIVED = "archived"
"""The counter of a server that can say how many messages it has on disk."""

Rounds = Sequence[Sequence[Run]]
"""The runs of one server: a sequence for each round, with a run for each load."""


def peer(name: str) -> Deployment:
    """One of NAMES. Raises NotInstalledError."""
    return Ejabberd() if name == Ejabberd.name else SmallServer(name)


def listed() -> Iterator[str]:
    """A line for each of NAMES: the version that is there, or how to get it."""
    for name in NAMES:
        try:
            found = ", ".join(f"{what} {version}" for what, version in peer(name).about().items())
        except NotInstalledError as missing:
            found = str(missing)
        yield f"{name:10} {found}"


async def paired(
    scenario: Scenario, servers: Sequence[Deployment], rounds: int, processes: int, display: Display
) -> tuple[list[Run], dict[str, dict[str, str]], list[Comparison]]:
    """Medians of each server's runs, what they say of themselves, and the first compared with each of the others.

    Raises TargetError.
    """
    turns = _anew if isinstance(scenario, Idle) else _in_turn
    found = await turns(scenario, servers, rounds, processes, display)
    runs = [run for name in found for run in medians(found[name])]
    first, *others = found
    about = {server.name: server.about() for server in servers}
    return runs, about, [each for other in others for each in compared(first, found[first], other, found[other])]


async def _in_turn(
    scenario: Scenario, servers: Sequence[Deployment], rounds: int, processes: int, display: Display
) -> dict[str, list[list[Run]]]:
    """All run all the time; one has the load."""
    async with AsyncExitStack() as stack:
        stages = [await stack.enter_async_context(staged(server, processes, display)) for server in servers]
        for stage in stages:
            await scenario.prepare(stage)
        found: dict[str, list[list[Run]]] = {server.name: [] for server in servers}
        for _ in range(rounds):
            for stage in stages:
                found[stage.deployment.name].append(await turn(scenario, stage))
        return found


async def _anew(
    scenario: Scenario, servers: Sequence[Deployment], rounds: int, processes: int, display: Display
) -> dict[str, list[list[Run]]]:
    """Each starts for its turn, and is alone: memory is what is measured, and nobody gives back all of it."""
    found: dict[str, list[list[Run]]] = {server.name: [] for server in servers}
    for _ in range(rounds):
        for server in servers:
            async with staged(server, processes, display) as stage:
                await scenario.prepare(stage)
                found[server.name].append(await scenario.runs(stage))
    return found


async def turn(scenario: Scenario, stage: Stage) -> list[Run]:
    """One turn of one server. What it says it has on disk has to be all that was sent."""
    before = (await stage.deployment.counters()).get(ARCHIVED)
    runs = await scenario.runs(stage)
    if before is None:
        return runs
    after = (await stage.deployment.counters())[ARCHIVED]
    missing = sum(run.verdict.counts["sent"] for run in runs) - int(after - before)
    return runs if not missing else [*runs[:-1], _failed(runs[-1], {"messages that are not on disk": missing})]


def _failed(run: Run, failures: dict[str, int]) -> Run:
    verdict = msgspec.structs.replace(run.verdict, clean=False, failures={**run.verdict.failures, **failures})
    return msgspec.structs.replace(run, verdict=verdict)


def medians(rounds: Rounds) -> list[Run]:
    """One run for each load, with the series and the memory of the last round."""
    found = []
    for runs in zip(*rounds, strict=True):
        last = runs[-1]
        whole = median(runs).about(last.title, last.server, last.guarantees)
        found.append(msgspec.structs.replace(whole, series=last.series, memory=last.memory))
    return found


def compared(of: str, ours: Rounds, to: str, theirs: Rounds) -> list[Comparison]:
    """The ratio of each figure that both have, round by round."""
    return [
        Comparison(figure, one[0].title, of, to, spread, len(one))
        for one, other in zip(zip(*ours, strict=True), zip(*theirs, strict=True), strict=True)
        for figure in FIGURES
        if (spread := ratio(one, other, figure))
    ]


def ratio(ours: Sequence[Run], theirs: Sequence[Run], figure: str) -> Range | None:
    """Over the rounds; None where some round of either has no such figure."""
    pairs = [(value(one, figure), value(other, figure)) for one, other in zip(ours, theirs, strict=True)]
    ratios = [one / other for one, other in pairs if one is not None and other]
    return Range(statistics.median(ratios), min(ratios), max(ratios)) if len(ratios) == len(pairs) else None


def value(run: Run, figure: str) -> Figure:
    """A figure, or a latency as in `ack_p99_ms`; None where the run has none."""
    if figure in run.figures:
        return run.figures[figure]
    name, _, percentile = figure.partition("_")
    found: Figure = getattr(run.latency.get(name), percentile, None)
    return found
