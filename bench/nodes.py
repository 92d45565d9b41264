"""Several nodes on one machine, as workers: what a second one brings, what the bus adds, what idling costs.

`bench/README.md` tells how to read these where the generator and the servers share two cores.
"""

from __future__ import annotations

import asyncio
import re
import statistics
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from uuid import UUID

from bench import report
from bench.frames import send_template
from bench.load import Load
from bench.report import Figure, Result, percentile
from bench.rest import Account
from bench.scenarios import TEXT, Options, Stage
from bench.session import BenchSession, Wire, close_sessions, leave, open_sessions
from bench.target import START_SECONDS, TargetError, target
from bench.usage import Usage

NODES = 2
USERS_OF_A_ROOM = 5
"""Accounts of each chatroom in `fanout`, which share its sessions."""
WARM_UP = 50
"""Messages of `hop` before those that count."""
GAP = 0.01
"""Seconds between two messages of `hop`: far below what a node can do, so that none waits for another."""
ALONE = 16
"""Accounts of `idle` whose chatrooms are counted, and how often each is connected: enough to be on every node."""
REST = 2.0
"""Seconds before idling is measured: what opening has left behind is done."""


@asynccontextmanager
async def _stage(options: Options, workers: int) -> AsyncIterator[Stage]:
    async with target(None, apart=False, workers=workers) as server:
        stage = Stage(options, server)
        await _until_all_answer(stage, workers)
        try:
            yield stage
        finally:
            close_sessions(stage.sessions)


async def _until_all_answer(stage: Stage, workers: int) -> None:
    """The first worker is there sooner than the others, and would get all connections. Raises TargetError."""
    deadline = time.monotonic() + START_SECONDS
    wanted = f'parley_workers{{state="answering"}} {workers}\n'
    while workers > 1 and wanted not in await stage.rest.metrics_text():
        if time.monotonic() > deadline:
            raise TargetError("Some workers did not start.")
        await asyncio.sleep(0.05)


# --- a second node ---------------------------------------------------------------------------


async def fanout(options: Options, rounds: int) -> list[Result]:
    """The same load on one process and on two workers, by turns: many chatrooms, each with sessions on every node.

    Both servers run all the time, so that they have the same neighbours; the ratios are of medians over the rounds.
    """
    async with AsyncExitStack() as stack:
        stages = [await stack.enter_async_context(_stage(options, count)) for count in (1, NODES)]
        halls = [await _furnish(stage) for stage in stages]
        results: list[list[Result]] = [[], []]
        for _ in range(rounds):
            for stage, hall, found in zip(stages, halls, results, strict=True):
                found.append(await stage.run(_load(stage, hall)))
        one, two = (median(found) for found in results)
        return [one.titled("1 process"), beside(two, one).titled(f"{NODES} workers")]


async def _furnish(stage: Stage) -> dict[UUID, list[BenchSession]]:
    """Chatrooms with accounts of their own, and the sessions that hear each."""
    options = stage.options
    accounts = await stage.accounts(options.rooms * USERS_OF_A_ROOM)
    groups = [accounts[at : at + USERS_OF_A_ROOM] for at in range(0, len(accounts), USERS_OF_A_ROOM)]
    rooms = await asyncio.gather(*(stage.rest.chatroom(group[0], group[1:]) for group in groups))
    found: dict[UUID, list[BenchSession]] = {}
    for room, group in zip(rooms, groups, strict=True):
        before = len(stage.sessions)
        await stage.open(group, options.connections // options.rooms)
        found[room] = stage.sessions[before:]
    return found


def _load(stage: Stage, hall: dict[UUID, list[BenchSession]]) -> Load:
    ways = [stage.senders(room, sessions) for room, sessions in hall.items()]
    return Load(lambda number: ways[number % len(ways)](number), stage.options.in_flight[0], stage.sent)


def median(results: Sequence[Result]) -> Result:
    """The medians of several runs' figures; clean if all were."""
    figures: dict[str, Figure] = {}
    for name in results[0].figures:
        values = [value for result in results if (value := result.figures[name]) is not None]
        figures[name] = statistics.median(values) if len(values) == len(results) else None
    checks = {
        name: sum(result.checks[name] for result in results)
        for name, value in results[0].checks.items()
        if isinstance(value, int)
    }
    failures = sum((Counter(result.checks["failures"]) for result in results), Counter[str]())
    warnings = tuple(dict.fromkeys(warning for result in results for warning in result.warnings))
    clean = all(result.clean for result in results)
    return Result("", clean, figures, {**checks, "failures": dict(failures)}, warnings)


def beside(two: Result, one: Result) -> Result:
    """The figures of several workers, with what they say about one: a core each would bring so many times as much."""
    figures = {
        "of_one_wall": _ratio(two, one, "deliveries_per_s"),
        "of_one_per_cpu_s": _ratio(two, one, "deliveries_per_parley_cpu_s"),
        "of_one_acked_per_s": _ratio(two, one, "acked_per_s"),
    }
    each = figures["of_one_per_cpu_s"]
    projected = None if each is None else NODES * each
    return replace(two, figures={**two.figures, **figures, "of_one_with_a_core_each": projected})


def _ratio(result: Result, to: Result, name: str) -> Figure:
    figure, other = result.figures[name], to.figures[name]
    return figure / other if figure is not None and other else None


# --- from node to node -----------------------------------------------------------------------


class Arrivals:
    """When one session had each event, and each of its messages the ack."""

    def __init__(self) -> None:
        self.events: dict[int, float] = {}
        self.acks: dict[int, float] = {}
        self.failures: Counter[str] = Counter()

    def acked(self, numbers: list[int]) -> None:
        """Answers have come."""
        now = time.perf_counter()
        self.acks.update((number, now) for number in numbers)

    def heard(self, before: int, last: int) -> None:
        """Events have come."""
        now = time.perf_counter()
        self.events.update((seq, now) for seq in range(before + 1, last + 1))

    def failed(self, what: str) -> None:
        """Counted, and told at the end."""
        self.failures[what] += 1


@dataclass(frozen=True, slots=True)
class End:
    """A session, and what came to it."""

    session: BenchSession
    arrivals: Arrivals


async def hop(options: Options) -> list[Result]:
    """One message at a time, from a session on one node to sessions on both: how much later the other node has it."""
    async with _stage(options, NODES) as stage:
        ann, bob = await stage.accounts(2)
        room = await stage.rest.chatroom(ann, [bob])
        here, there = await _on_two_nodes(stage, ann)
        report.progress("measuring")
        count = int(options.duration / GAP)
        usage, began = stage.server.usage(), time.perf_counter()
        await _talk(stage, room, here, WARM_UP + count)
        await _until_both_have(here, there, WARM_UP + count)
        used, seconds = stage.server.usage(), time.perf_counter() - began
        result = hopped(here.arrivals, there.arrivals, WARM_UP)
        figures = {**result.figures, **_shares(used.since(usage) if used and usage else None, seconds)}
        return [replace(result, figures=figures)]


async def _on_two_nodes(stage: Stage, account: Account) -> tuple[End, End]:
    """Opens sessions until there is one on each of two workers; the others leave. Raises TargetError."""
    found: dict[int, End] = {}
    for _ in range(64):
        before = await _attached(stage)
        arrivals = Arrivals()
        wire = Wire(stage.server.url, stage.options.codec, arrivals, TEXT)
        [session] = await open_sessions(wire, [account], 1)
        stage.sessions.append(session)
        after = await _attached(stage)
        node = max(after, key=lambda worker: after[worker] - before.get(worker, 0))
        found.setdefault(node, End(session, arrivals))
        if len(found) == NODES:
            return found[0], found[1]
    raise TargetError("All connections went to one worker.")


async def _attached(stage: Stage) -> dict[int, int]:
    """Sessions by worker."""
    text = await stage.rest.metrics_text()
    found = re.findall(r'^parley_sessions\{worker="(\d+)",state="attached"\} (\S+)$', text, re.MULTILINE)
    return {int(worker): int(float(count)) for worker, count in found}


async def _talk(stage: Stage, room: UUID, here: End, count: int) -> None:
    build = send_template(stage.wire.codec, room, TEXT, stage.wire.pack)
    for number in range(count):
        here.session.send(build(number))
        await asyncio.sleep(GAP)


async def _until_both_have(here: End, there: End, count: int) -> None:
    async with asyncio.timeout(10):
        while min(len(here.arrivals.events), len(there.arrivals.events), len(here.arrivals.acks)) < count:
            await asyncio.sleep(0.05)


def hopped(here: Arrivals, there: Arrivals, skip: int) -> Result:
    """How much later the other node's session had what the sender's own had, and its ack; without the first `skip`."""
    acks = dict(zip(sorted(here.events), (here.acks[number] for number in sorted(here.acks)), strict=True))
    kept = [seq for seq in sorted(here.events)[skip:] if seq in there.events]
    after_here = [there.events[seq] - here.events[seq] for seq in kept]
    after_ack = [there.events[seq] - acks[seq] for seq in kept]
    figures: dict[str, Figure] = {"messages": len(kept)}
    for name, values in (("after_delivery_here", after_here), ("after_ack", after_ack)):
        for label, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99)):
            found = percentile(values, share)
            figures[f"{name}_{label}_ms"] = None if found is None else found * 1000
    failures = dict(here.failures + there.failures)
    lost = len(here.events.keys() ^ there.events.keys())
    return Result("there", not failures and not lost, figures, {"lost": lost, "failures": failures})


# --- idling ----------------------------------------------------------------------------------


async def idle(options: Options, sessions: Sequence[int], rooms: Sequence[int]) -> list[Result]:
    """What nodes use that have nothing to do: with so many sessions in one chatroom, then with so many chatrooms."""
    async with _stage(options, NODES) as stage:
        found = [await _rest(stage, "nothing", 0, 0)]
        everyone = await stage.accounts(options.users + ALONE)
        accounts, owners = everyone[ALONE:], everyone[:ALONE]
        await stage.rest.chatroom(accounts[0], accounts[1:])
        for count in sessions:
            await stage.open(accounts, count - len(stage.sessions))
            found.append(await _rest(stage, f"{count} sessions", count, 1))
        await _close(stage)
        made = 0
        for count in rooms:
            report.progress(f"making {count - made} chatrooms")
            await asyncio.gather(*(stage.rest.chatroom(owners[n % ALONE], []) for n in range(made, count)))
            made = count
            await stage.open(owners, ALONE * ALONE)
            found.append(await _rest(stage, f"{count} rooms", ALONE * ALONE, count))
            await _close(stage)
        return found


async def _close(stage: Stage) -> None:
    await leave(stage.sessions)
    stage.sessions = []


async def _rest(stage: Stage, title: str, sessions: int, rooms: int) -> Result:
    report.progress(f"resting with {title}")
    await asyncio.sleep(min(REST, stage.options.duration))
    usage, began = stage.server.usage(), time.perf_counter()
    await asyncio.sleep(stage.options.duration)
    used, seconds = stage.server.usage(), time.perf_counter() - began
    memory = stage.server.memory()
    figures: dict[str, Figure] = {
        "nodes": NODES,
        "sessions": sessions,
        "chatrooms_on_each_node": rooms,
        "pss_of_all_nodes_mib": memory.pss / 2**20 if memory else None,
        **_shares(used.since(usage) if used and usage else None, seconds),
    }
    return Result(title, not stage.idle.failures, figures, {"failures": dict(stage.idle.failures)})


def _shares(used: Usage | None, seconds: float) -> dict[str, Figure]:
    """Of one core."""
    names = [f"{name}_cpu_share" for name in Usage._fields]
    return dict(zip(names, (None if used is None else value / seconds for value in used or names), strict=True))  # type: ignore[operator]
