"""The generator's clock: microseconds that all processes of a machine share, and an alarm that keeps to them."""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
import time
from collections.abc import Callable

_NONBLOCK = 0o4000
_ABSOLUTE = 1


def now_us() -> int:
    """CLOCK_MONOTONIC, the same in all processes."""
    return time.monotonic_ns() // 1000


async def until(us: int) -> None:
    """Waits for a moment, as precisely as the loop does."""
    await asyncio.sleep(max(0, us - now_us()) / 1e6)


class Alarm:
    """Calls back at a moment. An event loop's own timers are a millisecond late; timerfd(2) is some 50 µs."""

    def __init__(self, ring: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._ring = ring
        self._fd = -1
        self._timer: asyncio.TimerHandle | None = None
        if sys.platform == "linux":
            self._libc = ctypes.CDLL(None, use_errno=True)
            self._fd = self._libc.timerfd_create(time.CLOCK_MONOTONIC, _NONBLOCK)
            self._loop.add_reader(self._fd, self._rung)

    def set(self, us: int) -> None:
        """The next moment; one that has passed is now."""
        if self._fd < 0:
            self._timer = self._loop.call_later(max(0, us - now_us()) / 1e6, self._ring)
            return
        # An itimerspec: no interval, then seconds and nanoseconds. All zeros would turn it off.
        seconds, rest = divmod(max(us, 1), 1_000_000)
        self._libc.timerfd_settime(self._fd, _ABSOLUTE, (ctypes.c_long * 4)(0, 0, seconds, rest * 1000), None)

    def _rung(self) -> None:
        try:
            os.read(self._fd, 8)
        except BlockingIOError:  # it was set anew in between
            return
        self._ring()

    def close(self) -> None:
        """It does not ring any more."""
        if self._timer is not None:
            self._timer.cancel()
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1
