"""The scenarios: who is there, who sends, and when the next message may go."""

from __future__ import annotations

import asyncio
import base64
import statistics
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from uuid import UUID

from bench import report
from bench.frames import send_template
from bench.lines import noise_costs
from bench.load import Load, UntilHeard, judge, measure, settle
from bench.report import Result
from bench.rest import Account, Rest
from bench.session import BenchSession, TcpWire, Wire, close_sessions, leave, open_sessions
from bench.target import Target, TargetError, target
from bench.usage import Memory

TEXT = ("The quick brown fox jumps over the lazy dog. " * 5)[:200]
"""What is sent: 200 bytes, the length of a longish chat message."""
STEPS = 5
"""How many times memory is read while idle sessions are opened."""
FIRST = 100
"""Idle sessions before the first reading: what the code itself needs is there then."""
PAUSE = 1.0
"""Seconds of rest before memory is read, in runs that are not shorter themselves."""


@dataclass(frozen=True, slots=True)
class Options:
    """What a run was asked to do. `duration` is in seconds."""

    url: str | None
    connections: int
    in_flight: tuple[int, ...]
    rooms: int
    users: int
    duration: float
    codec: str


class Stage:
    """A server with accounts and open sessions. `heads` are the last seqs of the chatrooms, as far as we sent."""

    def __init__(self, options: Options, server: Target) -> None:
        self.options = options
        self.server = server
        self.rest = Rest(server.url)
        self.idle = Load(lambda _: None, 0, 0)
        self.wire = Wire(server.url, options.codec, self.idle, TEXT)
        self.sessions: list[BenchSession] = []
        self.heads: dict[bytes, int] = {}
        self.sent = 0

    async def accounts(self, count: int) -> list[Account]:
        """So many new accounts."""
        report.progress(f"signing up {count} users")
        return await self.rest.accounts(count)

    async def open(self, accounts: Sequence[Account], count: int) -> None:
        """So many more sessions."""
        report.progress(f"opening {count} sessions")
        self.sessions += await open_sessions(self.wire, accounts, count, first=len(self.sessions))
        self.heads = {room: check.last for session in self.sessions for room, check in session.checks.items()}

    def senders(self, room: UUID, sessions: Sequence[BenchSession]) -> Callable[[int], None]:
        """Sends the message with a number into a chatroom, each time from the next of its sessions."""
        build, key, heads = send_template(self.wire.codec, room, TEXT, self.wire.pack), str(room).encode(), self.heads
        turn = 0

        def send(number: int) -> None:
            nonlocal turn
            heads[key] += 1
            sessions[turn].send(build(number))
            turn = (turn + 1) % len(sessions)

        return send

    async def run(self, load: Load) -> Result:
        """Measures one load and judges it."""
        report.progress(f"measuring, {load.in_flight} in flight")
        self.wire.listener = load
        load.failures += self.idle.failures
        window = await measure(self.server, self.rest, load, self.sessions, self.options.duration)
        await settle(load, self.sessions, self.heads)
        self.wire.listener = self.idle
        self.sent += load.sent
        verdict = judge(load, self.sessions, self.heads)
        for session in self.sessions:
            session.delivered = session.fully_read = 0
        return report.loaded(window, verdict)


@asynccontextmanager
async def staged(options: Options, *, apart: bool) -> AsyncIterator[Stage]:
    """A server of our own, unless the options name one, with nobody on it yet."""
    async with target(options.url, apart=apart) as server:
        stage = Stage(options, server)
        try:
            yield stage
        finally:
            close_sessions(stage.sessions)


async def fanout(options: Options) -> list[Result]:
    """One chatroom that all sessions hear; a message is done when its sender has the ack and everyone has it."""
    async with staged(options, apart=True) as stage:
        accounts = await stage.accounts(min(options.users, options.connections))
        room = await stage.rest.chatroom(accounts[0], accounts[1:])
        await stage.open(accounts, options.connections)
        results = []
        for in_flight in options.in_flight:
            heads = [session.checks[str(room).encode()].last for session in stage.sessions]
            load = UntilHeard(stage.senders(room, stage.sessions), in_flight, stage.sent, heads)
            results.append((await stage.run(load)).titled(f"{in_flight} in flight"))
        return results


async def tcp(options: Options) -> list[Result]:
    """Bots in one chatroom, over TCP: the same load without Noise and with it, so that the difference is Noise."""
    async with staged(options, apart=True) as stage:
        info = await stage.rest.info()
        if info.tcp is None or info.tcp.tls or not info.tcp.clear:
            raise TargetError("The server has no TCP port that may be used without Noise; there is nothing to compare.")
        [owner] = await stage.accounts(1)
        report.progress(f"making {options.connections} bots")
        bots = await stage.rest.bots(owner, options.connections)
        room = await stage.rest.chatroom(owner, bots)
        key = base64.urlsafe_b64decode(info.noise.public_key + "=")
        clear = await _tcp_runs(stage, bots, room, TcpWire(stage.server.url, info.tcp.port, None, stage.wire))
        sealed = await _tcp_runs(stage, bots, room, TcpWire(stage.server.url, info.tcp.port, key, stage.wire))
        costs = noise_costs()
        return [
            *(result.titled(f"clear, {n} in flight") for n, result in zip(options.in_flight, clear, strict=True)),
            *(
                report.compared(under, without, *costs).titled(f"Noise, {n} in flight")
                for n, under, without in zip(options.in_flight, sealed, clear, strict=True)
            ),
        ]


async def _tcp_runs(stage: Stage, bots: Sequence[Account], room: UUID, wire: TcpWire) -> list[Result]:
    stage.wire = wire
    await stage.open(bots, len(bots))
    results = []
    for in_flight in stage.options.in_flight:
        heads = [session.checks[str(room).encode()].last for session in stage.sessions]
        load = UntilHeard(stage.senders(room, stage.sessions), in_flight, stage.sent, heads)
        results.append(await stage.run(load))
    await leave(stage.sessions)
    stage.sessions = []
    return results


async def durable(options: Options) -> list[Result]:
    """Chatrooms of two; a message is done when it is acked, which is when it is on disk."""
    async with staged(options, apart=False) as stage:
        accounts = await stage.accounts(options.users)
        pairs = [_pair(number, len(accounts)) for number in range(options.rooms)]
        rooms = await asyncio.gather(*(stage.rest.chatroom(accounts[a], [accounts[b]]) for a, b in pairs))
        await stage.open(accounts, len(accounts))
        ways = [
            stage.senders(room, [stage.sessions[a], stage.sessions[b]])
            for room, (a, b) in zip(rooms, pairs, strict=True)
        ]
        results = []
        for in_flight in options.in_flight:
            load = Load(lambda number: ways[number % len(ways)](number), in_flight, stage.sent)
            results.append((await stage.run(load)).titled(f"{in_flight} in flight"))
        return results


def _pair(number: int, users: int) -> tuple[int, int]:
    """The two members of a chatroom: users of their own while there are enough, else in turn."""
    first = 2 * number % users
    return first, (first + 1) % users


async def idle(options: Options) -> list[Result]:
    """Sessions that do nothing; the server's memory is read as they grow in number, then its CPU while they rest."""
    async with staged(options, apart=True) as stage:
        accounts = await stage.accounts(min(options.users, options.connections))
        for _ in range(options.rooms):
            await stage.rest.chatroom(accounts[0], accounts[1:])
        before = stage.server.memory()
        points = [point async for point in _grow(stage, accounts)]
        report.progress("resting")
        usage, began = stage.server.usage(), time.perf_counter()
        await asyncio.sleep(options.duration)
        used, seconds = stage.server.usage(), time.perf_counter() - began
        resting = used.since(usage) if used and usage else None
        return [report.idle(len(stage.sessions), before, points, slope(points), resting, seconds, stage.idle.failures)]


async def _grow(stage: Stage, accounts: Sequence[Account]) -> AsyncIterator[tuple[int, Memory]]:
    total = stage.options.connections
    first = min(FIRST, total // 2)
    for step in range(STEPS + 1):
        wanted = first + (total - first) * step // STEPS
        await stage.open(accounts, wanted - len(stage.sessions))
        await asyncio.sleep(min(PAUSE, stage.options.duration))
        if memory := stage.server.memory():
            yield wanted, memory


def slope(points: Sequence[tuple[int, Memory]]) -> float | None:
    """Bytes of PSS per session, by least squares; None where memory can't be read."""
    if not points:
        return None
    return statistics.linear_regression([count for count, _ in points], [memory.pss for _, memory in points]).slope
