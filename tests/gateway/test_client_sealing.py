"""Files between a disk and the wire, as they are and sealed. No network."""

from __future__ import annotations

import os
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from uuid import uuid4

import pytest
from msgspec.structs import replace

from crypto.file_sealing import CHUNK, SEALED_CHUNK, sealed_size
from crypto.sealing import SealBroken, new_key
from gateway.client_sealing import (
    BATCH,
    FileChanged,
    FileInfo,
    OpeningTarget,
    PlainFile,
    SealedFile,
    Target,
    destination,
)

SIZES = [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, BATCH, BATCH + CHUNK, 2 * BATCH + 7]


def _file(folder: Path, size: int) -> tuple[Path, bytes]:
    data = os.urandom(size)
    path = folder / f"{size}.bin"
    path.write_bytes(data)
    return path, data


def _sealed(folder: Path, size: int, name: str = "plan.pdf") -> tuple[bytes, bytes, FileInfo]:
    path, data = _file(folder, size)
    source = SealedFile(path, name)
    sealed = b"".join(source.read(0))
    assert source.digest.digest() == sha256(sealed).digest()
    assert len(sealed) == source.size == sealed_size(size)
    return data, sealed, source.info()


def _opened(folder: Path, info: FileInfo, pieces: Iterable[bytes]) -> bytes:
    out = folder / "out.bin"
    target = OpeningTarget(destination(out, ""), info)
    try:
        for piece in pieces:
            target.write(piece)
        target.finish()
    finally:
        target.drop()
    return out.read_bytes()


def _cut(data: bytes, size: int) -> Iterable[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


# --- out -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_sealing_goes_on_anywhere(tmp_path: Path, size: int) -> None:
    """After a cut at any byte the rest is what it was, byte for byte, and the digests are those of the whole."""
    path, data = _file(tmp_path, size)
    source = SealedFile(path, "a")
    whole = b"".join(source.read(0))
    for start in {0, 1, len(whole) // 2, SEALED_CHUNK - 1, SEALED_CHUNK, SEALED_CHUNK + 1, len(whole) - 1, len(whole)}:
        if start <= len(whole):
            assert sha256(b"".join(source.read(start))).digest() == sha256(whole[start:]).digest()
    assert source.digest.digest() == sha256(whole).digest()
    assert source.info().sha256 == sha256(data).hexdigest()


def test_digest_of_what_is_read_twice(tmp_path: Path) -> None:
    """What is read again after a cut, from before or from the very end, counts once."""
    path, data = _file(tmp_path, 3 * BATCH + 5)
    source = PlainFile(path)
    pieces = source.read(0)
    assert len(next(pieces) + next(pieces)) == 2 * BATCH
    for start in (BATCH + 3, 2 * BATCH, len(data)):
        assert b"".join(source.read(start)) == data[start:]
    assert source.digest.digest() == sha256(data).digest()


def test_a_file_that_changes(tmp_path: Path) -> None:
    """What is appended is left out; a file that becomes shorter is an error; other content has other nonces."""
    path, data = _file(tmp_path, BATCH)
    source = SealedFile(path, "a")
    before = b"".join(source.read(0))
    path.write_bytes(data + b"more")
    assert b"".join(source.read(0)) == before
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    after = b"".join(source.read(0))
    assert after[: 3 * SEALED_CHUNK] == before[: 3 * SEALED_CHUNK]
    assert after[3 * SEALED_CHUNK :][:12] != before[3 * SEALED_CHUNK :][:12]
    path.write_bytes(data[:-1])
    with pytest.raises(FileChanged):
        b"".join(source.read(0))


def test_what_is_sealed_shows_nothing(tmp_path: Path) -> None:
    """The same file, sealed twice, has nothing in common with itself: each time there is a new key."""
    path, _ = _file(tmp_path, CHUNK)
    first, second = SealedFile(path, "a"), SealedFile(path, "a")
    assert first.info().key != second.info().key
    one, two = b"".join(first.read(0)), b"".join(second.read(0))
    assert {one[at : at + 8] for at in range(len(one) - 7)}.isdisjoint(two[at : at + 8] for at in range(len(two) - 7))


# --- in --------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("cut", [997, SEALED_CHUNK, 1 << 20])
def test_there_and_back(tmp_path: Path, size: int, cut: int) -> None:
    """What was sealed opens, however it is cut on the way."""
    data, sealed, info = _sealed(tmp_path, size)
    assert sha256(_opened(tmp_path, info, _cut(sealed, cut))).digest() == sha256(data).digest()


@pytest.mark.parametrize(
    "change",
    [
        lambda sealed: sealed[:-1],
        lambda sealed: sealed[:SEALED_CHUNK],
        lambda sealed: sealed[: 2 * SEALED_CHUNK],
        lambda sealed: b"",
        lambda sealed: sealed + b"\0",
        lambda sealed: sealed + sealed[-SEALED_CHUNK:],
        lambda sealed: sealed[SEALED_CHUNK : 2 * SEALED_CHUNK] + sealed[:SEALED_CHUNK] + sealed[2 * SEALED_CHUNK :],
        lambda sealed: sealed[:SEALED_CHUNK] * 3,
        lambda sealed: sealed[:70_000] + bytes([sealed[70_000] ^ 1]) + sealed[70_001:],
    ],
    ids=["byte", "one-chunk", "whole-chunks", "nothing", "longer", "repeated", "swapped", "copied", "flipped"],
)
def test_what_was_changed_is_refused(tmp_path: Path, change: object) -> None:
    """Shorter, longer, in another order, or with one bit another: nothing is left of it under the file's name."""
    assert callable(change)
    _, sealed, info = _sealed(tmp_path, 3 * CHUNK)
    with pytest.raises(SealBroken):
        _opened(tmp_path, info, _cut(change(sealed), 100_000))
    assert [path.name for path in tmp_path.iterdir()] == [f"{3 * CHUNK}.bin"]


@pytest.mark.parametrize("wrong", ["key", "id", "file_size", "sha256"])
def test_another_description(tmp_path: Path, wrong: str) -> None:
    """A file opens with its own description only."""
    _, sealed, info = _sealed(tmp_path, CHUNK + 10)
    others = {"key": new_key(), "id": uuid4(), "file_size": CHUNK, "sha256": "0" * 64}
    with pytest.raises(SealBroken):
        _opened(tmp_path, replace(info, **{wrong: others[wrong]}), [sealed])


def test_from_the_beginning(tmp_path: Path) -> None:
    """A download that begins anew forgets what it had."""
    data, sealed, info = _sealed(tmp_path, CHUNK + 10)
    target = OpeningTarget(destination(tmp_path / "out", ""), info)
    target.write(sealed[: SEALED_CHUNK + 3])
    target.restart()
    assert target.received == 0
    target.write(sealed)
    target.finish()
    assert (tmp_path / "out").read_bytes() == data


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("plan.pdf", "plan.pdf"),
        ("../../etc/passwd", "passwd"),
        ("C:\\Windows\\a.txt", "a.txt"),
        (".bashrc", "bashrc"),
        ("..", "file"),
        ("", "file"),
        ("a/", "file"),
        ("nul\0l\x1b[2J.txt", "null[2J.txt"),
    ],
)
def test_names_of_others(tmp_path: Path, name: str, kept: str) -> None:
    """In a folder a file gets its own name, or what is harmless of it."""
    assert destination(tmp_path, name) == (tmp_path / kept, False)


def test_what_is_there(tmp_path: Path) -> None:
    """A path that was given is replaced, in one moment; in a folder nothing is."""
    (tmp_path / "mine.txt").write_text("mine")
    target = Target(destination(tmp_path, "mine.txt"))
    target.write(b"theirs")
    with pytest.raises(FileExistsError):
        target.finish()
    target.drop()
    assert (tmp_path / "mine.txt").read_text() == "mine"
    target = Target(destination(tmp_path / "mine.txt", "x"))
    target.write(b"theirs")
    assert (tmp_path / "mine.txt").read_text() == "mine"
    target.finish()
    target.drop()
    assert (tmp_path / "mine.txt").read_text() == "theirs"
    assert len(list(tmp_path.iterdir())) == 1
