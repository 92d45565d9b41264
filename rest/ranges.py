"""Which bytes of a file a request asks for, and how they are sent (RFC 9110, 14). Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import pairwise
from typing import NamedTuple

MOST = 16
"""Ranges that one request may ask for. More are many small reads for one of ours: the whole file is the answer then."""

_RANGE = re.compile(r"([0-9]{1,20})-([0-9]{1,20})?|-([0-9]{1,20})")


class Span(NamedTuple):
    """So many bytes from `start`."""

    start: int
    length: int


class Section(NamedTuple):
    """A span, and what is sent before it."""

    before: bytes
    span: Span


class Body(NamedTuple):
    """What an answer has in it: sections, then `end`. `length` is that of all, in bytes."""

    status: int
    headers: dict[str, str]
    sections: tuple[Section, ...]
    end: bytes = b""

    @property
    def length(self) -> int:
        """Bytes in all."""
        return sum(len(section.before) + section.span.length for section in self.sections) + len(self.end)


def requested(header: str | None, size: int) -> list[Span] | None:
    """What a Range header asks for of `size` bytes, in its order; an empty list where nothing of it is there.

    None, and so the whole file, is the answer to what is no such header, to another unit than bytes, to more than
    `MOST` ranges, and to ranges that overlap, which RFC 9110, 14.2 lets a server ignore.
    """
    unit, equals, text = (header or "").partition("=")
    items = [item for part in text.split(",") if (item := part.strip(" \t"))]
    matches = [_RANGE.fullmatch(item) for item in items]
    if not equals or unit.strip(" \t").lower() != "bytes" or not 1 <= len(items) <= MOST or None in matches:
        return None
    spans = [_span(match, size) for match in matches if match is not None]
    if any(span is None for span in spans):
        return None
    there = [span for span in spans if span is not None and span.length]
    return None if _overlap(there) else there


def _span(match: re.Match[str], size: int) -> Span | None:
    """One range: with the length zero where it is not there, None where it is none."""
    first, last, suffix = match.groups()
    if suffix is not None:
        # Of nothing there is a suffix (RFC 9110, 14.1.2), but no way to say where it is.
        return None if not size and int(suffix) else Span(max(size - int(suffix), 0), min(int(suffix), size))
    start, end = int(first), size if last is None else min(int(last) + 1, size)
    if last is not None and int(last) < start:
        return None
    return Span(start, max(end - start, 0))


def _overlap(spans: Iterable[Span]) -> bool:
    return any(one.start + one.length > other.start for one, other in pairwise(sorted(spans)))


def whole(file_type: str, size: int) -> Body:
    """All of a file."""
    return Body(200, {"Content-Type": file_type}, (Section(b"", Span(0, size)),) if size else ())


def partial(spans: list[Span], file_type: str, size: int, boundary: str) -> Body:
    """One range as it is, several as the parts of a multipart/byteranges (RFC 9110, 14.6)."""
    if len(spans) == 1:
        headers = {"Content-Type": file_type, "Content-Range": content_range(spans[0], size)}
        return Body(206, headers, (Section(b"", spans[0]),))
    sections = tuple(
        Section(
            f"\r\n--{boundary}\r\nContent-Type: {file_type}\r\n"
            f"Content-Range: {content_range(span, size)}\r\n\r\n".encode(),
            span,
        )
        for span in spans
    )
    headers = {"Content-Type": f"multipart/byteranges; boundary={boundary}"}
    return Body(206, headers, sections, f"\r\n--{boundary}--\r\n".encode())


def content_range(span: Span | None, size: int) -> str:
    """Where a range is in the whole; None for one that is nowhere."""
    return f"bytes */{size}" if span is None else f"bytes {span.start}-{span.start + span.length - 1}/{size}"
