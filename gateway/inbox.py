"""Frames of one client that wait while one is being worked on. They are taken in the order in which they came."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")

LIMIT = 64
"""Frames that may wait; then the socket is not read."""
AT_ONCE = 32
"""Frames that may be taken before others get their turn."""
FULL_POLL = 0.02
"""Seconds between looks at the outbox of a client that asks and does not read."""


class Inbox(Generic[T]):
    """Exists only while there is something to wait for: it is empty and over when `done` has been called.

    `take` works on one frame. `held` says that the client must first read its answers. `read` tells the socket
    to go on reading, or not to. `done` gets the exception that ended it, or None.
    """

    __slots__ = ("_done", "_frames", "_held", "_read", "_take", "worker")

    def __init__(
        self,
        first: T,
        take: Callable[[T], Awaitable[None]],
        held: Callable[[], bool],
        read: Callable[[bool], None],
        done: Callable[[Exception | None], None],
    ) -> None:
        self._frames = deque([first])
        self._take = take
        self._held = held
        self._read = read
        self._done = done
        self.worker = asyncio.create_task(self._work())

    def put(self, frame: T) -> None:
        """One more."""
        self._frames.append(frame)
        if len(self._frames) >= LIMIT:
            self._read(False)

    def stop(self) -> None:
        """What waits is not taken any more; what is being worked on is finished."""
        self._frames.clear()

    async def _work(self) -> None:
        failure = None
        taken = 0
        try:
            while self._frames:
                if len(self._frames) == LIMIT // 2:
                    self._read(True)
                if self._held():
                    await asyncio.sleep(FULL_POLL)
                else:
                    await self._take(self._frames.popleft())
                    taken += 1
                    if taken % AT_ONCE == 0:
                        await asyncio.sleep(0)
        except Exception as error:
            failure = error
        finally:
            self._done(failure)
