"""A WebSocket by hand, for bytes that no proper client sends."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from websockets.frames import Frame, Opcode

from tests.e2e.server import Server

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
"""The key of RFC 6455, 1.3."""
UPGRADE = {
    "Host": "127.0.0.1",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": KEY,
    "Sec-WebSocket-Version": "13",
}


def head(path: str = "/ws", **changes: str | None) -> bytes:
    """The request of an upgrade; a header set to None is left out."""
    headers = {**UPGRADE, **{name.replace("_", "-"): value for name, value in changes.items()}}
    lines = [f"{name}: {value}" for name, value in headers.items() if value is not None]
    return "\r\n".join([f"GET {path} HTTP/1.1", *lines, "", ""]).encode()


def frame(opcode: Opcode, payload: bytes, *, fin: bool = True) -> bytes:
    """A frame as a client has to send it."""
    return bytes(Frame(opcode, payload, fin=fin).serialize(mask=True))


def text(event: str, data: Any = None, **more: Any) -> bytes:
    """A command in a text frame."""
    return frame(Opcode.TEXT, json.dumps({"event": event, "data": data or {}, **more}).encode())


class RawSocket:
    """Bytes out, frames in."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        """Sends bytes as they are."""
        self.writer.write(data)

    async def response(self) -> tuple[int, bytes]:
        """The status and the head of an HTTP answer."""
        data = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 10)
        return int(data.split()[1]), data

    async def frame(self) -> tuple[int, bytes]:
        """The next frame: opcode and payload."""
        async with asyncio.timeout(10):
            first, length = await self.reader.readexactly(2)
            if length == 126:
                (length,) = struct.unpack("!H", await self.reader.readexactly(2))
            elif length == 127:
                (length,) = struct.unpack("!Q", await self.reader.readexactly(8))
            return first & 15, await self.reader.readexactly(length)

    async def event(self) -> dict[str, Any]:
        """The next frame of the protocol; pings are passed over."""
        while True:
            opcode, payload = await self.frame()
            if opcode in (Opcode.TEXT, Opcode.BINARY):
                event: dict[str, Any] = json.loads(payload)
                return event
            assert opcode != Opcode.CLOSE, payload

    async def ask(self, data: bytes) -> dict[str, Any]:
        """Sends bytes; the next event."""
        self.send(data)
        return await self.event()

    async def close_code(self) -> int:
        """The code in the close frame, after whatever comes before it."""
        while True:
            opcode, payload = await self.frame()
            if opcode == Opcode.CLOSE:
                return int.from_bytes(payload[:2], "big")

    async def ended(self, seconds: float = 10) -> bytes:
        """What comes until the server ends the connection."""
        data = b""
        async with asyncio.timeout(seconds):
            with suppress(ConnectionError):
                while part := await self.reader.read(65_536):
                    data += part
        return data


@asynccontextmanager
async def raw_socket(server: Server, upgrade: bytes | None = None) -> AsyncIterator[RawSocket]:
    """A connection; with `upgrade`, one that has been upgraded and has had its `hello`."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port, ssl=server.trust)
    raw = RawSocket(reader, writer)
    try:
        if upgrade is not None:
            raw.send(upgrade)
            assert (await raw.response())[0] == 101
            assert (await raw.event())["event"] == "hello"
        yield raw
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
