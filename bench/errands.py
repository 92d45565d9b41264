"""Things of several kinds that are done at rates of their own, whatever became of those before: an open loop."""

from __future__ import annotations

import asyncio
import heapq
import random
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, NamedTuple

from bench.clock import now_us
from bench.load import Buckets, Scheduled, Window
from bench.target import TargetError

MESSAGE = "message"
"""The kind whose answer is the ack of a message."""


Check = Callable[[Any], str | None]
"""What is wrong with the data of an answer; None if nothing is."""


class Errand(NamedTuple):
    """What is begun `rate` times a second. `begin` gets the errand's number and when it was due.

    It ends by `Errands.done` with that number; one that returns an awaitable ends with that.
    """

    kind: str
    rate: float
    begin: Callable[[int, int], Awaitable[None] | None]


class Errands(Scheduled):
    """Begins errands when they are due. `waits` has how long each kind took, from when it was due to its end."""

    def __init__(self, window: Window, start: int, first: int, clock: Callable[[], int] = now_us) -> None:
        super().__init__(lambda _number, _stamp: None, first, window, clock)
        self._start = start
        self._kinds: dict[int, tuple[str, int]] = {}  # and when it was due
        self._checks: dict[int, Check] = {}
        self._due: list[tuple[float, int, Errand]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def plan(self, errands: Iterable[Errand]) -> None:
        """What to do. Each kind begins somewhere in its first interval, so that kinds do not march in step."""
        for index, errand in enumerate(errands):
            if errand.rate > 0:
                heapq.heappush(self._due, (self._start + random.random() * 1e6 / errand.rate, index, errand))

    def go(self) -> None:
        """Everything that is due by now."""
        now = min(self._clock(), self._window.end - 1)
        while self._due and self._due[0][0] <= now:
            due, index, errand = self._due[0]
            heapq.heapreplace(self._due, (due + 1e6 / errand.rate, index, errand))
            self.begin(errand, int(due))
        if self._alarm is not None and self._due and self._due[0][0] < self._window.end:
            self._alarm.set(int(self._due[0][0]))

    def begin(self, errand: Errand, due: int) -> None:
        """One of them."""
        number = self._next
        self._next += 1
        self._starts[number], self._kinds[number] = due, (errand.kind, due)
        self.sent += 1
        work = errand.begin(number, due)
        if work is not None:
            task = asyncio.ensure_future(self._see_to(number, work))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _see_to(self, number: int, work: Awaitable[None]) -> None:
        try:
            await work
        except (TargetError, OSError, TimeoutError) as error:
            self.refused(number, str(error) or type(error).__name__)
        else:
            self.done(number)

    def rest(self, number: int) -> None:
        """What this errand has done so far does not count: its time begins now."""
        self._starts[number] = self._clock()

    def expect(self, number: int, check: Check) -> None:
        """The answer has to pass this."""
        self._checks[number] = check

    def answered(self, number: int, data: Any) -> None:
        """Its answer has come."""
        check = self._checks.pop(number, None)
        wrong = check(data) if check else None
        if wrong:
            self.refused(number, wrong)
        else:
            self.done(number)

    def done(self, number: int) -> None:
        """It has ended well; one that nobody waits for is a failure."""
        started = self._starts.pop(number, None)
        if started is None:
            self.failed("an answer that nobody waits for")
            return
        self.acks += 1
        kind, due = self._kinds.pop(number)
        begin, end = self._window
        if begin <= due < end:
            times = self.ack if kind == MESSAGE else self.waits.setdefault(kind, Buckets())
            times.count(self._clock() - started)

    def refused(self, number: int, why: str) -> None:
        """It has ended, but not well."""
        self._checks.pop(number, None)
        if self._starts.pop(number, None) is not None:
            self.acks += 1
            self.failed(f"{self._kinds.pop(number)[0]}: {why}")

    async def ended(self, patience: float) -> None:
        """Waits until all have ended, so many seconds at most; the others are failures."""
        try:
            async with asyncio.timeout(patience):
                while self._starts:
                    await asyncio.sleep(0.02)
        except TimeoutError:
            for task in self._tasks:
                task.cancel()
            for number in list(self._starts):
                self.refused(number, f"no answer within {patience:g} s")
