"""Closed-loop load: so many messages are in flight, and the next goes out when one is done."""

from __future__ import annotations

import asyncio
import time
from array import array
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from bench.rest import Rest
from bench.session import BenchSession
from bench.target import Target
from bench.usage import Usage

Clock = Callable[[], float]

WARM_UP = 1.0
"""Seconds of load before the measured ones: connections to the database open, caches fill."""
SETTLE_SECONDS = 10.0
"""How long what is still under way may take after the last message."""
LAG_INTERVAL = 0.01
"""Seconds between two looks at how late our own loop is."""


class Load:
    """Sends messages and counts answers. `send` writes the message with a number to some session's socket.

    Latency runs from the moment a message could go, when its slot became free, to its ack.
    """

    def __init__(
        self, send: Callable[[int], None], in_flight: int, first: int, clock: Clock = time.perf_counter
    ) -> None:
        self._send = send
        self.in_flight = in_flight
        self._first = first
        self._clock = clock
        self._starts: dict[int, float] = {}
        self._running = False
        self.sent = 0
        self.acks = 0
        self.latencies = array("d")
        self.failures: Counter[str] = Counter()

    def start(self) -> None:
        """Fills the slots."""
        self._running = True
        self._refill(self._clock())

    def stop(self) -> None:
        """Sends no more."""
        self._running = False

    def done(self) -> int:
        """How many messages have left their slots."""
        return self.acks

    def acked(self, numbers: list[int]) -> None:
        """Answers have come; a second answer to the same message is a failure."""
        now = self._clock()
        for number in numbers:
            started = self._starts.pop(number, None)
            if started is None:
                self.failed("an ack that nobody waits for")
                continue
            self.acks += 1
            self.latencies.append(now - started)
        self._refill(now)

    def heard(self, before: int, last: int) -> None:
        """Receivers do not matter here."""

    def failed(self, what: str) -> None:
        """Counted, and told at the end."""
        self.failures[what] += 1

    def _refill(self, now: float) -> None:
        while self._running and self.sent - self.done() < self.in_flight:
            number = self._first + self.sent
            self._starts[number] = now
            self.sent += 1
            self._send(number)


class UntilHeard(Load):
    """A message is in flight until it is acked and every receiver of the one chatroom has it."""

    def __init__(self, send: Callable[[int], None], in_flight: int, first: int, heads: Iterable[int]) -> None:
        super().__init__(send, in_flight, first)
        self._receivers = Counter(heads)  # how many receivers have got just so far
        self._lowest = self._base = min(self._receivers)

    def done(self) -> int:
        """What the slowest receiver has, if the acks are there too."""
        return min(self.acks, self._lowest - self._base)

    def heard(self, before: int, last: int) -> None:
        """Moves a receiver on; when it was the slowest, the next message may go."""
        receivers = self._receivers
        receivers[before] -= 1
        receivers[last] += 1
        if receivers[before] or before != self._lowest:
            return
        while not receivers[self._lowest]:
            del receivers[self._lowest]
            self._lowest += 1
        self._refill(self._clock())


@dataclass(frozen=True, slots=True)
class Window:
    """What happened in the measured seconds. `batch` is the mean size of a commit, where it is known."""

    seconds: float
    sent: int
    acked: int
    delivered: int
    latencies: Sequence[float]
    usage: Usage | None
    own_cpu: float
    lag: Sequence[float]
    batch: float | None


@asynccontextmanager
async def lag_of_this_loop() -> AsyncIterator[list[float]]:
    """Collects how many seconds late our own timers are: while the loop is busy, it measures itself."""
    lags: list[float] = []

    async def watch() -> None:
        while True:
            due = time.perf_counter() + LAG_INTERVAL
            await asyncio.sleep(LAG_INTERVAL)
            lags.append(time.perf_counter() - due)

    task = asyncio.create_task(watch())
    try:
        yield lags
    finally:
        task.cancel()


async def measure(target: Target, rest: Rest, load: Load, sessions: Sequence[BenchSession], seconds: float) -> Window:
    """Runs the load: a warm-up, the measured seconds, then until what was sent is settled or has had its time."""
    load.start()
    try:
        await asyncio.sleep(min(WARM_UP, seconds))
        return await _window(target, rest, load, sessions, seconds)
    finally:
        load.stop()


async def _window(target: Target, rest: Rest, load: Load, sessions: Sequence[BenchSession], seconds: float) -> Window:
    commits = await rest.metrics()
    async with lag_of_this_loop() as lags:
        usage, cpu, began = target.usage(), time.process_time(), time.perf_counter()
        sent, acked, first = load.sent, load.acks, len(load.latencies)
        delivered = sum(session.delivered for session in sessions)
        await asyncio.sleep(seconds)
        took, used = time.perf_counter() - began, target.usage()
        window = Window(
            seconds=took,
            sent=load.sent - sent,
            acked=load.acks - acked,
            delivered=sum(session.delivered for session in sessions) - delivered,
            latencies=load.latencies[first:],
            usage=used.since(usage) if used and usage else None,
            own_cpu=(time.process_time() - cpu) / took,
            lag=lags[:],
            batch=None,
        )
    load.stop()
    return with_batch(window, commits, await rest.metrics())


def with_batch(window: Window, before: dict[str, float], after: dict[str, float]) -> Window:
    """The window with the mean size of the commits between two readings of the metrics."""
    size, count = (
        after.get(name, 0.0) - before.get(name, 0.0)
        for name in ("parley_commit_batch_size_sum", "parley_commit_batch_size_count")
    )
    if not count:
        return window
    values = {name: getattr(window, name) for name in Window.__dataclass_fields__}
    return Window(**{**values, "batch": size / count})


async def settle(load: Load, sessions: Sequence[BenchSession], heads: dict[bytes, int]) -> None:
    """Waits until all is acked and heard, but not for ever: what is missing then counts as lost."""

    def whole() -> bool:
        return load.acks == load.sent and all(
            check.last >= heads[room] for session in sessions for room, check in session.checks.items()
        )

    deadline = time.perf_counter() + SETTLE_SECONDS
    while not whole() and time.perf_counter() < deadline:
        await asyncio.sleep(0.05)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether everything arrived once and in order, over the whole run with its warm-up."""

    sent: int
    unacked: int
    delivered: int
    fully_read: int
    lost: int
    repeated: int
    reordered: int
    failures: dict[str, int]

    @property
    def clean(self) -> bool:
        """Nothing went wrong."""
        return not (self.unacked or self.lost or self.repeated or self.reordered or self.failures)


def judge(load: Load, sessions: Sequence[BenchSession], heads: dict[bytes, int]) -> Verdict:
    """Compares what every receiver had with what was sent. `heads` are the chatrooms' last seqs by then."""
    checks = [(room, check) for session in sessions for room, check in session.checks.items()]
    return Verdict(
        sent=load.sent,
        unacked=load.sent - load.acks,
        delivered=sum(session.delivered for session in sessions),
        fully_read=sum(session.fully_read for session in sessions),
        lost=sum(check.lost(heads[room]) for room, check in checks),
        repeated=sum(check.repeated for _, check in checks),
        reordered=sum(check.reordered for _, check in checks),
        failures=dict(load.failures),
    )
