"""The channels a node hears, over one connection to Redis that is opened again whenever it breaks."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterable
from typing import Any, Never

from storage.redis_client import AWAY, RedisClient

log = logging.getLogger(__name__)

PING_AFTER = 2.0
"""Seconds of silence after which the server is asked for a sign of life."""
DEAD_AFTER = 4.0
"""Seconds of silence after which the connection counts as dead: noticed within 5 s."""
AGAIN = 0.25
"""Seconds between two attempts to connect."""
BATCH = 500
"""Channels in one SUBSCRIBE."""
HEARD_SECONDS = 0.25
"""How long somebody waits for a subscription; then the sweep has to do."""

Take = Callable[[bytes, bytes], None]


class Subscriber:
    """Hears channels. `take` gets each message with its channel; `restored` is called after a gap in hearing.

    In a cluster channels are `sharded`: a server tells them only where they were told to it.
    """

    def __init__(self, redis: RedisClient, take: Take, restored: Callable[[], None], *, sharded: bool = False) -> None:
        self._redis = redis
        self._sharded = sharded
        self._take = take
        self._restored = restored
        self._wanted: dict[bytes, None] = {}
        self._confirmed: set[bytes] = set()
        self._waiting: dict[bytes, list[asyncio.Future[None]]] = {}
        self._asked: set[bytes] = set()
        self._touched: dict[bytes, None] = {}  # perhaps no longer asked for as wanted
        self._changed = asyncio.Event()
        self._connected = False

    @property
    def connected(self) -> bool:
        """Whether messages come."""
        return self._connected

    @property
    def idle(self) -> bool:
        """Whether there is nothing to hear."""
        return not self._wanted

    def ask_again(self) -> None:
        """Asks for channels that the server has ended, if there are any."""
        if self._touched:
            self._changed.set()

    def add(self, channel: bytes) -> None:
        """Hears a channel from soon on."""
        self._wanted[channel] = None
        self._touch(channel)

    def remove(self, channel: bytes) -> None:
        """Has heard enough of it."""
        self._wanted.pop(channel, None)
        self._touch(channel)

    def _touch(self, channel: bytes) -> None:
        self._touched[channel] = None
        self._changed.set()

    async def heard(self, channels: Iterable[bytes]) -> None:
        """Waits until these are heard, a moment at most, and not at all while Redis is away."""
        missing = [channel for channel in channels if channel not in self._confirmed]
        if not missing or not self._connected:
            return
        loop = asyncio.get_running_loop()
        futures = [loop.create_future() for _ in missing]
        for channel, future in zip(missing, futures, strict=True):
            self._waiting.setdefault(channel, []).append(future)
        try:
            await asyncio.wait(futures, timeout=HEARD_SECONDS)
        finally:
            for channel, future in zip(missing, futures, strict=True):
                self._wait_no_more(channel, future)

    def _wait_no_more(self, channel: bytes, future: asyncio.Future[None]) -> None:
        """Others may go on waiting for the channel."""
        if (waiting := self._waiting.get(channel)) is not None and future in waiting:
            waiting.remove(future)
            if not waiting:
                del self._waiting[channel]

    async def run(self) -> Never:
        """Listens for ever, whatever happens to Redis."""
        first = True
        while True:
            try:
                await self._listen(restored=not first)
            except AWAY as error:
                if self._connected or first:
                    log.warning(
                        "Redis is away; nodes find each other's events by sweeping", extra={"error": str(error)}
                    )
            finally:
                self._forget()
            first = False
            await asyncio.sleep(AGAIN)

    async def _listen(self, *, restored: bool) -> None:
        pubsub: Any = self._redis.pubsub()
        try:
            await self._ask(pubsub)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._keep_asking(pubsub))
                tasks.create_task(self._read(pubsub, restored))
        except* AWAY as group:
            raise group.exceptions[0] from None
        finally:
            with contextlib.suppress(*AWAY):
                await pubsub.aclose()

    async def _keep_asking(self, pubsub: Any) -> Never:
        while True:
            await self._changed.wait()
            await self._ask(pubsub)

    async def _ask(self, pubsub: Any) -> None:
        """Tells the server what is wanted now."""
        self._changed.clear()
        touched, self._touched = self._touched, {}
        gone = [channel for channel in touched if channel in self._asked and channel not in self._wanted]
        new = [channel for channel in touched if channel in self._wanted and channel not in self._asked]
        self._asked.difference_update(gone)
        self._confirmed.difference_update(gone)
        self._asked.update(new)
        # One command takes channels of one slot only.
        size, s = (1, "s") if self._sharded else (BATCH, "")
        for batch in _batches(gone, size):
            await getattr(pubsub, f"{s}unsubscribe")(*batch)
        for batch in _batches(new, size):
            await getattr(pubsub, f"{s}subscribe")(*batch)

    async def _read(self, pubsub: Any, restored: bool) -> None:
        heard_at = pinged_at = time.monotonic()
        while True:
            message = await pubsub.get_message(timeout=1.0)
            now = time.monotonic()
            if message is not None:
                heard_at = now
                self._note(message)
                if restored and self._complete():
                    restored = False
                    self._restored()
            elif now - heard_at > DEAD_AFTER:
                raise TimeoutError("Redis says nothing")
            elif now - max(heard_at, pinged_at) > PING_AFTER:
                pinged_at = now
                await pubsub.ping()

    def _complete(self) -> bool:
        """Whether all that is wanted is heard; their numbers say mostly no, and at once."""
        return len(self._confirmed) >= len(self._wanted) and self._confirmed.issuperset(self._wanted)

    def _note(self, message: dict[str, Any]) -> None:
        kind, channel = message["type"], message["channel"]
        if kind in ("message", "smessage"):
            self._take(channel, message["data"])
        elif kind == "sunsubscribe" and channel in self._wanted:  # its slot has left the server
            self._asked.discard(channel)
            self._confirmed.discard(channel)
            self._touched[channel] = None
        elif kind in ("subscribe", "ssubscribe"):
            self._connected = True
            if channel in self._wanted:
                self._confirmed.add(channel)
            for future in self._waiting.pop(channel, ()):
                if not future.done():
                    future.set_result(None)

    def _forget(self) -> None:
        self._connected = False
        self._confirmed.clear()
        self._asked.clear()
        self._touched = dict(self._wanted)


def _batches(channels: list[bytes], size: int) -> Iterable[list[bytes]]:
    return (channels[at : at + size] for at in range(0, len(channels), size))
