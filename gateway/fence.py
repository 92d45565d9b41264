"""After a pause that others may have taken for death, a node asks what it has lost before it does anything more.

A process that was stopped (SIGSTOP, a paused virtual machine, a long swap) does
not know it when it goes on: its sockets, timers and transactions are as they
were, and meanwhile another node may have taken over its sessions. So whatever
must not happen for a lost session (taking commands, writing to its socket,
committing) first looks here.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

log = logging.getLogger(__name__)

STALL = 0.4
"""Seconds without a turn of the loop after which a node has to ask. Others wait 0.5 s before they go on without it."""

LOOK = 0.1
"""Seconds between two looks at the clock."""


Ask = Callable[[float], Awaitable[bool]]
"""Finds out whether something was lost in a pause of so many seconds."""


class Fence(Protocol):
    """Whether this node may act for its sessions. `losses` counts how often it found that some were gone."""

    losses: int

    @property
    def clear(self) -> bool:
        """Whether it may, at this moment."""
        ...

    def then(self, callback: Callable[[], None]) -> None:
        """Calls back when it may again."""
        ...

    async def passed(self) -> None:
        """Waits until it may."""
        ...


class Open:
    """The fence of a single node: there is nobody to lose anything to."""

    losses = 0
    clear = True

    def then(self, callback: Callable[[], None]) -> None:
        """It always may."""
        callback()

    async def passed(self) -> None:
        """At once."""


class PauseFence:
    """Notices pauses by the clock."""

    def __init__(self) -> None:
        self._ask: Ask | None = None
        self._seen = time.monotonic()
        self._asking: asyncio.Task[None] | None = None
        self._pause = 0.0  # the longest since the last question
        self._then: list[Callable[[], None]] = []
        self.losses = 0

    def ask_by(self, ask: Ask) -> None:
        """Has `ask` find out what was lost in a pause of so many seconds; it says whether anything was."""
        self._ask = ask

    @property
    def clear(self) -> bool:
        """Whether nothing is in doubt. It looks at the clock: after a pause, this may be the first code that runs."""
        now = time.monotonic()
        pause = now - self._seen
        self._seen = now
        if pause > STALL and self._ask is not None:
            log.warning("paused; asking which sessions are gone", extra={"seconds": round(pause, 3)})
            self._pause = max(self._pause, pause)
            if self._asking is None:
                self._asking = asyncio.get_running_loop().create_task(self._find_out(self._ask))
        return self._asking is None

    async def _find_out(self, ask: Ask) -> None:
        """Asks until no pause has come since the question: an answer is worth nothing after the next pause."""
        try:
            while pause := self._pause:
                self._pause = 0.0
                self.losses += await ask(pause)
                _ = self.clear
        finally:
            self._asking = None
            then, self._then = self._then, []
            for callback in then:
                callback()

    def then(self, callback: Callable[[], None]) -> None:
        """Calls back when it is clear again."""
        self._then.append(callback)

    async def passed(self) -> None:
        """Waits until it is clear."""
        while not self.clear:
            assert self._asking is not None
            await asyncio.wait({self._asking})

    async def watch_forever(self) -> None:
        """Looks at the clock again and again, so that an idle loop is not taken for a paused one."""
        self._seen = time.monotonic()  # what the start took was no pause
        while True:
            _ = self.clear
            await asyncio.sleep(LOOK)
