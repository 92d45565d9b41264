"""The other nodes that would take sessions over: alive, and not stopping themselves."""

from __future__ import annotations

import asyncio
from typing import Never
from uuid import UUID

from storage.bus import Bus
from storage.hints import Stopping
from storage.leases import Leases

SAID_EVERY = 1.0
"""Seconds between two times that a stopping node says so: the first may be lost, or others stop a moment later."""


class Neighbours:
    """Without `leases` there are none."""

    def __init__(self, bus: Bus, leases: Leases | None) -> None:
        self._bus = bus
        self._leases = leases
        self._stopping: set[UUID] = set()
        self.stopping = False
        """Whether this node stops, too."""
        bus.on(Stopping, self._note)

    def __bool__(self) -> bool:
        """Whether there are any."""
        if self._leases is None:
            return False
        self._stopping &= self._leases.live
        return bool(self._leases.live - self._stopping)

    def is_stopping(self, node_id: UUID) -> bool:
        """Whether another node has said that it stops."""
        return node_id in self._stopping

    def _note(self, hint: Stopping) -> None:
        self._stopping.add(hint.node_id)

    async def say_stopping(self) -> Never:
        """Tells them for ever that this node stops."""
        self.stopping = True
        while True:
            if self._leases is not None:
                self._bus.tell_all(Stopping(self._leases.node_id))
            await asyncio.sleep(SAID_EVERY)
