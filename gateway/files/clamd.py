"""Asks ClamAV's daemon whether there is a virus in a stream: its command INSTREAM, as clamd(8) has it.

The stream goes in chunks behind their lengths, as 4 bytes in network order, and ends
with a length of zero. The answer is `stream: OK`, `stream: <name> FOUND`, or something that ends with `ERROR`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Literal, NamedTuple

Verdict = Literal["clean", "infected", "too_large"]

CONNECT_SECONDS = 5.0
"""How long clamd may take to answer a connection."""

PATIENCE = 180.0
"""Seconds for taking a chunk, and for the answer: above the 120 that clamd's MaxScanTime gives one file."""

ANSWER_BYTES = 4_096
"""Bytes of an answer; names of viruses are short."""


class ClamdAway(Exception):
    """clamd cannot be reached, is silent, or says that something is wrong with it."""


class ClamdAddress(NamedTuple):
    """Where clamd listens: a path, or a host with a port."""

    path: str | None
    host: str
    port: int


def parse_address(text: str) -> ClamdAddress:
    """`host:port`, or `unix:` and a path. Raises ValueError."""
    if text.startswith("unix:/"):
        return ClamdAddress(text.removeprefix("unix:"), "", 0)
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65_536:
        raise ValueError(text)
    return ClamdAddress(None, host.strip("[]"), int(port))


class Clamd:
    """Scans streams, each over a connection of its own."""

    def __init__(self, address: ClamdAddress, patience: float = PATIENCE) -> None:
        self._address = address
        self._patience = patience

    async def scan(self, stream: AsyncIterator[bytes]) -> Verdict:
        """What clamd says of a stream. Raises ClamdAway, and what `stream` raises."""
        reader, writer = await self._connect()
        answer = asyncio.create_task(reader.readuntil(b"\0"))
        try:
            with contextlib.suppress(ConnectionError):  # it may have answered before it hung up
                await self._send(writer, stream, answer)
            async with asyncio.timeout(self._patience):
                return _verdict(await answer)
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            raise ClamdAway(f"clamd gave no answer ({type(error).__name__})") from error
        finally:
            answer.cancel()
            writer.transport.abort()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        path, host, port = self._address
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                if path is not None:
                    return await asyncio.open_unix_connection(path, limit=ANSWER_BYTES)
                return await asyncio.open_connection(host, port, limit=ANSWER_BYTES)
        except (OSError, TimeoutError) as error:
            raise ClamdAway(f"clamd cannot be reached ({error!r})") from error

    async def _send(
        self, writer: asyncio.StreamWriter, stream: AsyncIterator[bytes], answer: asyncio.Task[bytes]
    ) -> None:
        writer.write(b"zINSTREAM\0")
        async for piece in stream:
            if answer.done():  # too large: it wants no more
                return
            writer.write(len(piece).to_bytes(4, "big") + piece)
            async with asyncio.timeout(self._patience):
                await writer.drain()
        writer.write(bytes(4))


def _verdict(answer: bytes) -> Verdict:
    text = answer.rstrip(b"\0").decode(errors="replace")
    if text == "stream: OK":
        return "clean"
    if text.startswith("stream: ") and text.endswith(" FOUND"):
        return "infected"
    if text.startswith("INSTREAM size limit exceeded"):
        return "too_large"
    raise ClamdAway(f"clamd answered {text!r}")
