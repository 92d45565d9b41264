"""The six transports, as any client might speak them: nothing here is Parley's own code.

WebSocket by `websockets`, TCP by asyncio's streams, Noise by `noiseprotocol`.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from abc import ABC, abstractmethod
from collections import deque
from typing import Any, Literal, get_args

from cryptography.exceptions import InvalidTag
from noise.connection import Keypair, NoiseConnection
from noise.exceptions import NoiseInvalidMessage
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

Transport = Literal["ws-json", "ws-msgpack", "ws-noise", "tcp-json", "tcp-msgpack", "tcp-noise"]
TRANSPORTS: tuple[Transport, ...] = get_args(Transport)

PREFACES: dict[Transport, bytes] = {
    "ws-noise": b"PLY1\x02",
    "tcp-json": b"PLY1\x00",
    "tcp-msgpack": b"PLY1\x01",
    "tcp-noise": b"PLY1\x03",
}
"""Under Noise one WebSocket speaks JSON, and one TCP connection MessagePack."""
PACKED: frozenset[Transport] = frozenset(("ws-msgpack", "tcp-msgpack", "tcp-noise"))
"""Those whose frames are MessagePack."""
NOISE = b"Noise_NK_25519_ChaChaPoly_SHA256"
PIECE = 65_519
"""Bytes of a stream that one Noise message carries: 65,535 less the tag."""
REKEY = 65_536
"""Messages under one key."""
LOST = 1006
"""The code of a connection that ended without a word (RFC 6455, 7.4.1)."""


class Ended(Exception):
    """The connection has ended: the code and the reason that the server gave, or LOST."""

    def __init__(self, code: int, reason: str = "") -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason


class Line(ABC):
    """Payloads in and out. All but `close` and `abort` raise Ended."""

    @abstractmethod
    async def send(self, payload: bytes) -> None:
        """Sends a frame."""

    @abstractmethod
    async def receive(self) -> bytes:
        """The next frame."""

    @abstractmethod
    async def ended(self) -> bytes:
        """Waits until the server has ended the connection; what it said after its last frame."""

    @abstractmethod
    async def close(self, goodbye: bytes) -> None:
        """Says goodbye (in this frame, where the transport has no close of its own), and closes."""

    @abstractmethod
    def abort(self) -> None:
        """Breaks it without a word."""


def frame(payload: bytes) -> bytes:
    """A payload behind its length."""
    return len(payload).to_bytes(4, "big") + payload


class Frames:
    """Takes a stream apart."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The payloads that are whole now."""
        self._buffer += data
        whole, start = [], 0
        while len(self._buffer) >= (stop := start + 4 + int.from_bytes(self._buffer[start : start + 4], "big")):
            whole.append(bytes(self._buffer[start + 4 : stop]))
            start = stop
        del self._buffer[:start]
        return whole


class Channel:
    """Noise from the client's end: `offer` opens it, and the server's answer completes it."""

    def __init__(self, preface: bytes, server_key: bytes) -> None:
        self._noise = NoiseConnection.from_name(NOISE)
        self._noise.set_as_initiator()
        self._noise.set_prologue(preface)
        self._noise.set_keypair_from_public_bytes(Keypair.REMOTE_STATIC, server_key)
        self._noise.start_handshake()
        self.offer = bytes(self._noise.write_message())
        self._frames = Frames()
        self._sealed = self._opened = 0

    def complete(self, answer: bytes) -> None:
        """The handshake is over. Raises NoiseInvalidMessage."""
        try:
            assert self._noise.read_message(answer) == b""
        except (InvalidTag, ValueError) as error:
            raise NoiseInvalidMessage from error

    def seal(self, payload: bytes) -> list[bytes]:
        """A frame as Noise messages."""
        data = frame(payload)
        return [self._seal(data[start : start + PIECE]) for start in range(0, len(data), PIECE)]

    def _seal(self, data: bytes) -> bytes:
        sealed: bytes = self._noise.encrypt(data)
        self._sealed += 1
        if self._sealed % REKEY == 0:
            self._noise.rekey_outbound_cipher()
        return sealed

    def open(self, message: bytes) -> list[bytes]:
        """The frames that are whole with this message. Raises NoiseInvalidMessage."""
        data = self._noise.decrypt(message)
        self._opened += 1
        if self._opened % REKEY == 0:
            self._noise.rekey_inbound_cipher()
        return self._frames.feed(data)


class WebSocketLine(Line):
    """A frame in each message; under Noise, a Noise message in each."""

    def __init__(self, ws: ClientConnection, *, text: bool, channel: Channel | None = None) -> None:
        self.ws = ws
        self._text = text
        self.channel = channel
        self._payloads: deque[bytes] = deque()

    async def send(self, payload: bytes) -> None:
        """Sends a frame."""
        try:
            for message in self.channel.seal(payload) if self.channel else [payload]:
                await self.ws.send(message, text=self._text)
        except ConnectionClosed:
            raise self._end() from None

    async def receive(self) -> bytes:
        """The next frame."""
        while not self._payloads:
            try:
                message = await self.ws.recv(decode=False)
            except ConnectionClosed:
                raise self._end() from None
            self._payloads.extend(self.channel.open(message) if self.channel else [message])
        return self._payloads.popleft()

    def _end(self) -> Ended:
        return Ended(self.ws.close_code or LOST, self.ws.close_reason or "")

    async def ended(self) -> bytes:
        """There is nothing after a close frame: `websockets` sees to that."""
        await self.ws.wait_closed()
        return b""

    async def close(self, goodbye: bytes) -> None:
        """A normal closure."""
        await self.ws.close()

    def abort(self) -> None:
        """Breaks it without a word."""
        self.ws.transport.abort()


class TcpLine(Line):
    """Frames behind their lengths; under Noise, Noise messages behind theirs."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._frames = Frames()
        self._messages: deque[bytes] = deque()
        self._payloads: deque[bytes] = deque()
        self.channel: Channel | None = None

    def write(self, data: bytes) -> None:
        """Sends bytes as they are."""
        self._writer.write(data)

    async def send(self, payload: bytes) -> None:
        """Sends a frame."""
        messages = self.channel.seal(payload) if self.channel else [payload]
        try:
            self._writer.write(b"".join(map(frame, messages)))
            await self._writer.drain()
        except ConnectionError:
            raise Ended(LOST) from None

    async def receive(self) -> bytes:
        """The next frame."""
        while not self._payloads:
            message = await self.message()
            self._payloads.extend(self.channel.open(message) if self.channel else [message])
        return self._payloads.popleft()

    async def message(self) -> bytes:
        """The next frame of the stream itself."""
        while not self._messages:
            with contextlib.suppress(ConnectionError):
                if data := await self._reader.read(65_536):
                    self._messages.extend(self._frames.feed(data))
                    continue
            raise Ended(LOST)
        return self._messages.popleft()

    async def ended(self) -> bytes:
        """What comes until the end of the stream."""
        rest = b"".join([*self._payloads, *self._messages])
        with contextlib.suppress(ConnectionError):
            while data := await self._reader.read(65_536):
                rest += data
        self._writer.close()
        return rest

    async def close(self, goodbye: bytes) -> None:
        """The `goodbye` command; the server ends the stream."""
        if not self._writer.is_closing() and not self._reader.at_eof():
            with contextlib.suppress(Ended, TimeoutError):
                async with asyncio.timeout(2):
                    await self.send(goodbye)
                    await self.ended()
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()

    def abort(self) -> None:
        """Breaks it without a word."""
        self._writer.transport.abort()


async def open_websocket(url: str, transport: Transport, key: bytes, **options: Any) -> WebSocketLine:
    """A WebSocket, its handshakes done; `options` are those of `websockets`."""
    name = transport.removeprefix("ws-")
    options.setdefault("subprotocols", [Subprotocol(f"parley.v1.{name}")])
    options.setdefault("max_queue", None)  # with frames unread the library would wait ten seconds at the close
    ws = await connect(url, max_size=None, **options)
    if transport != "ws-noise":
        return WebSocketLine(ws, text=transport not in PACKED)
    channel = Channel(PREFACES[transport], key)
    await ws.send(PREFACES[transport])
    await ws.send(channel.offer)
    channel.complete(await ws.recv(decode=False))
    return WebSocketLine(ws, text=False, channel=channel)


async def open_tcp(
    sock: socket.socket, transport: Transport, key: bytes, limit: int, trust: ssl.SSLContext | None = None
) -> TcpLine:
    """A TCP connection, its handshake done; it takes in `limit` bytes and no more before they are read."""
    reader, writer = await asyncio.open_connection(
        sock=sock, limit=limit, ssl=trust, server_hostname="127.0.0.1" if trust else None
    )
    line = TcpLine(reader, writer)
    line.write(PREFACES[transport])
    if transport == "tcp-noise":
        channel = Channel(PREFACES[transport], key)
        line.write(frame(channel.offer))
        try:
            channel.complete(await line.message())
        except BaseException:
            line.abort()
            raise
        line.channel = channel
    return line
