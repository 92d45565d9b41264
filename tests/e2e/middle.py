"""A man in the middle: a proxy that sees every byte on the way, and may change some."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import NamedTuple

from tests.e2e.cuts import Direction
from tests.ports import free_port

HEAD_END = b"\r\n\r\n"

Meddle = Callable[["Passage", Direction, bytes], bytes]
"""What becomes of a piece of a connection on its way."""


class Flip(NamedTuple):
    """One bit to be flipped: of which byte, counted from the first that is none of HTTP's."""

    direction: Direction
    offset: int
    bit: int


class Passage:
    """One connection through the middle, and all that has passed."""

    def __init__(self, flip: Flip | None) -> None:
        self.flip = flip
        self.flipped = False
        self.passed: dict[Direction, bytearray] = {"up": bytearray(), "down": bytearray()}

    def body(self, direction: Direction) -> bytes:
        """What has passed, without the head of HTTP that a WebSocket begins with."""
        passed = bytes(self.passed[direction])
        return passed.partition(HEAD_END)[2] if passed.startswith((b"GET ", b"HTTP/")) else passed

    def take(self, direction: Direction, data: bytes) -> bytes:
        """Notes a piece, and flips its bit if it is in there."""
        before = len(self.body(direction))
        self.passed[direction] += data
        flip = self.flip
        if flip is None or flip.direction != direction:
            return data
        here = flip.offset - len(self.body(direction)) + len(data)
        if flip.offset < before or not 0 <= here < len(data):
            return data
        self.flipped = True
        return data[:here] + bytes((data[here] ^ 1 << flip.bit,)) + data[here + 1 :]


async def _close(writer: asyncio.StreamWriter) -> None:
    """What has been written still goes out, to whoever takes it."""
    writer.close()
    with suppress(OSError, TimeoutError):
        await asyncio.wait_for(writer.wait_closed(), 1)
    writer.transport.abort()


class Middle:
    """Listens at `port`. `flip` is for the next connection alone, `always` for each one without, `meddle` for all.

    A connection that only stalls, because a length has grown, is ended `patience` seconds after
    the flip, as the side that waits would end it when its own time is up.
    """

    def __init__(self, meddle: Meddle | None = None, always: Flip | None = None, patience: float = 1.0) -> None:
        self.port = free_port()
        self.flip: Flip | None = None
        self.passages: list[Passage] = []
        self._always = always
        self._meddle = meddle
        self._patience = patience
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    @asynccontextmanager
    async def before(self, port: int) -> AsyncIterator[Middle]:
        """Stands before a server of this machine."""

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._tasks.add(task)
            try:
                await self._serve(reader, writer, port)
            finally:
                self._tasks.discard(task)

        server = await asyncio.start_server(serve, "127.0.0.1", self.port)
        try:
            yield self
        finally:
            server.close()
            for writer in self._writers:
                writer.transport.abort()
            await asyncio.gather(*self._tasks)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
        passage = Passage(self.flip or self._always)
        self.flip = None
        self.passages.append(passage)
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
        writers = {writer, far_writer}
        self._writers |= writers
        ways = [
            asyncio.create_task(self._pass(passage, "up", reader, far_writer)),
            asyncio.create_task(self._pass(passage, "down", far_reader, writer)),
        ]
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, *map(_close, writers), return_exceptions=True)
        self._writers -= writers

    async def _pass(
        self, passage: Passage, direction: Direction, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        with suppress(ConnectionError, TimeoutError):
            while True:
                async with asyncio.timeout(self._patience if passage.flipped else None):
                    data = await reader.read(65_536)
                if not data:
                    return
                data = passage.take(direction, data)
                writer.write(self._meddle(passage, direction, data) if self._meddle else data)
