"""ClamAV's daemon, as far as Parley speaks to it: the command INSTREAM, and what can go wrong with it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256
from typing import Literal

# In two pieces, so that nobody's scanner takes this file for a virus.
EICAR = b"X5O!P%@AP[4\\PZX54(P^)7CC)7}$EICAR-" + b"STANDARD-ANTIVIRUS-TEST-FILE!$H+H*"
"""What every scanner takes for a virus (eicar.org)."""

Mode = Literal["answer", "cut", "nonsense"]


class FakeClamd:
    """Answers while `gate` is open. `seen` are the SHA-256 of what it was asked about."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.mode: Mode = "answer"
        self.limit = 25 * 1024 * 1024
        self.seen: list[bytes] = []
        self._tasks: set[asyncio.Task[None] | None] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        self._tasks.add(asyncio.current_task())
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            writer.write(await self._answer(reader))
            await writer.drain()
            while await reader.read(65_536):  # it takes and forgets what comes behind its answer
                pass
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    async def end(self) -> None:
        """Until nobody is served any more."""
        self.gate.set()
        await asyncio.gather(*(task for task in self._tasks if task is not None))

    async def _answer(self, reader: asyncio.StreamReader) -> bytes:
        command = await reader.readuntil(b"\0")
        if command != b"zINSTREAM\0":
            return b"UNKNOWN COMMAND\0"
        data = bytearray()
        while length := int.from_bytes(await reader.readexactly(4), "big"):
            data += await reader.readexactly(length)
            if self.mode == "cut":
                raise ConnectionError
            if len(data) > self.limit:
                return b"INSTREAM size limit exceeded. ERROR\0"
        self.seen.append(sha256(data).digest())
        await self.gate.wait()
        if self.mode == "nonsense":
            return b"stream: Can't allocate memory ERROR\0"
        return b"stream: Eicar-Signature FOUND\0" if EICAR in data else b"stream: OK\0"


@asynccontextmanager
async def running_clamd(port: int = 0) -> AsyncIterator[tuple[FakeClamd, int]]:
    """One that listens, and its port."""
    clamd = FakeClamd()
    server = await asyncio.start_server(clamd.serve, "127.0.0.1", port)
    try:
        yield clamd, server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await clamd.end()
