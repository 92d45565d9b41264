"""A file on its way between a disk and the wire: as it is, or sealed so that only members can open it.

Plain code, for threads; no file is in memory as a whole. What is sealed has the form of a
file at rest (crypto/file_sealing.py), in one part, under a key that no server ever sees.
"""

from __future__ import annotations

import mimetypes
import os
import re
import threading
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Literal, NamedTuple, Protocol
from uuid import UUID, uuid4

from msgspec import Struct

from crypto.file_sealing import CHUNK, SEALED_CHUNK, RepeatableSeal, chunks_of, sealed_size
from crypto.sealing import SealBroken, new_key

BATCH = 4 * CHUNK
"""Bytes that are read together."""

VARIANT = "end-to-end"


class FileChanged(Exception):
    """A file became shorter while it was read, or was not the same when it was read again."""


class Digest:
    """SHA-256 (FIPS 180-4) of bytes that may be read again after a cut: each counts when it first comes.

    `at` is how many there were.
    """

    def __init__(self) -> None:
        self._hash = sha256()
        self.at = 0
        self._lock = threading.Lock()  # what was cut may still be in a thread when it goes on

    def take(self, start: int, data: bytes) -> None:
        """Bytes from `start` on; there is never a hole before them."""
        end = start + len(data)
        with self._lock:
            if end > self.at:
                self._hash.update(memoryview(data)[self.at - start :])
                self.at = end

    def digest(self) -> bytes:
        """That of all bytes up to the last one."""
        return self._hash.digest()


# --- out: what is uploaded ---------------------------------------------------------------------


class Source(Protocol):
    """What an upload sends. `size` is in bytes, `digest` what was read so far."""

    size: int
    digest: Digest

    def read(self, start: int) -> Iterator[bytes]:
        """The bytes from `start` on, batch by batch. Raises OSError, and FileChanged."""
        ...


class PlainFile:
    """A file as it is."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.size = path.stat().st_size
        self.digest = Digest()

    def read(self, start: int) -> Iterator[bytes]:
        """The bytes from `start` on; what was appended meanwhile is left out."""
        with self._path.open("rb") as file:
            file.seek(start)
            while start < self.size:
                data = file.read(min(BATCH, self.size - start))
                if not data:
                    raise FileChanged(f"{self._path} became shorter")
                self.digest.take(start, data)
                yield data
                start += len(data)


class FileInfo(Struct, frozen=True, kw_only=True):
    """What members need to open a sealed file, and what it is. `id` is what its chunks are bound to, and nothing else.

    `width` and `height` are those of a picture, where the sender knows them.
    """

    key: bytes
    id: UUID
    filename: str
    file_type: str
    file_size: int
    sha256: str
    width: int | None = None
    height: int | None = None


class SealedFile:
    """A file, sealed under a key of its own."""

    def __init__(self, path: Path, name: str) -> None:
        self._plain = PlainFile(path)
        self.size = sealed_size(self._plain.size)
        self.digest = Digest()
        self._name = name
        self._key, self._id = new_key(), uuid4()
        self._seal = RepeatableSeal(self._key, self._id, VARIANT, 0)

    def info(self) -> FileInfo:
        """What members have to be told, once it was read."""
        return FileInfo(
            key=self._key,
            id=self._id,
            filename=self._name,
            file_type=mimetypes.guess_type(self._name)[0] or "application/octet-stream",
            file_size=self._plain.size,
            sha256=self._plain.digest.digest().hex(),
        )

    def read(self, start: int) -> Iterator[bytes]:
        """The sealed bytes from `start` on."""
        index, skip = divmod(start, SEALED_CHUNK)
        last = chunks_of(self._plain.size) - 1
        for batch in self._batches(index * CHUNK):
            chunks = range(0, max(1, len(batch)), CHUNK)
            sealed = b"".join(
                self._seal.seal(index + n, batch[at : at + CHUNK], last=index + n == last)
                for n, at in enumerate(chunks)
            )
            self.digest.take(index * SEALED_CHUNK, sealed)
            yield sealed[skip:]
            index, skip = index + len(chunks), 0

    def _batches(self, start: int) -> Iterator[bytes]:
        """Batches of whole chunks; an empty file has one that is empty."""
        if self._plain.size == 0:
            yield b""
        yield from self._plain.read(start)


def message_type_of(file_type: str) -> Literal["image", "file"]:
    """How a message with such a file is marked."""
    return "image" if file_type.startswith("image/") else "file"


# --- in: what is downloaded --------------------------------------------------------------------


class Destination(NamedTuple):
    """What a download will be called; with `replace` it takes the place of what is there."""

    path: Path
    replace: bool


def destination(path: str | Path, name: str) -> Destination:
    """`path` as it is given; in a folder the file's own name, which others chose: it stays in and replaces nothing."""
    path = Path(path)
    if not path.is_dir():
        return Destination(path, replace=True)
    own = re.sub(r"[\x00-\x1f\x7f-\x9f]", "", re.split(r"[/\\]", name)[-1]).lstrip(". ")
    return Destination(path / (own or "file"), replace=False)


class Target:
    """Where a download goes: a new file beside, which gets its name in the end. `received` are its bytes."""

    def __init__(self, destination: Destination) -> None:
        self._path, self._replace = path, _ = destination
        self._part = path.with_name(f".parley-{os.urandom(8).hex()}.part")
        self._file = self._part.open("xb")
        self.digest = sha256()
        self.received = 0

    def write(self, data: bytes) -> None:
        """Takes more. Raises OSError."""
        self._put(data)
        self.received += len(data)

    def restart(self) -> None:
        """What came so far is of another file."""
        self._file.seek(0)
        self._file.truncate()
        self.digest, self.received = sha256(), 0

    def finish(self) -> None:
        """Everything has come. Raises FileExistsError where something is there that must not be replaced."""
        self._file.close()
        if self._replace:
            self._part.replace(self._path)
        else:
            self._path.hardlink_to(self._part)
            self._part.unlink()

    def drop(self) -> None:
        """It is not wanted any more."""
        self._file.close()
        self._part.unlink(missing_ok=True)

    def _put(self, data: bytes) -> None:
        self.digest.update(data)
        self._file.write(data)


class OpeningTarget(Target):
    """The same for a sealed file. It is written as it is opened, and gets its name when all of it is right."""

    def __init__(self, destination: Destination, info: FileInfo) -> None:
        super().__init__(destination)
        self._seal = RepeatableSeal(info.key, info.id, VARIANT, 0)
        self._last = chunks_of(info.file_size) - 1
        self._expected = info.sha256
        self._rest = bytearray()
        self._index = 0

    def write(self, data: bytes) -> None:
        """Opens the chunks that are whole. Raises crypto.sealing.SealBroken, OSError."""
        self._rest += data
        self.received += len(data)
        while len(self._rest) >= SEALED_CHUNK:
            self._open_chunk()

    def restart(self) -> None:
        """What came so far is of another file."""
        super().restart()
        self._rest.clear()
        self._index = 0

    def finish(self) -> None:
        """Opens the last chunk, and compares. Raises crypto.sealing.SealBroken, FileExistsError."""
        while self._index <= self._last:
            self._open_chunk()
        if self._rest or self.digest.hexdigest() != self._expected:
            raise SealBroken("the file is not the one that was sent")
        super().finish()

    def _open_chunk(self) -> None:
        chunk = bytes(self._rest[:SEALED_CHUNK])
        self._put(self._seal.open(self._index, chunk, last=self._index == self._last))
        del self._rest[: len(chunk)]
        self._index += 1
