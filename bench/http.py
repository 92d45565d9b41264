"""HTTP as cheaply as it goes: one connection, one request at a time, bodies that are counted and not kept."""

from __future__ import annotations

import asyncio
import re
import ssl
import time
from typing import NamedTuple, cast
from urllib.parse import urlsplit

from bench.target import TargetError

BUFFER = 1024 * 1024
"""Bytes that one read takes at most."""
PIECE = 256 * 1024
"""Bytes that one write has."""
KEPT = 65_536
"""Bytes of a body that are kept: all of an answer in JSON."""


class Answer(NamedTuple):
    """What came: `size` bytes, the first ones of them, and the seconds from the request to the first of them."""

    status: int
    size: int
    body: bytes
    first_byte: float


class Http(asyncio.BufferedProtocol):
    """A connection. `moved` counts the bytes of bodies, in and out, as they move; `rate` bounds them a second."""

    def __init__(self, rate: float | None = None) -> None:
        self.moved = 0
        self._rate = rate
        self._began = time.perf_counter()
        self._buffer = memoryview(bytearray(BUFFER))
        self._writable = asyncio.Event()
        self._writable.set()
        self._answer: asyncio.Future[Answer] | None = None

    @classmethod
    async def open(cls, url: str, rate: float | None = None) -> Http:
        """A connection to the server there. Raises TargetError."""
        parts = urlsplit(url)
        tls = ssl.create_default_context() if parts.scheme == "https" else None
        port = parts.port or (443 if tls else 80)
        try:
            _, made = await asyncio.get_running_loop().create_connection(
                lambda: cls(rate), parts.hostname or "127.0.0.1", port, ssl=tls
            )
        except OSError as error:
            raise TargetError(f"{url} does not answer: {error}") from error
        return made

    async def get(self, path: str, token: str) -> Answer:
        """Fetches something. Raises TargetError if the connection ends before it is there."""
        return await self._ask(f"GET {path} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {token}\r\n\r\n", b"", 0)

    async def post(self, path: str, token: str, piece: bytes, size: int) -> Answer:
        """Sends `size` bytes: `piece`, over and over. Raises TargetError."""
        head = (
            f"POST {path} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {token}\r\n"
            f"Content-Type: application/octet-stream\r\nContent-Length: {size}\r\n\r\n"
        )
        return await self._ask(head, piece, size)

    def close(self) -> None:
        """Drops it."""
        self._answer = None
        self._transport.abort()

    async def _ask(self, head: str, piece: bytes, size: int) -> Answer:
        self._head, self._body, self._got, self._first = b"", b"", 0, 0.0
        self._status = 0
        self._length: int | None = None
        self._answer = asyncio.get_running_loop().create_future()
        self._asked = time.perf_counter()
        self._transport.write(head.encode())
        await self._write(memoryview(piece), size)
        return await self._answer

    async def _write(self, piece: memoryview, left: int) -> None:
        """Until all is written, or the server has answered already."""
        at = 0
        while left and self._answer is not None and not self._answer.done():
            await self._writable.wait()
            part = piece[at : at + min(PIECE, left)]
            self._transport.write(part)
            at = (at + len(part)) % len(piece)
            left -= len(part)
            self.moved += len(part)
            if ahead := self._ahead():
                await asyncio.sleep(ahead)

    def _ahead(self) -> float:
        """Seconds until more may move."""
        if self._rate is None:
            return 0.0
        return max(0.0, self._began + self.moved / self._rate - time.perf_counter())

    # --- asyncio.BufferedProtocol ------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is open."""
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """It has ended."""
        self._writable.set()
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(TargetError(f"connection lost: {exc or 'closed by the server'}"))

    def pause_writing(self) -> None:
        """The server takes no more for now."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """It does again."""
        self._writable.set()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Always the same one: what was read is looked at before the next read."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """The hot path."""
        data = self._buffer[:nbytes]
        if self._length is None:
            data = self._take_head(data)
        if self._length is None:
            return
        if data and not self._got:
            self._first = time.perf_counter()
        self._got += len(data)
        self.moved += len(data)
        if len(self._body) < KEPT:
            self._body += data[: KEPT - len(self._body)]
        if self._got >= self._length:
            self._finish()
        elif ahead := self._ahead():
            self._transport.pause_reading()
            asyncio.get_running_loop().call_later(ahead, self._transport.resume_reading)

    def _take_head(self, data: memoryview) -> memoryview:
        before = len(self._head)
        self._head += bytes(data)
        end = self._head.find(b"\r\n\r\n")
        if end < 0:
            return data[:0]
        found = re.match(rb"HTTP/1\.1 (\d+).*?\r\ncontent-length: *(\d+)", self._head[:end], re.DOTALL | re.IGNORECASE)
        if found is None:
            raise TargetError(f"what answers there is no Parley: {self._head[:64]!r}")
        self._status, self._length = int(found[1]), int(found[2])
        return data[end + 4 - before :]

    def _finish(self) -> None:
        answer = Answer(self._status, self._got, bytes(self._body), (self._first or time.perf_counter()) - self._asked)
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(answer)
