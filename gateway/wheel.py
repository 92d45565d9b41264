"""One timer for all sessions: a wheel whose buckets hold what is due in the same tenth of a second.

A timer per connection would cost a heap entry for each of thousands of idle
sockets and a reshuffle at every frame. Here traffic only notes the time, and
each object is looked at when it may be due (hashed timing wheels: Varghese and
Lauck, SOSP 1987).
"""

from __future__ import annotations

import asyncio
from typing import Protocol

TICK = 0.1
"""Seconds a bucket spans; deadlines are kept to this precision."""


class Timed(Protocol):
    """Something with a deadline. `due` belongs to the wheel: the tick it is filed under, or 0."""

    due: int

    def tick(self, now: float) -> float | None:
        """Does what is due and returns the next deadline (loop time), or None for no more."""
        ...


class Wheel:
    """Files objects by deadline. Made and used in the event loop's thread."""

    def __init__(self) -> None:
        self._buckets: dict[int, list[Timed]] = {}
        self._loop = asyncio.get_running_loop()
        self._at = int(self._loop.time() / TICK)
        self._handle = self._loop.call_at((self._at + 1) * TICK, self._turn)

    def now(self) -> float:
        """Loop time in seconds."""
        return self._loop.time()

    def schedule(self, timed: Timed, when: float) -> None:
        """Has `timed` looked at when `when` has passed, or earlier if it was filed earlier."""
        due = max(int(when / TICK) + 1, self._at + 1)
        if 0 < timed.due <= due:
            return
        timed.due = due
        self._buckets.setdefault(due, []).append(timed)

    def stop(self) -> None:
        """Ends the ticking."""
        self._handle.cancel()

    def _turn(self) -> None:
        now = self._loop.time()
        until = int(now / TICK)
        while self._at < until:
            self._at += 1
            for timed in self._buckets.pop(self._at, ()):
                if timed.due == self._at:
                    self._fire(timed, now)
        self._handle = self._loop.call_at((self._at + 1) * TICK, self._turn)

    def _fire(self, timed: Timed, now: float) -> None:
        timed.due = 0
        if (after := timed.tick(now)) is not None:
            self.schedule(timed, after)
