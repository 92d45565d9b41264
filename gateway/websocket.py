"""WebSocket: bytes to payloads and back. The handshake is `websockets`' sans-I/O protocol's, what follows is `Frames`'.

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
from websockets.http11 import Request, Response
from websockets.protocol import OPEN
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

from gateway.door import Door
from gateway.envelope import MAX_MESSAGE, NoiseBroken, PrivateKey, accept
from gateway.frames import Frames
from gateway.pump import Pump
from gateway.wire import Wire
from protocol.addresses import client_of
from protocol.codec import CODECS
from protocol.errors import CloseCode
from protocol.events import Closing
from protocol.framing import BadPreface, FrameTooLarge, Preface

SUBPROTOCOL = "parley.v1."
NOISE = SUBPROTOCOL + "noise"
SUBPROTOCOLS = (*(SUBPROTOCOL + name for name in CODECS), NOISE)
DEFAULT = "json"

_OFFERED = [Subprotocol(name) for name in SUBPROTOCOLS]
_TEXT = bytes((0x80 | Opcode.TEXT,))
_BINARY = bytes((0x80 | Opcode.BINARY,))
_PING = Frame(Opcode.PING, b"").serialize(mask=False)


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
        "_framed",
        "_frames",
        "_head",
        "_origins",
        "_preface",
        "_sealed",
        "_static",
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
        self._head = b""  # of the request, until it is whole
        self._frames: Frames | None = None  # from the end of the handshake on
        self._sealed = False  # the subprotocol is Noise
        self._preface: Preface | None = None

    # --- asyncio.Protocol --------------------------------------------------------------------

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        super().connection_lost(exc)
        self._leave(clean=self._frames is not None and self._frames.closed_normally)

    # --- in ----------------------------------------------------------------------------------

    def _feed(self, data: bytes) -> None:
        if self._frames is None:
            data = self._upgrade(data)
        if self._frames is not None and data:
            self._receive(self._frames, data)

    def _receive(self, frames: Frames, data: bytes) -> None:
        for message in frames.feed(data):
            if self._ended:
                return
            if message is not None:
                self._payload(frames, *message)
            elif self._connection is not None:
                self._connection.touch()
        self._write_all(frames.data_to_send())

    def _upgrade(self, data: bytes) -> bytes:
        """What follows the request, once that is whole."""
        head, end, rest = (self._head + data).partition(b"\r\n\r\n")
        self._head = b"" if end else head
        if end:
            self._shake_hands(head + end)
        return rest

    def _shake_hands(self, head: bytes) -> None:
        """Answers the request; the protocol checks it against RFC 6455, we check who may connect."""
        protocol = _Handshake(subprotocols=_OFFERED)
        protocol.receive_data(head)
        for request in protocol.events_received():
            assert isinstance(request, Request)
            protocol.send_response(self._response(protocol, request))
            if protocol.state is OPEN:
                self._open(protocol, request)
                return
        self._ended = True
        self._write_all(protocol.data_to_send())
        protocol.end()

    def _response(self, protocol: ServerProtocol, request: Request) -> Response:
        forwarded = request.headers.get_all("X-Forwarded-For")
        self._come_from(client_of(self._peer, forwarded, self._door.proxies))
        if not self._allowed(request.headers):
            return protocol.reject(HTTPStatus.FORBIDDEN, "This origin may not connect: see PARLEY_ORIGINS.\n")
        if not self._admit():
            return protocol.reject(HTTPStatus.TOO_MANY_REQUESTS, "Too many connections from this address.\n")
        response = protocol.accept(request)
        if response.status_code != HTTPStatus.SWITCHING_PROTOCOLS:
            self._admitted = False
            self._door.known(self._address)
        return response

    def _allowed(self, headers: Headers) -> bool:
        """A browser names its page's origin: the same host may, and those that are listed (RFC 6455, 10.2)."""
        origins = headers.get_all("Origin")
        if not origins:
            return True
        if len(origins) > 1:
            return False
        return "*" in self._origins or origins[0] in self._origins or [_host(origins[0])] == headers.get_all("Host")

    def _open(self, protocol: _Handshake, request: Request) -> None:
        answer = b"".join(protocol.data_to_send())
        protocol.end()
        name = protocol.subprotocol or SUBPROTOCOL + DEFAULT
        self._sealed = name == NOISE
        self._frames = Frames(MAX_MESSAGE if self._sealed else self._door.config.limit_frame)
        if self._sealed:
            self._send(answer)
            self._door.wheel.schedule(self, self._door.wheel.now() + self._door.config.frame_deadline)
        else:
            self._begin(self._wires[name], answer, token=_token(request))

    def tick(self, now: float) -> None:
        """The deadline for the preface and the handshake under Noise."""
        if self._connection is None:
            self._transport.abort()

    def _payload(self, frames: Frames, text: bool, payload: bytes) -> None:
        """RFC 6455, 8.1: text that is not UTF-8 fails the connection. ASCII needs no look."""
        if self._sealed:
            self._open_sealed(text, payload)
        elif text and not _is_utf8(payload):
            frames.fail(WsCloseCode.INVALID_DATA, "text frames are UTF-8")
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
            self._envelope = accepted.envelope
            self._begin(self._framed[self._preface.codec], accepted.answer, peer_key=accepted.peer_key)
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
        self._say_goodbye(code, reason)

    def ping(self) -> None:
        """A WebSocket ping."""
        if self._frames is not None and self._frames.open:
            self._send(_PING)

    def hang_up(self) -> None:
        """Closes after the client's goodbye."""
        self._say_goodbye(WsCloseCode.NORMAL_CLOSURE)

    def _say_goodbye(self, code: int, reason: str = "") -> None:
        self._live = False
        if self._frames is not None:
            self._frames.close(code, reason)
            self._write_all(self._frames.data_to_send())

    def _write_all(self, writes: Sequence[bytes]) -> None:
        for data in writes:
            if data:
                self._send(data)
            else:
                self._live = False
                self._transport.close()  # the protocol's end of stream: what is buffered still goes out


class _Handshake(ServerProtocol):
    """Reads one request and answers it."""

    def select_subprotocol(self, subprotocols: Sequence[Subprotocol]) -> Subprotocol | None:
        """The client's first that we speak. Offering none means JSON; offering only strange ones is an error."""
        if not subprotocols:
            return None
        for name in subprotocols:
            if self.available_subprotocols and name in self.available_subprotocols:
                return name
        raise InvalidHandshake("none of the subprotocols is spoken here")

    def end(self) -> None:
        """It has answered: what its parser holds is let go at once, not when garbage is collected."""
        self.parser.close()


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
