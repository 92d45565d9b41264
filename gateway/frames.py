"""A WebSocket after its handshake, without I/O: bytes to messages.

Nearly all that clients send are final data frames, and those are read here. All others go to the parser of
`websockets`, which knows RFC 6455: a control frame to one that is let go again, so that idle sessions have none, and
anything else to one that reads whatever follows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from websockets.frames import CloseCode, Frame, Opcode
from websockets.protocol import OPEN
from websockets.server import ServerProtocol

try:
    from websockets.speedups import apply_mask
except ImportError:  # where there is no compiled one
    from websockets.utils import apply_mask

Message = tuple[bool, bytes]
"""Whether it is text, and its payload."""

_FINAL = 0x80  # the first bit of a frame; the next three are reserved
_MASKED = 0x80  # the first bit of the second byte; the others are the length, or say how long that is
_TEXT = _FINAL | Opcode.TEXT
_DATA = frozenset((_TEXT, _FINAL | Opcode.BINARY))
_PLAIN = _DATA | {_FINAL | Opcode.CLOSE, _FINAL | Opcode.PING, _FINAL | Opcode.PONG}


class Frames:
    """One WebSocket. `limit`: bytes of a message."""

    __slots__ = ("_limit", "_parser", "_part")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._part: bytearray | None = None  # of a frame
        self._parser: _Parser | None = None

    @property
    def open(self) -> bool:
        """Whether neither side has begun to close."""
        return self._parser is None or self._parser.protocol.state is OPEN

    @property
    def closed_normally(self) -> bool:
        """Whether the client has closed with 1000."""
        close = None if self._parser is None else self._parser.protocol.close_rcvd
        return close is not None and close.code == CloseCode.NORMAL_CLOSURE

    # --- in ----------------------------------------------------------------------------------

    def feed(self, data: bytes | bytearray) -> Iterator[Message | None]:
        """The messages that are whole now; None for another sign of life. After it, `data_to_send` has to be asked."""
        if self._part is not None:
            self._part += data
            data, self._part = self._part, None
        at = 0
        while at < len(data):
            span = _span(data, at, self._limit) if self._parser is None or not self._parser.lasting else None
            if span is None:
                yield from self._lasting_parser().feed(data[at:])
                return
            start, end = span
            if end > len(data):
                self._part = data if at == 0 and isinstance(data, bytearray) else bytearray(data[at:])
                return
            if (first := data[at]) in _DATA:
                yield first == _TEXT, apply_mask(data[start:end], data[start - 4 : start])
            else:
                yield from self._any_parser().feed(data[at:end])
            at = end

    def _any_parser(self) -> _Parser:
        if self._parser is None:
            self._parser = _Parser(self._limit)
        return self._parser

    def _lasting_parser(self) -> _Parser:
        """One that reads whatever follows."""
        parser = self._any_parser()
        parser.lasting = True
        return parser

    # --- out ---------------------------------------------------------------------------------

    def data_to_send(self) -> Sequence[bytes]:
        """What the parser has to say; empty bytes are the end of the stream."""
        parser = self._parser
        if parser is None:
            return ()
        if not parser.lasting:
            self._parser = None
            parser.end()
        return parser.protocol.data_to_send()

    def close(self, code: int, reason: str = "") -> None:
        """Begins to close, if nobody has. What the client still says is not listened to."""
        if self.open:
            self._leave().send_close(code, reason)

    def fail(self, code: int, reason: str) -> None:
        """Closes, and does not wait for the client's word."""
        self._leave().fail(code, reason)

    def _leave(self) -> ServerProtocol:
        parser = self._lasting_parser()
        if self._part is not None:
            parser.protocol.receive_data(self._part)
            self._part = None
        parser.left = True
        return parser.protocol


def _span(data: bytes | bytearray, at: int, limit: int) -> tuple[int, int] | None:
    """From where to where the payload goes of a frame that is final, masked and within the limit; None for any other.

    The end is behind that of the data while not all of it is there (RFC 6455, 5.2).
    """
    if len(data) < at + 2:
        return at, at + 2
    if data[at] not in _PLAIN or data[at + 1] < _MASKED:
        return None
    start, length = at + 6, data[at + 1] - _MASKED
    if length > 125:
        width = 2 if length == 126 else 8
        start, length = start + width, int.from_bytes(data[at + 2 : at + 2 + width], "big")
    return (start, start + length) if length <= limit else None


class _Parser:
    """The parser of `websockets`, which leaves it to others to join fragments."""

    __slots__ = ("_fragments", "_text", "lasting", "left", "protocol")

    def __init__(self, limit: int) -> None:
        self.protocol = ServerProtocol(state=OPEN, max_size=limit)
        self.lasting = False  # reads whatever follows
        self.left = False  # we have closed
        self._text = False
        self._fragments = bytearray()

    def end(self) -> None:
        """It is needed no more: a generator that has ended holds nothing, so there is no work for the collector."""
        self.protocol.parser.close()

    def feed(self, data: bytes | bytearray) -> Iterator[Message | None]:
        """The messages that are whole now; None for another frame."""
        self.protocol.receive_data(data)
        self.lasting = self.lasting or self.protocol.state is not OPEN
        for frame in self.protocol.events_received():
            if self.left:
                return
            assert isinstance(frame, Frame)
            yield self._take(frame)

    def _take(self, frame: Frame) -> Message | None:
        if frame.opcode is Opcode.TEXT or frame.opcode is Opcode.BINARY:
            self._text, self._fragments = frame.opcode is Opcode.TEXT, bytearray()
        elif frame.opcode is not Opcode.CONT:
            return None
        self._fragments += frame.data
        return (self._text, bytes(self._fragments)) if frame.fin else None
