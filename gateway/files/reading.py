"""The way out: any range of a file, opened a megabyte at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from functools import partial
from typing import NamedTuple

from crypto.file_sealing import CHUNK, PartSeal, chunks_of
from gateway.files.parts import open_chunks, sealed_range
from storage.blobs import Blobs, seen
from storage.files import Part, StoredFile, Variant

CHUNKS_AT_ONCE = 16
"""Chunks that one look into a blob opens: a megabyte."""


class Piece(NamedTuple):
    """Chunks `first` to `last` of a part, of which the bytes from `start` to `end` are wanted."""

    part: Part
    first: int
    last: int
    start: int
    end: int


class Reading:
    """The bytes of a file, or of a picture of it. `size` is how many there are.

    Whatever is not as it was written is crypto.sealing.SealBroken, or storage.blobs.BlobMissing.
    """

    def __init__(self, blobs: Blobs, file: StoredFile, variant: Variant, parts: Sequence[Part]) -> None:
        self._blobs = blobs
        self._file = file
        self._variant = variant
        self._parts = parts
        # Pictures of a file are ours, and sealed, wherever it came from.
        self._plain = variant == "whole" and file.description.direct is not None
        self.size = sum(part.size for part in parts)

    async def read(self, start: int, length: int) -> AsyncGenerator[bytes]:
        """So many bytes from `start`, while the next ones are being opened."""
        ahead: asyncio.Task[bytes] | None = None
        try:
            for piece in pieces(self._parts, start, length):
                ready, ahead = ahead, asyncio.create_task(self._open(piece))
                ahead.add_done_callback(seen)  # the one before may fail first
                if ready is not None:
                    yield await ready
            if ahead is not None:
                yield await ahead
        finally:
            if ahead is not None:
                ahead.cancel()

    async def _open(self, piece: Piece) -> bytes:
        part = piece.part
        if self._plain:
            return await self._blobs.read(
                part.blob_id, piece.first * CHUNK + piece.start, piece.end - piece.start, bytes
            )
        seal = PartSeal(self._file.key, self._file.id, self._variant, part.number)
        start, length = sealed_range(part.size, piece.first, piece.last)
        opened = await self._blobs.read(part.blob_id, start, length, partial(open_chunks, seal, part.size, piece.first))
        return opened[piece.start : piece.end]


def pieces(parts: Sequence[Part], start: int, length: int) -> Iterator[Piece]:
    """What to open for a range, in order."""
    end = start + length
    base = 0
    for part in parts:
        low, high = max(start, base) - base, min(end, base + part.size) - base
        if low < high:
            yield from _pieces_of(part, low, high)
        base += part.size


def _pieces_of(part: Part, low: int, high: int) -> Iterator[Piece]:
    last = min((high - 1) // CHUNK, chunks_of(part.size) - 1)
    for first in range(low // CHUNK, last + 1, CHUNKS_AT_ONCE):
        until = min(first + CHUNKS_AT_ONCE - 1, last)
        begin = first * CHUNK
        yield Piece(part, first, until, max(low - begin, 0), min(high, (until + 1) * CHUNK) - begin)
