"""Several nodes on one machine, as workers: what a second one brings, what the bus adds, what idling costs.

`bench/README.md` tells how to read these where the generator and the servers share two cores.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import NamedTuple

from bench.clock import now_us
from bench.display import Display
from bench.generator import Generator
from bench.load import Load, Window
from bench.parley import ParleyDeployment
from bench.rest import Account
from bench.results import Figure, Run, Verdict, median
from bench.scenarios import failed
from bench.session import Reading, Session
from bench.stage import Drive, Stage, Writers, staged
from bench.target import START_SECONDS, TargetError
from bench.usage import Usage
from bench.validity import percentile

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


@dataclass(frozen=True)
class NodeOptions:
    """What a run was asked to do. `duration` is in seconds."""

    transport: str = "ws"
    duration: float = 10.0
    processes: int = 1
    connections: int = 2000
    rooms: int = 20
    users: int = 50
    in_flight: int = 40
    rounds: int = 3


@asynccontextmanager
async def _stage(transport: str, workers: int, processes: int, display: Display) -> AsyncIterator[Stage]:
    server = ParleyDeployment(None, transport, apart=False, workers=workers)
    async with staged(server, processes, display) as stage:
        await _until_all_answer(server, workers)
        yield stage


async def _until_all_answer(server: ParleyDeployment, workers: int) -> None:
    """The first worker is there sooner than the others, and would get all connections. Raises TargetError."""
    deadline = time.monotonic() + START_SECONDS
    wanted = f'parley_workers{{state="answering"}} {workers}\n'
    while workers > 1 and wanted not in await server.rest.metrics_text():
        if time.monotonic() > deadline:
            raise TargetError("Some workers did not start.")
        await asyncio.sleep(0.05)


# --- a second node ---------------------------------------------------------------------------


async def fanout(options: NodeOptions, display: Display) -> list[Run]:
    """The same load on one process and on two workers, by turns: many chatrooms, each with sessions on every node.

    Both servers run all the time, so that they have the same neighbours; the ratios are of medians over the rounds.
    """
    async with AsyncExitStack() as stack:
        stages = [
            await stack.enter_async_context(_stage(options.transport, count, options.processes, display))
            for count in (1, NODES)
        ]
        writers = [await _furnish(stage, options) for stage in stages]
        runs: list[list[Run]] = [[], []]
        drive = Drive(in_flight=options.in_flight)
        for _ in range(options.rounds):
            for stage, ways, found in zip(stages, writers, runs, strict=True):
                found.append(await stage.run(drive, ways, options.duration))
        one, two = (median(found) for found in runs)
        return [one.titled("1 process"), beside(two, one).titled(f"{NODES} workers")]


async def _furnish(stage: Stage, options: NodeOptions) -> Writers:
    """Chatrooms with accounts of their own, and the sessions that hear each."""
    count, each = options.rooms * USERS_OF_A_ROOM, options.connections // options.rooms
    rooms = [range(at, at + USERS_OF_A_ROOM) for at in range(0, count, USERS_OF_A_ROOM)]
    seats = await stage.seat(count, rooms)
    credentials = [seats.credentials[room[number % USERS_OF_A_ROOM]] for room in rooms for number in range(each)]
    await stage.open(credentials, len(credentials))
    return [(room, range(at * each, (at + 1) * each)) for at, room in enumerate(seats.rooms)]


def beside(two: Run, one: Run) -> Run:
    """The figures of several workers, with what they say about one: a core each would bring so many times as much."""
    figures = {
        "of_one_wall": _ratio(two, one, "deliveries_per_s"),
        "of_one_per_cpu_s": _ratio(two, one, "deliveries_per_process_cpu_s"),
        "of_one_acked_per_s": _ratio(two, one, "acked_per_s"),
    }
    each = figures["of_one_per_cpu_s"]
    projected = None if each is None else NODES * each
    return two.with_figures({**figures, "of_one_with_a_core_each": projected})


def _ratio(run: Run, to: Run, name: str) -> Figure:
    figure, other = run.figures[name], to.figures[name]
    return figure / other if figure is not None and other else None


# --- from node to node -----------------------------------------------------------------------


class Arrivals(Load):
    """When one session had each event, and each of its messages the ack, in microseconds."""

    listens = True

    def __init__(self) -> None:
        super().__init__(lambda _number, _stamp: None, 0, Window(0, 0))
        self.events: dict[int, int] = {}
        self.answers: dict[int, int] = {}

    def acked(self, numbers: Iterable[int]) -> None:
        """Answers have come."""
        now = now_us()
        self.answers.update((number, now) for number in numbers)

    def heard(self, before: int, last: int) -> None:
        """Events have come."""
        now = now_us()
        self.events.update((seq, now) for seq in range(before + 1, last + 1))


class End(NamedTuple):
    """A session, and what came to it."""

    session: Session
    arrivals: Arrivals


async def hop(options: NodeOptions, display: Display) -> list[Run]:
    """One message at a time, from a session on one node to sessions on both: how much later the other node has it.

    Both sessions are in this process, with one clock.
    """
    async with _stage(options.transport, NODES, 1, display) as stage:
        seats = await stage.seat(2, [[0, 1]])
        server = stage.deployment
        assert isinstance(server, ParleyDeployment)
        here, there = await _on_two_nodes(server, seats.credentials[0])
        display.say("measuring")
        count = int(options.duration / GAP)
        usage, began = server.usage(), time.perf_counter()
        await _talk(server, seats.rooms[0], here, WARM_UP + count)
        await _until_both_have(here, there, WARM_UP + count)
        used, seconds = server.usage(), time.perf_counter() - began
        for end in (here, there):
            end.session.close()
        run = hopped(here.arrivals, there.arrivals, WARM_UP)
        return [run.with_figures(_shares(used.since(usage) if used and usage else None, seconds))]


async def _on_two_nodes(server: ParleyDeployment, credential: str) -> tuple[End, End]:
    """Opens sessions until there is one on each of two workers; the others leave. Raises TargetError."""
    found: dict[int, End] = {}
    for _ in range(64):
        before = await _attached(server)
        arrivals = Arrivals()
        generator = Generator(server.dialect())
        session = Session(Reading(generator.dialect, arrivals), credential)
        await generator.connect(session)
        after = await _attached(server)
        node = max(after, key=lambda worker: after[worker] - before.get(worker, 0))
        if found.setdefault(node, End(session, arrivals)).session is not session:
            session.close()
        if len(found) == NODES:
            return found[0], found[1]
    raise TargetError("All connections went to one worker.")


async def _attached(server: ParleyDeployment) -> dict[int, int]:
    """Sessions by worker."""
    text = await server.rest.metrics_text()
    found = re.findall(r'^parley_sessions\{worker="(\d+)",state="attached"\} (\S+)$', text, re.MULTILINE)
    return {int(worker): int(float(count)) for worker, count in found}


async def _talk(server: ParleyDeployment, room: str, here: End, count: int) -> None:
    build = server.dialect().sender(room)
    for number in range(count):
        here.session.send(build(number, now_us()))
        await asyncio.sleep(GAP)


async def _until_both_have(here: End, there: End, count: int) -> None:
    async with asyncio.timeout(10):
        while min(len(here.arrivals.events), len(there.arrivals.events), len(here.arrivals.answers)) < count:
            await asyncio.sleep(0.05)


def hopped(here: Arrivals, there: Arrivals, skip: int) -> Run:
    """How much later the other node's session had what the sender's own had, and its ack; without the first `skip`."""
    answers = dict(zip(sorted(here.events), (here.answers[number] for number in sorted(here.answers)), strict=True))
    kept = [seq for seq in sorted(here.events)[skip:] if seq in there.events]
    after_here = Counter(there.events[seq] - here.events[seq] for seq in kept)
    after_ack = Counter(there.events[seq] - answers[seq] for seq in kept)
    figures: dict[str, Figure] = {"messages": len(kept)}
    for name, values in (("after_delivery_here", after_here), ("after_ack", after_ack)):
        for label, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99)):
            found = percentile(values, share)
            figures[f"{name}_{label}_ms"] = None if found is None else found / 1000
    failures = dict(here.failures + there.failures)
    lost = len(here.events.keys() ^ there.events.keys())
    return Run("there", Verdict(not failures and not lost, lost=lost, failures=failures), figures=figures)


# --- idling ----------------------------------------------------------------------------------


async def idle(options: NodeOptions, display: Display, sessions: Sequence[int], rooms: Sequence[int]) -> list[Run]:
    """What nodes use that have nothing to do: with so many sessions in one chatroom, then with so many chatrooms."""
    async with _stage(options.transport, NODES, options.processes, display) as stage:
        found = [await _rest(stage, options, "nothing", 0)]
        everyone = range(options.users)
        seats = await stage.seat(options.users, [everyone])
        for count in sessions:
            await stage.open(seats.credentials, count - stage.sessions)
            found.append(await _rest(stage, options, f"{count} sessions", 1))
        await stage.leave()
        owners = await stage.seat(ALONE, [])
        made = 0
        for count in rooms:
            await _more_rooms(stage, owners.credentials, count - made)
            made = count
            await stage.open(owners.credentials, ALONE * ALONE)
            found.append(await _rest(stage, options, f"{count} rooms", count))
            await stage.leave()
        return found


async def _more_rooms(stage: Stage, owners: Sequence[str], count: int) -> None:
    """So many chatrooms, each of one of these alone."""
    stage.display.say(f"making {count} chatrooms")
    assert isinstance(stage.deployment, ParleyDeployment)
    rest = stage.deployment.rest
    await asyncio.gather(*(rest.chatroom(Account("", owners[number % ALONE]), []) for number in range(count)))


async def _rest(stage: Stage, options: NodeOptions, title: str, rooms: int) -> Run:
    stage.display.say(f"resting with {title}")
    await asyncio.sleep(min(REST, options.duration))
    server = stage.deployment
    usage, began = server.usage(), time.perf_counter()
    await asyncio.sleep(options.duration)
    used, seconds = server.usage(), time.perf_counter() - began
    memory = server.memory()
    figures: dict[str, Figure] = {
        "nodes": NODES,
        "sessions": stage.sessions,
        "chatrooms_on_each_node": rooms,
        "pss_of_all_nodes_mib": memory.pss / 2**20 if memory else None,
        **_shares(used.since(usage) if used and usage else None, seconds),
    }
    lost = sum(await stage.crew.all(failed))
    return Run(title, Verdict(not lost, failures={"connections lost": lost} if lost else {}), figures=figures)


def _shares(used: Usage | None, seconds: float) -> dict[str, Figure]:
    """Of one core."""
    names = ("process_cpu_share", "postgres_cpu_share", "redis_cpu_share")
    return dict.fromkeys(names) if used is None else dict(zip(names, (part / seconds for part in used), strict=True))
