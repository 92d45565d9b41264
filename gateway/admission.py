"""Who opens or resumes a session next, when more clients come than can be let in at once.

Opening a session costs queries and a good part of a millisecond of the loop, and
after a break everyone comes back in the same moment. So they take turns: those who
resume first, for they cost less and lose more, then those who open new sessions.
Who would have to wait too long is told when to come back, each at a time of their own.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from math import exp
from time import monotonic

from protocol.errors import ChatError

FIRST_GUESS = 0.001
"""Seconds between two turns, until it is known how long they take here; measured in bench/README.md."""
MEMORY = 2.0
"""Seconds over which that is averaged: a stall of the database for one must not send everyone away."""
LONGEST = 60.0
"""Seconds after which clients are told to come back, at most: servers may recover sooner than they feared."""
JITTER = 0.25
"""Share of that time that chance adds, for those who were told the same."""


class Admission:
    """So many turns at once; nobody waits longer than `patience` seconds.

    `clock` gives seconds that never go back, `chance` a number in [0, 1). `crowded` is told
    when somebody has to wait, and when all turns are over again.
    """

    def __init__(
        self,
        at_once: int,
        patience: float,
        clock: Callable[[], float] = monotonic,
        chance: Callable[[], float] = random.random,
        crowded: Callable[[bool], None] = lambda _: None,
    ) -> None:
        self._at_once = self._free = at_once
        self._patience = patience
        self._clock = clock
        self._chance = chance
        self._tell_crowded = crowded
        self._crowded = False
        self._resumes: deque[asyncio.Future[bool]] = deque()
        self._logins: deque[asyncio.Future[bool]] = deque()
        self._ends, self._seconds = 100.0, 100 * FIRST_GUESS  # turns that ended while someone waited; both fade
        self._ended_at: float | None = None
        self._promised = 0.0  # when the last of those who were sent away comes back

    @property
    def working(self) -> int:
        """Turns that are taken now."""
        return self._at_once - self._free

    @property
    def _apart(self) -> float:
        """Seconds between the ends of two turns."""
        return self._seconds / self._ends

    @property
    def waiting(self) -> int:
        """Clients that wait for theirs."""
        return len(self._resumes) + len(self._logins)

    @asynccontextmanager
    async def turn(self, *, resumes: bool) -> AsyncIterator[None]:
        """Waits for a turn, and holds it. Raises ChatError SERVICE_UNAVAILABLE, with the time to come back after."""
        if self._free > 0:
            self._free -= 1
        else:
            await self._wait(self._resumes if resumes else self._logins)
        try:
            yield
        finally:
            self._end()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Within a turn: another has it while this client waits for another node, and then there is one more at work.

        It does not wait to be let in again: somebody at work may wait for what it brings.
        """
        self._hand_on()
        try:
            yield
        finally:
            self._free -= 1

    async def _wait(self, queue: deque[asyncio.Future[bool]]) -> None:
        ahead = len(self._resumes) if queue is self._resumes else self.waiting
        if ahead * self._apart > self._patience:
            raise self._full()
        self._be_crowded(True)
        loop = asyncio.get_running_loop()
        place: asyncio.Future[bool] = loop.create_future()
        queue.append(place)
        timer = loop.call_later(self._patience, _settle, place, False)
        try:
            if not await place:
                raise self._full()
        except asyncio.CancelledError:
            if not place.cancelled() and place.result():
                self._hand_on()
            raise
        finally:
            timer.cancel()
            while queue and queue[0].done():  # those who gave up; all have the same patience
                queue.popleft()

    def _end(self) -> None:
        if self._hand_on():
            self._measure()
        else:
            self._ended_at = None

    def _hand_on(self) -> bool:
        """The turn goes to the next, or is free; then False."""
        for queue in (self._resumes, self._logins) if self._free >= 0 else ():  # below zero: some came back from aside
            while queue:
                if _settle(queue.popleft(), True):
                    return True
        self._free += 1
        if self._free == self._at_once:
            self._be_crowded(False)
        return False

    def _be_crowded(self, crowded: bool) -> None:
        if crowded != self._crowded:
            self._crowded = crowded
            self._tell_crowded(crowded)

    def _measure(self) -> None:
        now = self._clock()
        if self._ended_at is not None:
            gap = now - self._ended_at
            fading = exp(-gap / MEMORY)
            self._ends = self._ends * fading + 1
            self._seconds = self._seconds * fading + gap
        self._ended_at = now

    def _full(self) -> ChatError:
        """Everyone who is sent away gets a time of their own, behind those who wait and those who were sent before."""
        now = self._clock()
        self._promised = max(self._promised, now + self.waiting * self._apart) + self._apart
        self._promised = min(self._promised, now + LONGEST)
        seconds = (self._promised - now) * (1 + JITTER * self._chance())
        message = "Too many clients are coming at once; come back after retry_after seconds."
        return ChatError("SERVICE_UNAVAILABLE", message, retry_after=round(seconds, 3))


def _settle(place: asyncio.Future[bool], admitted: bool) -> bool:
    """Tells who waits. False when nobody does any more."""
    if place.done():
        return False
    place.set_result(admitted)
    return True
