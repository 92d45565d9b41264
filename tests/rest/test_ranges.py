"""Range headers as values, and answers as bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rest.ranges import MOST, Body, Section, Span, content_range, partial, requested, whole


@pytest.mark.parametrize(
    ("header", "spans"),
    [
        ("bytes=0-0", [(0, 1)]),
        ("bytes=0-99", [(0, 100)]),
        ("bytes=0-100", [(0, 100)]),
        ("bytes=90-", [(90, 10)]),
        ("bytes=99-99", [(99, 1)]),
        ("bytes=-1", [(99, 1)]),
        ("bytes=-1000", [(0, 100)]),
        ("BYTES = 0-1", [(0, 2)]),
        ("bytes=0-1,5-6", [(0, 2), (5, 2)]),
        ("bytes=,0-1 ,\t, 5-6,", [(0, 2), (5, 2)]),
        ("bytes=50-,0-9", [(50, 50), (0, 10)]),
        ("bytes=0-9,10-19", [(0, 10), (10, 10)]),
        ("bytes=0-9,100-", [(0, 10)]),
        ("bytes=" + ",".join(f"{at}-{at}" for at in range(MOST)), [(at, 1) for at in range(MOST)]),
    ],
)
def test_some_of_it(header: str, spans: list[tuple[int, int]]) -> None:
    """What is asked for of 100 bytes, in the order of the header, as far as it is there."""
    assert requested(header, 100) == [Span(*span) for span in spans]


@pytest.mark.parametrize("header", ["bytes=100-", "bytes=100-200", "bytes=-0", "bytes=500-,-0", "bytes=100-100,200-"])
def test_nothing_of_it(header: str) -> None:
    """A header that is one, and asks for nothing that is there."""
    assert requested(header, 100) == []


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "bytes",
        "bytes=",
        "bytes=,",
        "bytes=-",
        "bytes=a-b",
        "bytes=1",
        "bytes=5-4",
        "bytes=0-1,5-4",
        "bytes=--1",
        "bytes=+1-2",
        "bytes=1-+2",
        "bytes=0x1-2",
        "bytes=1 - 2",
        "bytes=\u0661-\u0662",
        f"bytes=0-{'9' * 5000}",
        "bytes=0-1;5-6",
        "seconds=0-1",
        "0-1",
        "bytes=0-1, bytes=5-6",
        "bytes=0-5,5-9",
        "bytes=0-,-1",
        "bytes=0-0,0-0",
        "bytes=" + ",".join(f"{at}-{at}" for at in range(MOST + 1)),
    ],
)
def test_all_of_it(header: str | None) -> None:
    """What is no Range header, what overlaps, and what asks for too much at once: the whole is the answer."""
    assert requested(header, 100) is None


@pytest.mark.parametrize(("header", "spans"), [("bytes=0-", []), ("bytes=-0", []), ("bytes=-5", None)])
def test_of_nothing(header: str, spans: list[Span] | None) -> None:
    """Of an empty file there is no first byte; its last five are the whole of it."""
    assert requested(header, 0) == spans


@given(
    st.text("bytes=0123456789-, ", max_size=30) | st.from_regex(r"bytes=([0-9]{0,3}-[0-9]{0,3},?){1,20}"),
    st.integers(0, 99),
)
def test_never_outside(header: str, size: int) -> None:
    """Whatever is asked for: spans lie within the file, are not empty, and together are no larger than it."""
    spans = requested(header, size) or []
    assert all(start >= 0 and length > 0 and start + length <= size for start, length in spans)
    assert sum(length for _, length in spans) <= size


def test_one_range() -> None:
    """One range goes as it is."""
    headers = {"Content-Type": "text/plain", "Content-Range": "bytes 3-6/10"}
    assert partial([Span(3, 4)], "text/plain", 10, "B") == Body(206, headers, (Section(b"", Span(3, 4)),))


def test_several_ranges() -> None:
    """Several go as parts, each with its place; the length is that of all bytes that are sent."""
    data = b"0123456789"
    body = partial([Span(0, 2), Span(9, 1)], "text/plain", 10, "B")
    sent = b"".join(before + data[start : start + length] for before, (start, length) in body.sections) + body.end
    assert sent == (
        b"\r\n--B\r\nContent-Type: text/plain\r\nContent-Range: bytes 0-1/10\r\n\r\n01"
        b"\r\n--B\r\nContent-Type: text/plain\r\nContent-Range: bytes 9-9/10\r\n\r\n9"
        b"\r\n--B--\r\n"
    )
    assert (body.status, body.headers) == (206, {"Content-Type": "multipart/byteranges; boundary=B"})
    assert body.length == len(sent)


def test_whole() -> None:
    """All of a file, also of one with nothing in it."""
    assert whole("text/plain", 5) == Body(200, {"Content-Type": "text/plain"}, (Section(b"", Span(0, 5)),))
    assert whole("text/plain", 0).length == 0
    assert content_range(None, 5) == "bytes */5"
