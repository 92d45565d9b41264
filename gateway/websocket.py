"""WebSocket: bytes to payloads and back, by `websockets`' sans-I/O protocol under our own asyncio.Protocol.

Under `parley.v1.noise` the payloads are those of TCP: the preface, the client's
handshake, then Noise messages that carry frames behind their lengths.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from http import HTTPStatus
from urllib.parse import parse_qs, urlsplit

from websockets.datastructures import Headers
from websockets.exceptions import InvalidHandshake
from websockets.frames import CloseCode as WsCloseCode
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import OPEN
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

from gateway.door import Door
from gateway.envelope import MAX_MESSAGE, NoiseBroken, PrivateKey, accept
from gateway.pump import Pump
from gateway.wire import Wire
from protocol.addresses import client_of, network_of
from protocol.codec import CODECS
from protocol.errors import CloseCode
from protocol.events import Closing
from protocol.framing import BadPreface, FrameTooLarge, Preface

SUBPROTOCOL = "parley.v1."
NOISE = SUBPROTOCOL + "noise"
SUBPROTOCOLS = (*(SUBPROTOCOL + name for name in CODECS), NOISE)
DEFAULT = "json"

_DATA = (Opcode.TEXT, Opcode.BINARY)
_TEXT = bytes((0x80 | Opcode.TEXT,))
_BINARY = bytes((0x80 | Opcode.BINARY,))


def websocket_wires() -> dict[str, Wire]:
    """The wires of WebSocket without Noise, by subprotocol."""
    framings = {False: _framer(_TEXT), True: binary_frame}
    return {SUBPROTOCOL + name: Wire(codec, framings[codec.binary], f"ws.{name}") for name, codec in CODECS.items()}


def _framer(first: bytes) -> Callable[[bytes], bytes]:
    """Puts the header of a final, unmasked frame before a payload (RFC 6455, 5.2)."""

    def frame(payload: bytes) -> bytes:
        length = len(payload)
        if length < 126:
            return first + bytes((length,)) + payload
        if length < 65_536:
            return first + b"\x7e" + length.to_bytes(2, "big") + payload
        return first + b"\x7f" + length.to_bytes(8, "big") + payload

    return frame


binary_frame = _framer(_BINARY)


class WebSocketPump(Pump):
    """One WebSocket. It is the `Socket` of its connection.

    `wires` are those of its subprotocols; `framed`, by codec, those of what travels in Noise.
    """

    __slots__ = (
        "_fragments",
        "_framed",
        "_head",
        "_origins",
        "_preface",
        "_protocol",
        "_sealed",
        "_static",
        "_text",
        "_wires",
    )

    def __init__(
        self,
        door: Door,
        wires: dict[str, Wire],
        framed: dict[str, Wire],
        static: PrivateKey,
        origins: tuple[str, ...],
    ) -> None:
        super().__init__(door)
        self._wires = wires
        self._framed = framed
        self._static = static
        self._origins = origins
        self._protocol = ServerProtocol(
            subprotocols=[Subprotocol(name) for name in SUBPROTOCOLS],
            select_subprotocol=_select,
            max_size=MAX_MESSAGE,  # for the handshake; `_open` makes another
        )
        self._head: bytes | None = b""  # of the request, until it is whole
        self._sealed = False  # the subprotocol is Noise
        self._preface: Preface | None = None
        self._fragments: bytearray | None = None

    # --- asyncio.Protocol --------------------------------------------------------------------

    def eof_received(self) -> bool:
        """The client sends no more: close."""
        self._protocol.receive_eof()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        rcvd = self._protocol.close_rcvd
        self._leave(clean=rcvd is not None and rcvd.code == WsCloseCode.NORMAL_CLOSURE)

    # --- in ----------------------------------------------------------------------------------

    def _feed(self, data: bytes) -> None:
        if self._head is not None:
            data = self._upgrade(data)
        if data:
            self._receive(data)

    def _upgrade(self, data: bytes) -> bytes:
        """What follows the request, once that is whole: it is for the protocol that comes after the handshake's."""
        assert self._head is not None
        head, end, rest = (self._head + data).partition(b"\r\n\r\n")
        if not end:
            self._head = head
            return b""
        self._head = None
        self._receive(head + end)
        return rest if self._protocol.state is OPEN else b""

    def _receive(self, data: bytes) -> None:
        self._protocol.receive_data(data)
        for event in self._protocol.events_received():
            if self._ended:
                return
            if isinstance(event, Frame):
                self._frame(event)
            elif isinstance(event, Request):
                self._handshake(event)
        if self._protocol.writes:
            self._write_protocol()

    def _handshake(self, request: Request) -> None:
        """Answers the upgrade; the protocol checks it against RFC 6455, we check who may connect."""
        protocol = self._protocol
        forwarded = request.headers.get_all("X-Forwarded-For")
        self._address = network_of(client_of(self._peer, forwarded, self._door.proxies))
        if not self._allowed(request.headers):
            response = protocol.reject(HTTPStatus.FORBIDDEN, "This origin may not connect: see PARLEY_ORIGINS.\n")
        elif not self._admit():
            response = protocol.reject(HTTPStatus.TOO_MANY_REQUESTS, "Too many connections from this address.\n")
        else:
            response = protocol.accept(request)
            if response.status_code != HTTPStatus.SWITCHING_PROTOCOLS:
                self._admitted = False
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
        return "*" in self._origins or origins[0] in self._origins or [_host(origins[0])] == headers.get_all("Host")

    def _open(self, request: Request) -> None:
        name = self._protocol.subprotocol or SUBPROTOCOL + DEFAULT
        self._sealed = name == NOISE
        # The handshake's protocol keeps the request, half of what an idle session weighs; a fresh one does not.
        limit = MAX_MESSAGE if self._sealed else self._door.config.limit_frame
        self._protocol = ServerProtocol(state=OPEN, max_size=limit)
        if self._sealed:
            self._door.wheel.schedule(self, self._door.wheel.now() + self._door.config.frame_deadline)
        else:
            self._begin(self._wires[name], token=_token(request))

    def tick(self, now: float) -> None:
        """The deadline for the preface and the handshake under Noise."""
        if self._connection is None:
            self._transport.abort()

    def _frame(self, frame: Frame) -> None:
        if self._protocol.state is not OPEN:
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
        if self._connection is not None:
            self._connection.touch()

    def _payload(self, text: bool, payload: bytes | bytearray | memoryview) -> None:
        """RFC 6455, 8.1: text that is not UTF-8 fails the connection. ASCII needs no look."""
        if self._sealed:
            self._open_sealed(text, bytes(payload))
        elif text and not _is_utf8(bytes(payload)):
            self._protocol.fail(WsCloseCode.INVALID_DATA, "text frames are UTF-8")
        elif self._connection is not None:
            self._connection.receive(payload)

    def _open_sealed(self, text: bool, message: bytes) -> None:
        try:
            if text:
                raise NoiseBroken
            self._take_sealed(message)
        except (NoiseBroken, BadPreface):
            self._break()
        except FrameTooLarge as error:
            self.close(CloseCode.bad_frame, str(error))

    def _take_sealed(self, message: bytes) -> None:
        if self._preface is None:
            self._preface = Preface.parse(message)
            if not self._preface.noise:
                raise BadPreface("this subprotocol is Noise")
        elif self._envelope is None or self._connection is None:
            accepted = accept(self._preface, self._static, message, binary_frame, self._door.config.limit_frame)
            self._transport.write(accepted.answer)
            self._envelope = accepted.envelope
            self._begin(self._framed[self._preface.codec], peer_key=accepted.peer_key)
        else:
            for payload in self._envelope.open(message):
                if not self._ended:
                    self._connection.receive(payload)

    # --- out: what the connection uses ---------------------------------------------------------

    def send_close(self, code: CloseCode, reason: str) -> None:
        """The close frame; under Noise also the sealed `closing`, since anyone on the way can write a close frame."""
        if self._sealed and self._preface is not None:
            wire = self._framed[self._preface.codec]
            self.write(wire.chunk("closing", Closing(code=code, reason=reason)).data)
        self._live = False
        if self._protocol.state is OPEN:
            self._protocol.send_close(code, reason)
            self._write_protocol()

    def ping(self) -> None:
        """A WebSocket ping."""
        if self._protocol.state is OPEN:
            self._protocol.send_ping(b"")
            self._write_protocol()

    def hang_up(self) -> None:
        """Closes after the client's goodbye."""
        self._live = False
        if self._protocol.state is OPEN:
            self._protocol.send_close(WsCloseCode.NORMAL_CLOSURE)
            self._write_protocol()

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
    for header in request.headers.get_all("Authorization")[:1]:
        scheme, _, value = header.partition(" ")
        if scheme.lower() == "bearer" and value:
            return value.strip()
    tokens = parse_qs(urlsplit(request.path).query).get("token")
    return tokens[0] if tokens else None


def _host(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return None


def _is_utf8(payload: bytes) -> bool:
    if payload.isascii():
        return True
    try:
        payload.decode()
    except UnicodeDecodeError:
        return False
    return True
