"""WebSocket: bytes to payloads and back, by `websockets`' sans-I/O protocol under our own asyncio.Protocol."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import cast
from urllib.parse import parse_qs, urlsplit

from websockets.datastructures import Headers
from websockets.exceptions import InvalidHandshake
from websockets.frames import CloseCode as WsCloseCode
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import OPEN
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

from gateway.connection import Connection
from gateway.door import Door
from gateway.wire import Chunk, Wire
from protocol.codec import CODECS, Codec
from protocol.errors import CloseCode

HIGH_WATER = 65_536
"""Bytes the transport may buffer before frames wait in the session's outbox, where they are counted."""
LOW_WATER = 16_384
SUBPROTOCOL = "parley.v1."
DEFAULT = "json"

_DATA = (Opcode.TEXT, Opcode.BINARY)


def websocket_wires() -> dict[str, Wire]:
    """The wires of WebSocket, by subprotocol."""
    return {SUBPROTOCOL + name: Wire(codec, _framer(codec)) for name, codec in CODECS.items()}


def _framer(codec: Codec) -> Callable[[bytes], bytes]:
    """Puts the header of a final, unmasked frame before a payload (RFC 6455, 5.2)."""
    first = bytes([0x80 | (Opcode.BINARY if codec.binary else Opcode.TEXT)])

    def frame(payload: bytes) -> bytes:
        length = len(payload)
        if length < 126:
            return first + bytes((length,)) + payload
        if length < 65_536:
            return first + b"\x7e" + length.to_bytes(2, "big") + payload
        return first + b"\x7f" + length.to_bytes(8, "big") + payload

    return frame


class WebSocketPump(asyncio.Protocol):
    """One WebSocket. It is the `Socket` of its connection."""

    __slots__ = (
        "_address",
        "_connection",
        "_door",
        "_fragments",
        "_live",
        "_origins",
        "_protocol",
        "_text",
        "_transport",
        "_wires",
        "paused",
    )

    def __init__(self, door: Door, wires: dict[str, Wire], origins: tuple[str, ...]) -> None:
        self._door = door
        self._wires = wires
        self._origins = origins
        self._protocol = ServerProtocol(
            subprotocols=[Subprotocol(name) for name in wires],
            select_subprotocol=_select,
            max_size=door.config.limit_frame,
        )
        self._connection: Connection | None = None
        self._address = ""
        self._fragments: bytearray | None = None
        self._live = False
        self.paused = False

    # --- asyncio.Protocol --------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Takes the socket over from the front door."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(HIGH_WATER, LOW_WATER)
        peer = self._transport.get_extra_info("peername")
        self._address = peer[0] if isinstance(peer, tuple) else "local"

    def data_received(self, data: bytes) -> None:
        """Bytes from the client."""
        self._protocol.receive_data(data)
        for event in self._protocol.events_received():
            if isinstance(event, Frame):
                self._frame(event)
            elif isinstance(event, Request):
                self._handshake(event)
        if self._protocol.writes:
            self._write_protocol()

    def eof_received(self) -> bool:
        """The client sends no more: close."""
        self._protocol.receive_eof()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        self._live = False
        if self._connection is not None:
            rcvd = self._protocol.close_rcvd
            self._connection.lost(clean=rcvd is not None and rcvd.code == WsCloseCode.NORMAL_CLOSURE)

    def pause_writing(self) -> None:
        """The transport holds enough; frames wait in the outbox."""
        self.paused = True

    def resume_writing(self) -> None:
        """The transport takes more."""
        self.paused = False
        if self._connection is not None:
            self._connection.drained()

    # --- in ----------------------------------------------------------------------------------

    def _handshake(self, request: Request) -> None:
        """Answers the upgrade; the protocol checks it against RFC 6455, we check who may connect."""
        protocol = self._protocol
        if not self._allowed(request.headers):
            response = protocol.reject(HTTPStatus.FORBIDDEN, "This origin may not connect: see PARLEY_ORIGINS.\n")
        elif not self._door.admit_stranger(self._address):
            response = protocol.reject(HTTPStatus.TOO_MANY_REQUESTS, "Too many connections from this address.\n")
        else:
            response = protocol.accept(request)
            if response.status_code != HTTPStatus.SWITCHING_PROTOCOLS:
                self._door.known(self._address)
        protocol.send_response(response)
        self._write_protocol()
        if protocol.state is OPEN:
            self._open(request)

    def _allowed(self, headers: Headers) -> bool:
        """A browser names its page's origin: the same host may, and those that are listed (RFC 6455, 10.2)."""
        origins = headers.get_all("Origin")
        if not origins:
            return True
        if len(origins) > 1:
            return False
        return "*" in self._origins or origins[0] in self._origins or urlsplit(origins[0]).netloc == headers.get("Host")

    def _open(self, request: Request) -> None:
        name = self._protocol.subprotocol or SUBPROTOCOL + DEFAULT
        if not self._protocol.reader.buffer:
            # The handshake's protocol keeps the request, half of what an idle session weighs; a fresh one does not.
            self._protocol = ServerProtocol(state=OPEN, max_size=self._door.config.limit_frame)
        self._connection = Connection(self._door, self, self._wires[name], self._address)
        self._live = True  # plain and cheap: it is asked at every write
        self._connection.begin(_token(request))

    def _frame(self, frame: Frame) -> None:
        connection = self._connection
        if connection is None or self._protocol.state is not OPEN:
            return
        if frame.opcode in _DATA and frame.fin:
            self._payload(frame.opcode is Opcode.TEXT, frame.data)
        elif frame.opcode in _DATA:
            self._fragments = bytearray(frame.data)
            self._text = frame.opcode is Opcode.TEXT
        elif frame.opcode is Opcode.CONT and self._fragments is not None:
            self._fragments += frame.data
            if frame.fin:
                whole, self._fragments = self._fragments, None
                self._payload(self._text, whole)
        connection.touch()

    def _payload(self, text: bool, payload: bytes | bytearray | memoryview) -> None:
        """RFC 6455, 8.1: text that is not UTF-8 fails the connection. ASCII needs no look."""
        assert self._connection is not None
        if text and not _is_utf8(bytes(payload)):
            self._protocol.fail(WsCloseCode.INVALID_DATA, "text frames are UTF-8")
            return
        self._connection.receive(payload)

    # --- out: what the hub and the connection use ------------------------------------------------

    def write(self, chunks: list[Chunk]) -> None:
        """Sends frames that are framed already; the bytes are shared with other receivers."""
        if not self._live:
            return
        if len(chunks) == 1:
            self._transport.write(chunks[0].data)
        elif chunks:
            self._transport.writelines([chunk.data for chunk in chunks])

    def stuck(self) -> None:
        """The session behind this socket lags."""
        if self._connection is not None:
            self._connection.stuck()

    def finish(self) -> asyncio.Task[None] | None:
        """Takes no more commands."""
        return self._connection.finish() if self._connection is not None else None

    def close(self, code: CloseCode, reason: str) -> None:
        """Closes the connection; the client is told why."""
        if self._connection is not None:
            self._connection.close(code, reason)

    def send_close(self, code: CloseCode, reason: str) -> None:
        """The close frame."""
        self._live = False
        if self._protocol.state is OPEN:
            self._protocol.send_close(code, reason)
            self._write_protocol()

    def ping(self) -> None:
        """A WebSocket ping."""
        if self._protocol.state is OPEN:
            self._protocol.send_ping(b"")
            self._write_protocol()

    def pause_reading(self) -> None:
        """Lets TCP's window hold the client back."""
        if not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Reads again."""
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def abort(self) -> None:
        """Drops the socket."""
        self._transport.abort()

    def _write_protocol(self) -> None:
        for data in self._protocol.data_to_send():
            if data:
                self._transport.write(data)
            else:
                self._live = False
                self._transport.close()  # the protocol's end of stream: what is buffered still goes out


def _select(protocol: ServerProtocol, offered: Sequence[Subprotocol]) -> Subprotocol | None:
    """The client's first that we speak. Offering none means JSON; offering only strange ones is an error."""
    if not offered:
        return None
    for name in offered:
        if protocol.available_subprotocols and name in protocol.available_subprotocols:
            return name
    raise InvalidHandshake("none of the subprotocols is spoken here")


def _token(request: Request) -> str | None:
    """The access token in the request, as the reference API has it: a header, or a query parameter for browsers."""
    scheme, _, value = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer" and value:
        return str(value.strip())
    tokens = parse_qs(urlsplit(request.path).query).get("token")
    return tokens[0] if tokens else None


def _is_utf8(payload: bytes) -> bool:
    if payload.isascii():
        return True
    try:
        payload.decode()
    except UnicodeDecodeError:
        return False
    return True
