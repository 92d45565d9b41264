"""Frames on a byte stream: a preface of five bytes, then a length and a payload, again and again. Sans-I/O.

    preface   "PLY1" and a byte of flags (`Preface`)
    frame     4 bytes, big-endian: how long the payload is; then the payload

Under Noise each frame is one Noise message. What those carry, joined, is again
a stream of such frames, so a large one spans several messages and several small
ones share one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

MAGIC = b"PLY1"
PREFACE_BYTES = 5
HEADER_BYTES = 4

_MSGPACK, _NOISE, _KEYED = 1, 2, 4


class BadPreface(Exception):
    """The stream begins with something else, or with flags that mean nothing here."""


class FrameTooLarge(Exception):
    """A frame announces more than may be sent."""


@dataclass(frozen=True, slots=True)
class Preface:
    """How a connection begins: what the payloads are, and what they are sealed with.

    `keyed` says that the client has a static key of its own (Noise_IK instead of Noise_NK).
    """

    msgpack: bool = False
    noise: bool = False
    keyed: bool = False

    def __bytes__(self) -> bytes:
        return MAGIC + bytes((self.msgpack * _MSGPACK | self.noise * _NOISE | self.keyed * _KEYED,))

    @classmethod
    def parse(cls, data: bytes) -> Preface:
        """The preface in these bytes. Raises BadPreface."""
        flags = data[-1] if data else 0
        preface = cls(bool(flags & _MSGPACK), bool(flags & _NOISE), bool(flags & _KEYED))
        if bytes(preface) != data or (preface.keyed and not preface.noise):
            raise BadPreface("this is not a preface that is spoken here")
        return preface

    @property
    def codec(self) -> str:
        """The name of the codec of the payloads."""
        return "msgpack" if self.msgpack else "json"


def frame(payload: bytes) -> bytes:
    """A payload behind its length."""
    return len(payload).to_bytes(HEADER_BYTES, "big") + payload


class FrameReader:
    """Bytes in, payloads out. A length above `limit` is refused before a byte of that frame is kept."""

    __slots__ = ("_buffer", "_limit")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._buffer: bytearray | None = None

    @property
    def partial(self) -> bool:
        """Whether a frame has begun to arrive and is not whole."""
        return self._buffer is not None

    def feed(self, data: bytes | bytearray) -> Iterator[bytes]:
        """The payloads that are whole now; take them all before feeding more.

        Raises FrameTooLarge, after the payloads that stand before the one that is too large.
        """
        if self._buffer is not None:
            self._buffer += data
            data, self._buffer = self._buffer, None
        start, end = 0, len(data)
        while end - start >= HEADER_BYTES:
            begin = start + HEADER_BYTES
            stop = begin + int.from_bytes(data[start:begin], "big")
            if stop - begin > self._limit:
                raise FrameTooLarge(f"a frame may have {self._limit} bytes")
            if stop > end:
                break
            yield bytes(data[begin:stop])
            start = stop
        if start < end:
            self._keep(data, start)

    def _keep(self, data: bytes | bytearray, start: int) -> None:
        """What a long frame has so far is not copied again at each piece."""
        if isinstance(data, bytearray):
            del data[:start]
            self._buffer = data
        else:
            self._buffer = bytearray(data[start:])
