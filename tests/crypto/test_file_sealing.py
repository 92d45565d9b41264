"""Files are sealed in chunks: each opens alone, in its place only, and nothing that was changed opens."""

from __future__ import annotations

from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crypto.file_sealing import CHUNK, SEALED_CHUNK, PartSeal, chunks_of, sealed_size, span
from crypto.sealing import SealBroken, new_key

KEY, FILE = new_key(), uuid4()
SEAL = PartSeal(KEY, FILE, "whole", 0)


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK])
def test_whole(size: int) -> None:
    """A file of any size opens chunk by chunk, and takes as many bytes as was said."""
    data = bytes(range(256)) * (size // 256 + 1)
    parts = [data[:size][at * CHUNK : (at + 1) * CHUNK] for at in range(chunks_of(size))]
    sealed = [SEAL.seal(at, part, last=at == len(parts) - 1) for at, part in enumerate(parts)]
    assert sum(map(len, sealed)) == sealed_size(size)
    opened = [SEAL.open(at, part, last=at == len(parts) - 1) for at, part in enumerate(sealed)]
    assert b"".join(opened) == data[:size]


def test_place() -> None:
    """A chunk opens in its place, as what it is, in its part of its file, under its key, and nowhere else."""
    sealed = SEAL.seal(3, b"chunk", last=False)
    assert SEAL.open(3, sealed, last=False) == b"chunk"
    for seal, index, last in (
        (SEAL, 2, False),
        (SEAL, 3, True),
        (PartSeal(KEY, uuid4(), "whole", 0), 3, False),
        (PartSeal(KEY, FILE, "whole", 1), 3, False),
        (PartSeal(KEY, FILE, "small", 0), 3, False),
        (PartSeal(new_key(), FILE, "whole", 0), 3, False),
    ):
        with pytest.raises(SealBroken):
            seal.open(index, sealed, last=last)


def test_every_bit() -> None:
    """A chunk with any bit flipped, or cut anywhere, does not open."""
    sealed = SEAL.seal(0, b"chunk", last=True)
    for at in range(len(sealed) * 8):
        changed = bytearray(sealed)
        changed[at // 8] ^= 1 << at % 8
        with pytest.raises(SealBroken):
            SEAL.open(0, bytes(changed), last=True)
    for length in range(len(sealed)):
        with pytest.raises(SealBroken):
            SEAL.open(0, sealed[:length], last=True)


def test_no_nonce_twice() -> None:
    """The same bytes in the same place never look the same."""
    assert len({SEAL.seal(0, b"", last=True) for _ in range(100)}) == 100


@given(st.integers(0, 10 * CHUNK), st.integers(1, 5 * CHUNK))
def test_span(start: int, length: int) -> None:
    """A span holds the bytes asked for, and no chunk more."""
    found = span(start, length)
    assert found.first * CHUNK + found.skip == start
    assert found.last * CHUNK < start + length <= (found.last + 1) * CHUNK
    assert SEALED_CHUNK > CHUNK
