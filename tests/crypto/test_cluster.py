"""What nodes say to each other is sealed under keys that descend from the master keys."""

from __future__ import annotations

import pytest

from crypto.cluster import ClusterKeys
from crypto.sealing import SealBroken

OLD, NEW = ("old", bytes(32)), ("new", bytes([1] * 32))


def test_open() -> None:
    """What one node seals another opens that has the same keys, and nobody sees it on the way."""
    sealed = ClusterKeys([OLD]).seal(b"hello", b"channel")
    assert b"hello" not in sealed
    assert ClusterKeys([OLD]).open(sealed, b"channel") == b"hello"


def test_rotation() -> None:
    """While keys rotate, nodes that have both keys understand those that still have one."""
    rotated = ClusterKeys([NEW, OLD])
    assert rotated.open(ClusterKeys([OLD]).seal(b"x", b""), b"") == b"x"
    assert ClusterKeys([OLD, NEW]).open(rotated.seal(b"x", b""), b"") == b"x"


@pytest.mark.parametrize("data", [b"", b"\x03", b"\x03old", b"\xff" * 80, b"\x03new" + bytes(60)])
def test_rubbish(data: bytes) -> None:
    """What nobody sealed does not open."""
    with pytest.raises(SealBroken):
        ClusterKeys([OLD]).open(data, b"")


def test_every_bit() -> None:
    """A message with any bit flipped, or on another channel, does not open."""
    keys = ClusterKeys([OLD])
    sealed = keys.seal(b"hello", b"channel")
    for at in range(len(sealed) * 8):
        changed = bytearray(sealed)
        changed[at // 8] ^= 1 << at % 8
        with pytest.raises(SealBroken):
            keys.open(bytes(changed), b"channel")
    with pytest.raises(SealBroken):
        keys.open(sealed, b"another")
