"""Wraps and messages open for whom they are, in their place, and nowhere else."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from crypto.end_to_end import (
    FIELD_PRIME,
    DeviceName,
    DevicePrivateKey,
    KeyInvalid,
    Place,
    Wrap,
    check_public_key,
    decode_public_key,
    fingerprint,
    hkdf,
    numeric_fingerprint,
    safety_number,
)
from crypto.sealing import SealBroken

ANN, BOB, EVE = (UUID(int=n) for n in (1, 2, 3))
ROOM, OTHER_ROOM = UUID(int=100), UUID(int=101)
ANNS, BOBS, EVES = (DevicePrivateKey.generate() for _ in range(3))
KEY = bytes(range(32))
WRAP = Wrap(ROOM, 3, DeviceName(ANN, "laptop"), DeviceName(BOB, "phone"))
PLACE = Place(ROOM, ANN, 3, "text", None)


# --- keys ------------------------------------------------------------------------------------

LOW_ORDER = [
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
]
"""All points of low order below the prime, on the curve and its twist (D. J. Bernstein, https://cr.yp.to/ecdh.html)."""


@pytest.mark.parametrize("point", LOW_ORDER)
def test_points_of_low_order(point: str) -> None:
    """A key that gives everybody the same secret is refused: as it comes, by who wraps, and by who opens."""
    key = bytes.fromhex(point)
    with pytest.raises(KeyInvalid):
        check_public_key(key)
    with pytest.raises(KeyInvalid):
        WRAP.close(KEY, ANNS, key)
    with pytest.raises(KeyInvalid):
        WRAP.open(WRAP.close(KEY, ANNS, BOBS.public), BOBS, key)


@pytest.mark.parametrize("number", [FIELD_PRIME, FIELD_PRIME + 9, 2**255 - 1, 2**255 + 9])
def test_second_names_of_a_point(number: int) -> None:
    """A point has one form: another one would be the same key with another fingerprint."""
    with pytest.raises(KeyInvalid):
        check_public_key(number.to_bytes(32, "little"))


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_wrong_lengths(length: int) -> None:
    """A key has 32 bytes, the public and the private one."""
    with pytest.raises(KeyInvalid):
        check_public_key(b"\x09" * length)
    with pytest.raises(KeyInvalid):
        DevicePrivateKey(b"\x09" * length)


def test_base64_of_a_key() -> None:
    """A public key has one base64: not another alphabet, other padding, or other bits behind its end."""
    text = base64.b64encode(b"\x09" + bytes(31)).decode()
    assert decode_public_key(text) == b"\x09" + bytes(31)
    for wrong in (text[:-1], text + "=", text[:-2] + "B=", text.replace("C", "-", 1), " " + text, "ä"):
        with pytest.raises(KeyInvalid):
            decode_public_key(wrong)


def test_public_keys_are_those_of_the_rfc() -> None:
    """The public keys of RFC 7748, 6.1, from the private ones."""
    for private, public in (
        (
            "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a",
            "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a",
        ),
        (
            "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb",
            "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f",
        ),
    ):
        assert DevicePrivateKey(bytes.fromhex(private)).public.hex() == public


def test_derivation_is_that_of_the_rfc() -> None:
    """The first block of test case 3 of RFC 5869, which has neither salt nor info."""
    expected = "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d"
    assert hkdf(b"\x0b" * 22, b"").hex() == expected


# --- wraps -----------------------------------------------------------------------------------


def test_a_wrap_opens_for_its_device() -> None:
    """The recipient gets the room key; two wraps of one key do not look alike."""
    one, two = (WRAP.close(KEY, ANNS, BOBS.public) for _ in range(2))
    assert WRAP.open(one, BOBS, ANNS.public) == WRAP.open(two, BOBS, ANNS.public) == KEY
    assert one != two


@pytest.mark.parametrize(
    "change",
    [
        {"chatroom_id": OTHER_ROOM},
        {"key_version": 4},
        {"sender": DeviceName(EVE, "laptop")},
        {"sender": DeviceName(ANN, "phone")},
        {"recipient": DeviceName(EVE, "phone")},
        {"recipient": DeviceName(BOB, "laptop")},
        {"sender": WRAP.recipient, "recipient": WRAP.sender},
    ],
    ids=str,
)
def test_a_wrap_is_bound_to_its_place(change: dict[str, Any]) -> None:
    """As another version, in another chatroom, between other devices it does not open, with the right keys."""
    wrapped = WRAP.close(KEY, ANNS, BOBS.public)
    with pytest.raises(SealBroken):
        replace(WRAP, **change).open(wrapped, BOBS, ANNS.public)


def test_a_wrap_shows_who_made_it() -> None:
    """Somebody else can neither open it, nor make one that passes for Ann's, nor turn one of Bob's around."""
    wrapped = WRAP.close(KEY, ANNS, BOBS.public)
    with pytest.raises(SealBroken):
        WRAP.open(wrapped, EVES, ANNS.public)
    with pytest.raises(SealBroken):
        WRAP.open(WRAP.close(KEY, EVES, BOBS.public), BOBS, ANNS.public)
    with pytest.raises(SealBroken):
        WRAP.open(WRAP.close(KEY, BOBS, ANNS.public), BOBS, ANNS.public)


def test_every_bit_of_a_wrap_counts() -> None:
    """A changed byte, a shortened wrap, no base64, and something that is no room key do not open."""
    data = base64.b64decode(WRAP.close(KEY, ANNS, BOBS.public))
    assert len(data) == 24 + 32 + 16
    changed = [data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :] for at in range(len(data))]
    for broken in [*changed, data[:-1], data[:24], b"", data + b"\0"]:
        with pytest.raises(SealBroken):
            WRAP.open(base64.b64encode(broken).decode(), BOBS, ANNS.public)
    for text in ("?", "abc", WRAP.close(KEY[:-1], ANNS, BOBS.public)):
        with pytest.raises(SealBroken):
            WRAP.open(text, BOBS, ANNS.public)


def test_ids_of_devices() -> None:
    """An id beyond what a device may have cannot be bound, and does not pass for another."""
    for id in ("x" * 65, "x" * 300, "käse"):
        with pytest.raises(KeyInvalid):
            DeviceName(ANN, id).encoded()
    assert DeviceName(ANN, "x" * 64).encoded() == ANN.bytes + bytes([64]) + b"x" * 64


# --- messages --------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "hello", "naïve café 🦊", "x" * 10_000])
def test_a_message_opens(text: str) -> None:
    """Who has the room key reads the text; the iv is 24 bytes in hex, and never the same."""
    data, iv = PLACE.seal(KEY, text)
    assert PLACE.open(KEY, data, iv) == text
    assert len(bytes.fromhex(iv)) == 24
    assert PLACE.seal(KEY, text) != (data, iv)


@pytest.mark.parametrize(
    "change",
    [
        {"chatroom_id": OTHER_ROOM},
        {"sender_id": BOB},
        {"key_version": 4},
        {"message_type": "image"},
        {"reply_to": UUID(int=0)},
    ],
    ids=str,
)
def test_a_message_is_bound_to_its_place(change: dict[str, Any]) -> None:
    """In another chatroom, as somebody else's, as another version or kind, or as a reply it does not open."""
    data, iv = PLACE.seal(KEY, "yes")
    with pytest.raises(SealBroken):
        replace(PLACE, **change).open(KEY, data, iv)


def test_what_is_no_message() -> None:
    """Another key, changed data, or text in no encoding is SealBroken, and nothing else."""
    data, iv = PLACE.seal(KEY, "yes")
    raw = base64.b64decode(data)
    flipped = base64.b64encode(bytes([raw[0] ^ 1]) + raw[1:]).decode()
    for key, sealed, nonce in [
        (bytes(32), data, iv),
        (KEY, flipped, iv),
        (KEY, data, iv[2:] + iv[:2]),
        (KEY, data, iv[2:]),
        (KEY, data, "xy"),
        (KEY, "?", iv),
        (KEY, "é", iv),
        (KEY, "", iv),
    ]:
        with pytest.raises(SealBroken):
            PLACE.open(key, sealed, nonce)


# --- fingerprints ----------------------------------------------------------------------------


def test_fingerprints() -> None:
    """40 hex digits in groups of four; another key or another user has another one."""
    shown = fingerprint(ANN, ANNS.public)
    assert [len(group) for group in shown.split()] == [4] * 10
    assert len({shown, fingerprint(ANN, BOBS.public), fingerprint(BOB, ANNS.public)}) == 3


def test_numbers_are_those_of_signal() -> None:
    """The numeric fingerprints of Signal's own test (libsignal, rust/protocol/src/fingerprint.rs, version 1)."""
    alice = bytes.fromhex("0506863bc66d02b40d27b8d49ca7c09e9239236f9d7d25d6fcca5ce13c7064d868")
    bob = bytes.fromhex("05f781b6fb32fed9ba1cf2de978d4d5da28dc34046ae814402b5c0dbd96fda907b")
    sides = sorted((numeric_fingerprint(b"+14152222222", alice), numeric_fingerprint(b"+14153333333", bob)))
    assert "".join(sides) == "300354477692869396892869876765458257569162576843440918079131"


def test_safety_numbers() -> None:
    """Both sides see the same 60 digits, whatever the order of devices; a key that was put between them shows."""
    here = safety_number((ANN, [ANNS.public]), (BOB, [BOBS.public, EVES.public]))
    there = safety_number((BOB, [EVES.public, BOBS.public]), (ANN, [ANNS.public]))
    assert here == there
    assert [len(group) for group in here.split()] == [5] * 12
    assert safety_number((ANN, [ANNS.public]), (BOB, [BOBS.public])) != here
    assert safety_number((ANN, [EVES.public]), (BOB, [BOBS.public, EVES.public])) != here
