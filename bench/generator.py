"""One generator process: its sessions, its share of the load, and what it has counted."""

from __future__ import annotations

import asyncio
import gc
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from bench.clock import Alarm, now_us, until
from bench.dialect import Dialect
from bench.frames import SeqCheck
from bench.load import Buckets, Closed, Listening, Load, Paced, Send, UntilHeard, Window
from bench.session import Reading, Session
from bench.target import TargetError
from bench.usage import waited

AT_ONCE = 64
"""Sessions that are opening together: below any listen backlog, and enough to keep the server busy."""
OPEN_SECONDS = 30.0
"""What one session may take to open while the others do too."""
LEAVE_SECONDS = 0.5
"""What the server gets to take goodbyes."""
SETTLE_SECONDS = 10.0
"""How long what is still under way may take after the last message."""
READ_FULLY = 50
"""Every so many-th session decodes all it gets: 2 %."""
NUMBERS = 10**9
"""Message numbers of one process: those of the next begin there."""
LONG_US = 60_000_000
"""Microseconds of a load during which garbage may pile up."""
LOOK_US = 10_000
"""Microseconds between two looks at how late our own timers are."""


@dataclass(frozen=True)
class Plan:
    """One process's share of one load. Times are microseconds of `bench.clock`.

    The load starts at `start`; what counts is from `begin` to `end`, in pieces of `tick`. `writers` has each chatroom
    with the sessions that write into it in turn. Either `rate` is messages a second of all processes together, of
    which this one has each `step`-th from the `offset`-th, or `in_flight` is this one's share. With
    `heard` a message into this chatroom, which is at `head`, is in flight until all have it, also those of so many
    `others`, the processes that tell this one. Each `timed`-th session looks at stamps.
    """

    start: int
    begin: int
    end: int
    tick: int
    writers: Sequence[tuple[str, Sequence[int]]]
    rate: float | None = None
    offset: int = 0
    step: int = 1
    in_flight: int = 0
    heard: str | None = None
    head: int = 0
    others: int = 0
    timed: int = READ_FULLY


class Sample(NamedTuple):
    """What one process has counted since the sample before. The others are as in Load.

    `cpu` is the seconds that it ran, `waited` those for which others had its core.
    """

    at: int
    sent: int
    acked: int
    delivered: int
    ack: dict[int, int]
    delivery: dict[int, int]
    lag: dict[int, int]
    cpu: float
    waited: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """What one process found when all was settled: of the whole load, with its warm-up."""

    last: Sample
    sent: int
    unacked: int
    delivered: int
    fully_read: int
    lost: int
    repeated: int
    reordered: int
    failures: dict[str, int] = field(default_factory=dict)
    waits: dict[str, dict[int, int]] = field(default_factory=dict)


class Sampler:
    """Takes what a load has counted, piece by piece, and how late our own timers were meanwhile."""

    def __init__(self) -> None:
        self._sent = self._acked = self._delivered = 0
        self._cpu, self._waited = time.process_time(), waited()
        self.lag = Buckets()

    def take(self, load: Load) -> Sample:
        """What is new."""
        cpu, wait = time.process_time(), waited()
        sample = Sample(
            now_us(),
            load.sent - self._sent,
            load.acks - self._acked,
            load.delivered - self._delivered,
            dict(load.ack),
            dict(load.delivery),
            dict(self.lag),
            cpu - self._cpu,
            wait - self._waited,
        )
        self._sent, self._acked, self._delivered = load.sent, load.acks, load.delivered
        self._cpu, self._waited = cpu, wait
        load.ack, load.delivery, self.lag = Buckets(), Buckets(), Buckets()
        return sample


class LagWatch:
    """Looks every few milliseconds how late it is: while the loop is busy, it measures itself.

    A look that could not be made counts too: a stall is as many looks as it is long.
    """

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler
        self._due = now_us() + LOOK_US
        self._alarm = Alarm(self._look)
        self._alarm.set(self._due)

    def _look(self) -> None:
        now = now_us()
        while self._due <= now:
            self._sampler.lag.count(now - self._due)
            self._due += LOOK_US
        self._alarm.set(self._due)

    def close(self) -> None:
        """No more."""
        self._alarm.close()


class Generator:
    """Sessions by number; `next` is the next message's.

    `post` takes samples while a load runs; `tell` takes what another process waits for.
    """

    def __init__(self, dialect: Dialect, index: int = 0, post: Callable[[Sample], None] = lambda _: None) -> None:
        self.dialect = dialect
        self.index = index
        self.post = post
        self.sessions: dict[int, Session] = {}
        self.next = index * NUMBERS
        self._nothing = Window(0, 0)
        self.reading = Reading(dialect, Load(lambda _number, _stamp: None, 0, self._nothing))
        self.tls = ssl.create_default_context() if dialect.tls else None
        self.tell: Callable[[int], None] = lambda _: None
        self._told: dict[int, int] = {}

    @property
    def load(self) -> Load:
        """The one that runs, or ran last."""
        return self.reading.load

    async def connect(self, session: Session) -> None:
        """Opens one. Raises TargetError, OSError, TimeoutError."""
        async with asyncio.timeout(OPEN_SECONDS):
            dialect, loop = self.dialect, asyncio.get_running_loop()
            await loop.create_connection(lambda: session, dialect.host, dialect.port, ssl=self.tls)
            await session.opened

    async def open(self, credentials: Mapping[int, str]) -> dict[bytes, int]:
        """A session for each number; the last seqs of their chatrooms. Raises TargetError, and closes all of these."""
        turns = asyncio.Semaphore(AT_ONCE)
        made: dict[int, Session] = {}

        async def one(number: int, credential: str) -> None:
            async with turns:
                made[number] = Session(self.reading, credential, read_fully=number % READ_FULLY == 0)
                await self.connect(made[number])

        try:
            async with asyncio.TaskGroup() as group:
                for number, credential in credentials.items():
                    group.create_task(one(number, credential))
        except BaseExceptionGroup as errors:
            for session in made.values():
                session.close()
            raise _reason(errors.exceptions[0]) from None
        self.sessions.update(made)
        gc.collect()
        gc.freeze()  # a collection that looks at every session is a pause that would be measured
        return self.heads()

    def heads(self) -> dict[bytes, int]:
        """The last seq of each chatroom, as far as any session here has it."""
        heads: dict[bytes, int] = {}
        for session in self.sessions.values():
            for room, check in session.checks.items():
                heads[room] = max(heads.get(room, 0), check.last)
        return heads

    async def run(self, plan: Plan) -> dict[str, int]:
        """Runs a load, and posts a sample at `begin` and after each tick. How many messages went into each chatroom."""
        sent: dict[str, int] = {room: 0 for room, _ in plan.writers}
        await self.drive(self._load(plan, sent), plan)
        return sent

    async def drive(self, load: Load, plan: Plan) -> None:
        """Runs a load in the times of a plan, with what has gone wrong while nothing ran."""
        load.failures += self.load.failures
        self.reading.load = load
        for number, session in self.sessions.items():
            session.timed = number % plan.timed == 0 or session.read_fully
        sampler = Sampler()
        watch = LagWatch(sampler)
        if plan.end - plan.begin < LONG_US:
            gc.disable()
        try:
            await until(plan.start)
            load.start()
            for at in (*range(plan.begin, plan.end, plan.tick), plan.end):
                await until(at)
                self.post(sampler.take(load))
        finally:
            load.stop()
            gc.enable()
            watch.close()
        self.next += load.sent

    async def settle(self, heads: Mapping[bytes, int]) -> Outcome:
        """Waits until all is acked and heard, but not for ever: what is missing then counts as lost."""
        load = self.load
        checks = [item for session in self.sessions.values() for item in session.checks.items()]
        waited = [(check, heads[room]) for room, check in checks]
        deadline = time.monotonic() + SETTLE_SECONDS
        while time.monotonic() < deadline:
            if load.acks == load.sent and all(check.last >= head for check, head in waited):
                break
            await asyncio.sleep(0.02)
        outcome = Outcome(
            Sampler().take(load),
            load.sent,
            load.sent - load.acks,
            load.delivered,
            load.fully_read,
            sum(check.lost(head) for check, head in waited),
            sum(check.repeated for check, _ in waited),
            sum(check.reordered for check, _ in waited),
            dict(load.failures),
            {kind: dict(times) for kind, times in load.waits.items()},
        )
        self._begin_anew(heads)
        return outcome

    def _begin_anew(self, heads: Mapping[bytes, int]) -> None:
        """What went wrong in one load is not told again in the next."""
        for session in self.sessions.values():
            session.delivered = 0
            session.checks = {
                room: SeqCheck(max(check.last, heads.get(room, 0))) for room, check in session.checks.items()
            }
        self.reading.load = Load(lambda _number, _stamp: None, 0, self._nothing)

    async def leave(self) -> None:
        """Ends the sessions so that the server keeps nothing of them; then drops the sockets."""
        if self.sessions and self.dialect.goodbye():
            for session in self.sessions.values():
                session.say_goodbye()
            await asyncio.sleep(LEAVE_SECONDS)
        self.close()

    def close(self) -> None:
        """Drops all sockets."""
        for session in self.sessions.values():
            session.close()
        self.sessions.clear()

    def told(self, index: int, seq: int) -> None:
        """The slowest receiver of another process has got so far."""
        before = self._told.get(index)
        if before is not None and seq > before:
            self._told[index] = seq
            self.load.heard(before, seq)

    # --- the load ----------------------------------------------------------------------------

    def _load(self, plan: Plan, sent: dict[str, int]) -> Load:
        window = Window(plan.begin, plan.end)
        send = self._sender(plan, sent)
        if plan.rate is not None and plan.writers:
            return Paced(send, self.next, window, plan.rate, plan.start, plan.offset, plan.step)
        if plan.heard is None:
            return Closed(send, self.next, window, plan.in_flight)
        room = plan.heard.encode()
        heads = [session.checks[room].last for session in self.sessions.values()]
        if plan.in_flight:
            self._told = dict.fromkeys(range(1, plan.others + 1), plan.head)
            return UntilHeard(send, self.next, window, plan.in_flight, [*heads, *self._told.values()])
        return Listening(window, heads, self.tell)

    def _sender(self, plan: Plan, sent: dict[str, int]) -> Send:
        """Chatrooms are served in turn, and so are the sessions that write into each."""
        ways = [
            (room, self.dialect.sender(room), [self.sessions[number] for number in numbers])
            for room, numbers in plan.writers
        ]
        turn = 0

        def send(number: int, stamp: int) -> None:
            nonlocal turn
            room, build, sessions = ways[turn % len(ways)]
            sessions[turn // len(ways) % len(sessions)].send(build(number, stamp))
            sent[room] += 1
            turn += 1

        return send


def _reason(error: BaseException) -> TargetError:
    if isinstance(error, TargetError):
        return error
    if isinstance(error, TimeoutError):
        return TargetError(f"A session did not open within {OPEN_SECONDS:g} s")
    return TargetError(f"A session could not be opened: {error}")
