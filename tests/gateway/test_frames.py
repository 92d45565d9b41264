"""What we read of a WebSocket `websockets` reads too: the same messages, answers and errors, however bytes are cut."""

from __future__ import annotations

import gc
import struct
from collections.abc import Iterator

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN
from websockets.server import ServerProtocol
from websockets.utils import apply_mask

from gateway.frames import Frames, Message

LIMIT = 300
LENGTHS = st.sampled_from([0, 1, 5, 124, 125, 126, 127, LIMIT - 1, LIMIT, LIMIT + 1])
Heard = tuple[list[Message | None], list[bytes], bool]
"""What was read, what was answered, and whether the socket is open still."""


def encode(first: int, payload: bytes, *, masked: bool = True, width: int = 0) -> bytes:
    """A frame, right or wrong. `width`: bytes of its extended length, which may be more than it needs."""
    length = len(payload)
    width = max(width, 0 if length < 126 else 2)
    short, extended = {0: (length, b""), 2: (126, struct.pack("!H", length)), 8: (127, struct.pack("!Q", length))}[
        width
    ]
    mask = b"\x0a\x0b\xc0\xd0"
    rest = mask + apply_mask(payload, mask) if masked else payload
    return bytes((first, short | 0x80 * masked)) + extended + rest


payloads = st.builds(lambda length, letter: letter * length, LENGTHS, st.sampled_from([b"a", b"\xff"]))
data_frames = st.builds(encode, st.sampled_from([0x81, 0x82]), payloads, width=st.sampled_from([0, 2, 8]))
control_frames = st.builds(encode, st.sampled_from([0x89, 0x8A]), st.sampled_from([b"", b"ping", b"p" * 125]))
fragments = st.tuples(
    st.builds(encode, st.sampled_from([0x01, 0x02]), st.just(b"one ")),
    st.lists(st.builds(encode, st.just(0x00), payloads) | control_frames, max_size=3).map(b"".join),
    st.builds(encode, st.just(0x80), st.just(b"two")),
).map(b"".join)
closes = st.builds(encode, st.just(0x88), st.sampled_from([b"", b"\x03", b"\x03\xe8", b"\x03\xe8bye", b"\x03\xed\xff"]))
odd_frames = st.builds(
    encode, st.integers(0, 255), payloads, masked=st.booleans(), width=st.sampled_from([0, 2, 8])
) | st.binary(max_size=12)
usual = st.lists(data_frames | data_frames | control_frames, max_size=5).map(b"".join)
streams = st.tuples(usual, fragments | closes | odd_frames | st.just(b""), usual).map(b"".join)
cuts = st.lists(st.integers(0, 1_500), max_size=8)


def pieces(stream: bytes, cuts: list[int]) -> Iterator[bytes]:
    """The stream, cut there."""
    ends = sorted({cut for cut in cuts if 0 < cut < len(stream)})
    for begin, end in zip([0, *ends], [*ends, len(stream)], strict=True):
        yield stream[begin:end]


def by_us(stream: list[bytes], leave_at: int, leave_after: int) -> Heard:
    """What `Frames` makes of it. We close when so many messages were heard, and after that piece."""
    frames, heard, said = Frames(LIMIT), list[Message | None](), list[bytes]()
    for number, piece in enumerate(stream):
        for message in frames.feed(piece):
            heard.append(message)
            if len(heard) == leave_at:
                frames.close(4000, "enough")
        said += frames.data_to_send()
        if number == leave_after:
            frames.close(4000, "enough")
            said += frames.data_to_send()
    return heard, said, frames.open


class Library:
    """Its parser alone."""

    def __init__(self) -> None:
        self.parser = ServerProtocol(state=OPEN, max_size=LIMIT)
        self.heard: list[Message | None] = []
        self.left = False
        self._begun: list[Frame] = []

    def take(self, byte: int, leave_at: int) -> None:
        """One byte more."""
        self.parser.receive_data(bytes((byte,)))
        for frame in self.parser.events_received():
            assert isinstance(frame, Frame)
            if not self.left:
                self.heard.append(self._message(frame))
                self.leave(len(self.heard) == leave_at)

    def leave(self, now: bool) -> None:
        """Begins to close, if nobody has."""
        if now and self.parser.state is OPEN:
            self.left = True
            self.parser.send_close(4000, "enough")

    def _message(self, frame: Frame) -> Message | None:
        """The message that a frame ends."""
        if frame.opcode not in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            return None
        self._begun.append(frame)
        if not frame.fin:
            return None
        text, payload = self._begun[0].opcode is Opcode.TEXT, b"".join(bytes(frame.data) for frame in self._begun)
        self._begun.clear()
        return text, payload


def by_the_library(stream: list[bytes], leave_at: int, leave_after: int) -> Heard:
    """The same by the library, which gets each byte by itself."""
    library = Library()
    for number, piece in enumerate(stream):
        for byte in piece:
            library.take(byte, leave_at)
        library.leave(number == leave_after)
    return library.heard, list(library.parser.data_to_send()), library.parser.state is OPEN


@settings(deadline=None)
@given(streams, cuts, st.integers(-4, 4))
@example(encode(0x81, b"a") + encode(0x89, b"b") + encode(0x88, b""), [8], -1)
@example(encode(0x82, b"c" * LIMIT), [1], 0)
@example(encode(0x81, b"not masked", masked=False), [], -1)
@example(encode(0x89, b"p" * 126), [], -1)
def test_as_the_library_does(stream: bytes, cuts: list[int], leave_after: int) -> None:
    """Whole, cut, fragmented, reserved, unmasked, too long or no frames at all, and when we close between two reads."""
    cut = list(pieces(stream, cuts))
    assert by_us(cut, 0, leave_after) == by_the_library(cut, 0, leave_after)


@settings(deadline=None)
@given(st.tuples(usual, closes | st.just(b""), usual).map(b"".join), cuts, st.integers(1, 4))
def test_a_message_on_which_we_close(stream: bytes, cuts: list[int], leave_at: int) -> None:
    """Nothing that comes after it is heard, but the client's own close is."""
    cut = list(pieces(stream, cuts))
    assert by_us(cut, leave_at, -1) == by_the_library(cut, leave_at, -1)


@pytest.mark.parametrize("piece", [1, 7, 1_000])
def test_nothing_stays_behind(piece: int) -> None:
    """Data frames, pings and what answers ours are read, and no parser stays that would weigh on an idle session."""
    stream = encode(0x81, b"text") + encode(0x8A, b"") + encode(0x82, b"x" * LIMIT) + encode(0x89, b"ping")
    gc.disable()
    try:
        before = parsers()
        frames, said = Frames(LIMIT), list[bytes]()
        for cut in pieces(stream, list(range(piece, len(stream), piece))):
            list(frames.feed(cut))
            said += frames.data_to_send()
        assert said == [Frame(Opcode.PONG, b"ping").serialize(mask=False)]
        assert parsers() == before
    finally:
        gc.enable()


def parsers() -> int:
    """How many there are. By `type`: other tests' weak proxies are among the objects, and those would be asked."""
    return sum(type(found) is ServerProtocol for found in gc.get_objects())
