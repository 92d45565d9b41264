"""A tiny TCP balancer: each new connection goes to the next node that says it is ready."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from contextlib import suppress

from bench.faults.addresses import Streams, Tcp, dial
from bench.faults.proxy import PIECE, Proxy

LOOK_EVERY = 0.1
"""Seconds between two looks at who is ready."""
PATIENCE = 1.0
"""Seconds that a node may take to say so."""


class Balancer(Proxy):
    """A proxy before several nodes, with all of a proxy's faults. `ready` are the nodes that take connections."""

    def __init__(self, nodes: Sequence[Tcp], dice: random.Random | None = None) -> None:
        super().__init__(nodes[0], dice=dice)
        self._nodes = list(nodes)
        self.ready: list[Tcp] = []
        self._turn = 0
        self._looking: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Looks who is ready, and listens."""
        if self._looking is None:
            await self._look()
            self._looking = asyncio.create_task(self._keep_looking())
        await super().open()

    async def close(self) -> None:
        """Ends everything."""
        if self._looking is not None:
            self._looking.cancel()
        await super().close()

    async def connect(self) -> Streams:
        """The next node that is ready; one that cannot be reached is passed over. Raises OSError when none can."""
        for _ in self._nodes:
            if not self.ready:
                break
            node = self.ready[self._turn % len(self.ready)]
            self._turn += 1
            try:
                return await dial(node, PIECE)
            except OSError:
                self.ready = [one for one in self.ready if one != node]
        raise ConnectionRefusedError("no node is ready")

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY)
            await self._look()

    async def _look(self) -> None:
        answers = await asyncio.gather(*(_is_ready(node) for node in self._nodes))
        self.ready = [node for node, ready in zip(self._nodes, answers, strict=True) if ready]


async def _is_ready(node: Tcp) -> bool:
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(PATIENCE):
            reader, writer = await dial(node, PIECE)
            try:
                writer.write(b"GET /health/ready HTTP/1.1\r\nHost: balancer\r\nConnection: close\r\n\r\n")
                return (await reader.readline()).startswith(b"HTTP/1.1 200")
            finally:
                writer.transport.abort()
    return False
