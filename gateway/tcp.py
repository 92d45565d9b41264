"""TCP: a preface, then frames behind their lengths, clear or in Noise messages."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

from gateway.door import Door
from gateway.envelope import MAX_MESSAGE, NoiseBroken, PrivateKey, accept
from gateway.pump import Pump
from gateway.wire import Wire
from protocol.codec import CODECS
from protocol.errors import CloseCode
from protocol.events import Closing, Heartbeat
from protocol.framing import PREFACE_BYTES, BadPreface, FrameReader, FrameTooLarge, Preface, frame

Payloads = Callable[[bytes], Iterator[bytes]]


def framed_wires() -> dict[str, Wire]:
    """The wires of framed streams, by codec: for TCP, and for what travels in Noise over any transport."""
    return {name: Wire(codec, frame, f"tcp.{name}") for name, codec in CODECS.items()}


class TcpPump(Pump):
    """One TCP connection. `clear` says whether it may go without Noise."""

    __slots__ = ("_clear", "_opening", "_payloads", "_reader", "_since", "_static", "_wire", "_wires")

    def __init__(self, door: Door, wires: dict[str, Wire], static: PrivateKey, *, clear: bool) -> None:
        super().__init__(door)
        self._wires = wires
        self._static = static
        self._clear = clear
        self._opening = b""
        self._payloads: Payloads | None = None
        self._since = 0.0  # when the frame began that is not whole yet

    # --- asyncio.Protocol --------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Starts the deadline for the preface and the handshake."""
        super().connection_made(transport)
        if self._admit():
            self._door.wheel.schedule(self, self._door.wheel.now() + self._door.config.frame_deadline)
        else:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone. A goodbye has been taken care of when it came."""
        super().connection_lost(exc)
        self._leave(clean=False)

    # --- in ----------------------------------------------------------------------------------

    def _feed(self, data: bytes) -> None:
        try:
            if self._payloads is None:
                data = self._greet(data)
            if self._payloads is not None:
                self._take(self._payloads, data)
        except NoiseBroken:
            self._break()
        except FrameTooLarge as error:
            self.close(CloseCode.bad_frame, str(error))

    def _greet(self, data: bytes) -> bytes:
        """Looks at the preface; what follows it is given back."""
        self._opening += data
        if len(self._opening) < PREFACE_BYTES:
            return b""
        opening, rest = self._opening[:PREFACE_BYTES], self._opening[PREFACE_BYTES:]
        self._opening = b""
        try:
            preface = Preface.parse(opening)
        except BadPreface as error:
            self._turn_away(self._wires["json"], CloseCode.bad_version, str(error))
            return b""
        self._wire = self._wires[preface.codec]
        if preface.noise:
            self._expect_handshake(preface)
        elif self._clear:
            self._reader = FrameReader(self._door.config.limit_frame)
            self._payloads = self._reader.feed
            self._begin(self._wire)
        else:
            self._turn_away(self._wire, CloseCode.forbidden, "frames without Noise are for loopback only")
        return rest

    def _expect_handshake(self, preface: Preface) -> None:
        self._reader = FrameReader(MAX_MESSAGE)

        def payloads(data: bytes) -> Iterator[bytes]:
            for message in self._messages(data):
                if self._envelope is None:
                    self._shake_hands(preface, message)
                else:
                    yield from self._envelope.open(message)

        self._payloads = payloads

    def _messages(self, data: bytes) -> Iterator[bytes]:
        try:
            yield from self._reader.feed(data)
        except FrameTooLarge:
            raise NoiseBroken from None  # lengths stand outside the envelope: anyone may have written them

    def _shake_hands(self, preface: Preface, message: bytes) -> None:
        accepted = accept(preface, self._static, message, frame, self._door.config.limit_frame)
        self._envelope = accepted.envelope
        self._begin(self._wire, accepted.answer, peer_key=accepted.peer_key)

    def _take(self, payloads: Payloads, data: bytes) -> None:
        whole = False
        for payload in payloads(data):
            if self._ended:
                return
            whole = True
            if self._connection is not None:
                self._connection.receive(payload)
        self._mind_deadline(whole)

    # --- deadlines ---------------------------------------------------------------------------

    def _mind_deadline(self, whole: bool) -> None:
        """A frame has so much time from its first byte to its last: one byte a second does not hold a slot."""
        if not (self._reader.partial or (self._envelope is not None and self._envelope.partial)):
            self._since = 0.0
        elif whole or not self._since:
            self._since = self._door.wheel.now()
            self._door.wheel.schedule(self, self._since + self._door.config.frame_deadline)

    def tick(self, now: float) -> float | None:
        """Called by the wheel when a preface, a handshake or a frame may have taken too long."""
        if self._connection is None:
            self._transport.abort()
            return None
        if not self._since:
            return None
        due = self._since + self._door.config.frame_deadline
        if self._held or self._waiting:
            return now + self._door.config.frame_deadline  # it is we who do not read
        if now < due:
            return due
        self.close(CloseCode.frame_timeout, "a frame took too long")
        return None

    def resume_reading(self) -> None:
        """Reads again; a frame that was held up begins its time anew."""
        if self._held and self._since:
            self._since = self._door.wheel.now()
        super().resume_reading()

    # --- out: what the connection uses ----------------------------------------------------------

    def ping(self) -> None:
        """A `ping` frame; the client answers with any frame."""
        self.write(self._wire.chunk("ping", Heartbeat()).data)

    def send_close(self, code: CloseCode, reason: str) -> None:
        """The `closing` frame, and no more. The client's own end of stream is waited for."""
        self.write(self._wire.chunk("closing", Closing(code=code, reason=reason)).data)
        self._end()

    def hang_up(self) -> None:
        """Closes after the client's goodbye."""
        self._end()

    def _turn_away(self, wire: Wire, code: CloseCode, reason: str) -> None:
        """Says why there will be no connection; the deadline that runs already drops the socket."""
        self._send(wire.chunk("closing", Closing(code=code, reason=reason)).data)
        self._door.metrics.closed(code.name)
        self._end()

    def _end(self) -> None:
        self._ended = True
        self._live = False
        if self._transport.can_write_eof():
            self._transport.write_eof()  # closing at once, with bytes unread, would reset what is still on its way
        else:
            self._transport.close()
