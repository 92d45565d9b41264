"""Frames on a byte stream, however it is cut into pieces."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.framing import BadPreface, FrameReader, FrameTooLarge, Preface, frame

LIMIT = 100
PREFACES = [
    (Preface(), b"PLY1\x00"),
    (Preface(msgpack=True), b"PLY1\x01"),
    (Preface(noise=True), b"PLY1\x02"),
    (Preface(msgpack=True, noise=True), b"PLY1\x03"),
    (Preface(noise=True, keyed=True), b"PLY1\x06"),
    (Preface(msgpack=True, noise=True, keyed=True), b"PLY1\x07"),
]


def read(pieces: list[bytes], limit: int = LIMIT) -> tuple[list[bytes], bool]:
    """Everything a reader makes of these pieces, and whether it refused the stream at the end."""
    reader = FrameReader(limit)
    frames: list[bytes] = []
    try:
        for piece in pieces:
            frames.extend(iter(reader.feed(piece)))  # extend keeps what came before an exception
    except FrameTooLarge:
        return frames, True
    return frames, False


@st.composite
def split(draw: st.DrawFn, stream: bytes) -> list[bytes]:
    """A stream, cut anywhere."""
    cuts = sorted(draw(st.lists(st.integers(0, len(stream)), max_size=20)))
    return [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]


@pytest.mark.parametrize(("preface", "data"), PREFACES)
def test_prefaces(preface: Preface, data: bytes) -> None:
    """Each preface has one form."""
    assert bytes(preface) == data
    assert Preface.parse(data) == preface


@given(st.binary(min_size=5, max_size=5))
def test_other_prefaces_are_refused(data: bytes) -> None:
    """Any other five bytes are no preface."""
    if data in [known for _, known in PREFACES]:
        return
    with pytest.raises(BadPreface):
        Preface.parse(data)


@pytest.mark.parametrize("flags", [4, 5, 8, 10, 0x82])
def test_flags_without_a_meaning(flags: int) -> None:
    """A key without Noise, and bits that mean nothing yet, are refused instead of ignored."""
    with pytest.raises(BadPreface):
        Preface.parse(b"PLY1" + bytes((flags,)))


@given(st.data(), st.lists(st.binary(max_size=LIMIT), max_size=10))
def test_any_split_gives_the_same_frames(data: st.DataObject, payloads: list[bytes]) -> None:
    """What was framed comes out again, wherever the stream is cut."""
    stream = b"".join(map(frame, payloads))
    assert read(data.draw(split(stream))) == (payloads, False)


@given(st.data(), st.binary(max_size=400))
def test_any_bytes_give_the_same_frames(data: st.DataObject, stream: bytes) -> None:
    """Arbitrary bytes come to the same frames and the same refusal, wherever they are cut."""
    assert read(data.draw(split(stream)), 20) == read([stream], 20)


@given(st.data())
def test_a_frame_that_is_too_large(data: st.DataObject) -> None:
    """It is refused at its length, after the frames before it."""
    stream = frame(b"first") + (LIMIT + 1).to_bytes(4, "big")
    assert read(data.draw(split(stream))) == ([b"first"], True)


def test_the_largest_frame() -> None:
    """The limit itself is allowed."""
    assert read([frame(bytes(LIMIT))]) == ([bytes(LIMIT)], False)


def test_nothing_is_kept_of_a_frame_that_is_too_large() -> None:
    """Memory does not depend on what a header announces."""
    reader = FrameReader(LIMIT)
    with pytest.raises(FrameTooLarge):
        list(reader.feed(b"\xff\xff\xff\xff" + bytes(10_000)))
    assert not reader.partial


def test_partial() -> None:
    """A frame that has begun is known, for its deadline."""
    reader = FrameReader(LIMIT)
    assert not reader.partial
    assert list(reader.feed(b"\x00")) == []
    assert reader.partial
    assert list(reader.feed(b"\x00\x00\x01x\x00")) == [b"x"]
    assert reader.partial
    assert list(reader.feed(b"\x00\x00\x00")) == [b""]
    assert not reader.partial
