"""What carries a client's frames: a WebSocket or TCP, each clear or sealed by Noise."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as open_websocket
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, NegotiationError
from websockets.typing import Subprotocol

from gateway.client_address import Address
from gateway.envelope import MAX_MESSAGE, Envelope, NoiseBroken, Offer, PrivateKey
from protocol.codec import ClientFrame, Codec
from protocol.commands import Goodbye
from protocol.errors import CloseCode
from protocol.framing import FrameReader, FrameTooLarge, Preface, frame

MAX_FRAME = 16 * 1024 * 1024
"""Bytes of the largest frame taken from the server: a full page of history is about 2 MiB."""

CLOSE_TIMEOUT = 2.0
"""Seconds that the closing handshake may take."""

OPEN_TIMEOUT = 10.0
"""Seconds that a connection with all its handshakes may take."""

ABNORMAL = 1006
"""The close code of a connection that broke, or never was (RFC 6455, 7.4.1)."""

_PIECE = 65_536
_BROKEN = "what came does not open: somebody on the way, or another key"


class LineClosed(Exception):
    """The line has ended, or could not be had: the close code and the reason."""

    def __init__(self, code: int, reason: str) -> None:
        self.code = code
        self.reason = reason
        super().__init__(f"{code}: {reason}")


class HandshakeFailed(LineClosed):
    """There was no Noise handshake with the server's key: it may have another one by now, or it is somebody else."""

    def __init__(self) -> None:
        super().__init__(ABNORMAL, "the server does not hold the key that was expected of it")


class Line(Protocol):
    """An open line. All methods but `abort` and `close` raise LineClosed."""

    async def send(self, payloads: Sequence[bytes]) -> None:
        """Sends frames, and waits while the line takes no more."""
        ...

    async def receive(self) -> bytes:
        """The next frame."""
        ...

    def abort(self) -> None:
        """Breaks it off."""
        ...

    async def close(self) -> None:
        """Says goodbye: nobody will resume."""
        ...


async def open_line(
    address: Address, codec: Codec, private_key: PrivateKey | None = None, tls: ssl.SSLContext | None = None
) -> Line:
    """A line to the server, its handshakes done. Raises LineClosed, whose code says whether to try again.

    Under Noise it is ABNORMAL, whatever comes in clear: anyone may have written that.
    """
    try:
        async with asyncio.timeout(OPEN_TIMEOUT):
            if address.transport == "ws":
                return await _open_websocket(address, codec, private_key, tls)
            return await _open_tcp(address, codec, private_key, tls)
    except NegotiationError as error:
        raise LineClosed(_believed(address, CloseCode.bad_version), str(error)) from error
    except InvalidStatus as error:
        code = CloseCode.forbidden if _final(error.response.status_code) else ABNORMAL
        raise LineClosed(_believed(address, code), str(error)) from error
    except (OSError, TimeoutError, InvalidHandshake) as error:
        raise LineClosed(ABNORMAL, f"cannot be reached: {error!r}") from error
    except NoiseBroken as error:
        raise HandshakeFailed from error


def _believed(address: Address, code: int) -> int:
    return ABNORMAL if address.noise else code


def _final(status: int) -> bool:
    """Whether an HTTP answer to the upgrade would be the same next time: 4xx, but for timeouts and rate limits."""
    return 400 <= status < 500 and status not in (408, 425, 429)


def _offer(address: Address, codec: Codec, private_key: PrivateKey | None) -> tuple[Preface, Offer]:
    assert address.key is not None
    preface = Preface(msgpack=codec.binary, noise=True, keyed=private_key is not None)
    return preface, Offer(preface, address.key, private_key, bytes)


# --- WebSocket -------------------------------------------------------------------------------


async def _open_websocket(
    address: Address, codec: Codec, private_key: PrivateKey | None, tls: ssl.SSLContext | None
) -> Line:
    socket = await open_websocket(
        address.url,
        subprotocols=[Subprotocol("parley.v1." + ("noise" if address.noise else codec.name))],
        compression=None,
        ping_interval=None,  # the client has a heartbeat of its own
        close_timeout=CLOSE_TIMEOUT,
        max_size=MAX_MESSAGE if address.noise else MAX_FRAME,
        ssl=tls,
    )
    try:
        if socket.subprotocol is None:
            raise LineClosed(_believed(address, CloseCode.bad_version), "the server does not speak Parley's protocol")
        if not address.noise:
            return WebSocketLine(socket, codec)
        return SealedWebSocketLine(socket, await _shake_hands(socket, *_offer(address, codec, private_key)))
    except BaseException:
        socket.transport.abort()
        raise


async def _shake_hands(socket: ClientConnection, preface: Preface, offer: Offer) -> Envelope:
    try:
        await socket.send(bytes(preface))
        await socket.send(offer.message)
        return offer.complete(await socket.recv(decode=False), MAX_FRAME)
    except ConnectionClosed:
        raise NoiseBroken from None


class WebSocketLine:
    """A frame of the protocol in each message."""

    def __init__(self, socket: ClientConnection, codec: Codec) -> None:
        self._socket = socket
        self._text = not codec.binary

    async def send(self, payloads: Sequence[bytes]) -> None:
        """One message for each."""
        with _closing(self._socket):
            for payload in payloads:
                await self._socket.send(payload, text=self._text)

    async def receive(self) -> bytes:
        """The next message."""
        with _closing(self._socket):
            return await self._socket.recv(decode=False)

    def abort(self) -> None:
        """Breaks it off."""
        self._socket.transport.abort()

    async def close(self) -> None:
        """A normal closure."""
        await self._socket.close()


class SealedWebSocketLine(WebSocketLine):
    """A Noise message in each message. Close frames stand outside: the server's `closing` event is what to believe."""

    def __init__(self, socket: ClientConnection, envelope: Envelope) -> None:
        self._socket = socket
        self._envelope = envelope
        self._payloads: deque[bytes] = deque()

    async def send(self, payloads: Sequence[bytes]) -> None:
        """All of them in as few messages as possible."""
        with _closing(self._socket, believed=False):
            for message in self._envelope.messages(b"".join(map(frame, payloads))):
                await self._socket.send(message)

    async def receive(self) -> bytes:
        """The next frame."""
        while not self._payloads:
            with _closing(self._socket, believed=False):
                message = await self._socket.recv(decode=False)
            self._payloads.extend(_unbroken(self, self._envelope.open, message))
        return self._payloads.popleft()


@contextlib.contextmanager
def _closing(socket: ClientConnection, *, believed: bool = True) -> Iterator[None]:
    try:
        yield
    except ConnectionClosed:
        code = socket.close_code if believed else None
        raise LineClosed(code or ABNORMAL, socket.close_reason or "") from None


# --- TCP -------------------------------------------------------------------------------------


async def _open_tcp(address: Address, codec: Codec, private_key: PrivateKey | None, tls: ssl.SSLContext | None) -> Line:
    reader, writer = await asyncio.open_connection(address.host, address.port, ssl=tls, limit=_PIECE)
    try:
        return await _greet(address, codec, private_key, reader, writer)
    except BaseException:
        writer.transport.abort()
        raise


async def _greet(
    address: Address,
    codec: Codec,
    private_key: PrivateKey | None,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
) -> TcpLine:
    if not address.noise:
        writer.write(bytes(Preface(msgpack=codec.binary)))
        return TcpLine(reader, writer, codec)
    preface, offer = _offer(address, codec, private_key)
    writer.write(bytes(preface) + frame(offer.message))
    try:
        length = int.from_bytes(await reader.readexactly(4), "big")
        envelope = offer.complete(await reader.readexactly(min(length, MAX_MESSAGE)), MAX_FRAME)
    except (asyncio.IncompleteReadError, ConnectionError):  # a server with another key says nothing, and cuts
        raise NoiseBroken from None
    return SealedTcpLine(reader, writer, codec, envelope)


class TcpLine:
    """Frames behind their lengths."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, codec: Codec) -> None:
        self._stream = reader
        self._writer = writer
        self._codec = codec
        self._payloads: deque[bytes] = deque()
        self._frames = FrameReader(MAX_FRAME)

    async def send(self, payloads: Sequence[bytes]) -> None:
        """All of them in one write."""
        try:
            self._writer.write(self._seal(b"".join(map(frame, payloads))))
            await self._writer.drain()
        except OSError as error:
            raise LineClosed(ABNORMAL, str(error)) from error

    async def receive(self) -> bytes:
        """The next frame."""
        while not self._payloads:
            try:
                data = await self._stream.read(_PIECE)
            except OSError as error:
                raise LineClosed(ABNORMAL, str(error)) from error
            if not data:
                raise LineClosed(ABNORMAL, "the connection was lost")
            self._payloads.extend(_unbroken(self, self._open, data))
        return self._payloads.popleft()

    def abort(self) -> None:
        """Breaks it off."""
        self._writer.transport.abort()

    async def close(self) -> None:
        """The `goodbye` command, then the end of the stream."""
        with contextlib.suppress(LineClosed, OSError, TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await self.send([self._codec.encode(ClientFrame("goodbye", Goodbye()))])
                while await self._stream.read(_PIECE):  # until the server has closed its end
                    pass
        self._writer.transport.abort()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    def _seal(self, data: bytes) -> bytes:
        return data

    def _open(self, data: bytes) -> Iterator[bytes]:
        return self._frames.feed(data)


class SealedTcpLine(TcpLine):
    """Noise messages behind their lengths; frames inside."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, codec: Codec, envelope: Envelope
    ) -> None:
        super().__init__(reader, writer, codec)
        self._frames = FrameReader(MAX_MESSAGE)
        self._envelope = envelope

    def _seal(self, data: bytes) -> bytes:
        return b"".join(map(frame, self._envelope.messages(data)))

    def _open(self, data: bytes) -> Iterator[bytes]:
        for message in self._messages(data):
            yield from self._envelope.open(message)

    def _messages(self, data: bytes) -> Iterator[bytes]:
        try:
            yield from self._frames.feed(data)
        except FrameTooLarge:
            raise NoiseBroken from None  # lengths stand outside the envelope: anyone may have written them


def _unbroken(line: Line, open: Callable[[bytes], Iterator[bytes]], data: bytes) -> Iterator[bytes]:
    """What a piece of the line holds; a line that does not open is cut."""
    try:
        yield from open(data)
    except NoiseBroken:
        line.abort()
        raise LineClosed(ABNORMAL, _BROKEN) from None
    except FrameTooLarge as error:
        line.abort()
        raise LineClosed(CloseCode.bad_frame, str(error)) from None
