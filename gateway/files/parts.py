"""A part of a file, sealed as it is written and opened as it is read. Plain code, for threads."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from crypto.file_sealing import CHUNK, SEALED_CHUNK, PartSeal, chunks_of, sealed_size

if TYPE_CHECKING:
    from hashlib import _Hash


class PartWriter:
    """Writes one part into a new file. `digests` are told of the bytes as they were. Raises OSError."""

    def __init__(self, path: Path, seal: PartSeal, digests: Iterable[_Hash] = ()) -> None:
        self.path = path
        self.size = 0
        self.failed = False
        """Whether something could not be written: then the file is of no use."""
        self._seal = seal
        self._digests = tuple(digests)
        self._rest = bytearray()
        self._index = 0
        self._file = path.open("xb", buffering=0)

    def write(self, pieces: Iterable[bytes]) -> None:
        """Takes more. The last chunk is held back: whether there is one behind it is not known yet."""
        for piece in pieces:
            self._rest += piece
            self.size += len(piece)
            for digest in self._digests:
                digest.update(piece)
        whole = (len(self._rest) - 1) // CHUNK
        if whole < 1:
            return
        with memoryview(self._rest) as rest:
            sealed = [self._sealed(rest[at * CHUNK : (at + 1) * CHUNK], last=False) for at in range(whole)]
        del self._rest[: whole * CHUNK]
        self._put(b"".join(sealed))

    def close(self) -> None:
        """Seals what is left; the file is whole."""
        try:
            self._put(self._sealed(bytes(self._rest), last=True))
        finally:
            self._file.close()

    def drop(self) -> None:
        """The file is not wanted any more."""
        self._file.close()
        self.path.unlink(missing_ok=True)

    def _sealed(self, chunk: bytes | memoryview, *, last: bool) -> bytes:
        sealed = self._seal.seal(self._index, chunk, last=last)
        self._index += 1
        return sealed

    def _put(self, data: bytes) -> None:
        self.failed = True
        left = memoryview(data)
        while left:
            left = left[self._file.write(left) :]
        self.failed = False


def write_part(path: Path, seal: PartSeal, data: bytes) -> None:
    """A part that is at hand as a whole. Raises OSError, and leaves nothing then."""
    writer = PartWriter(path, seal)
    try:
        writer.write([data])
        writer.close()
    except OSError:
        writer.drop()
        raise


def sealed_range(size: int, first: int, last: int) -> tuple[int, int]:
    """Where chunks `first` to `last` of a part of `size` bytes stand in its blob: start and length."""
    start = first * SEALED_CHUNK
    return start, min((last + 1) * SEALED_CHUNK, sealed_size(size)) - start


def open_chunks(seal: PartSeal, size: int, first: int, sealed: bytes) -> bytes:
    """The bytes in chunks from `first` on, of a part of `size` bytes. Raises crypto.sealing.SealBroken."""
    end = chunks_of(size) - 1
    view = memoryview(sealed)
    return b"".join(
        seal.open(first + at, view[start : start + SEALED_CHUNK], last=first + at == end)
        for at, start in enumerate(range(0, len(sealed), SEALED_CHUNK))
    )
