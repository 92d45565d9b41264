"""End to end: what clients do with keys that the server never holds.

A room key (32 bytes) goes from device to device in a *wrap*: X25519 between the
sender's key and the recipient's (RFC 7748), HKDF-SHA256 (RFC 5869), and
XChaCha20-Poly1305. Both keys are long-lived, as in NaCl's crypto_box, so a wrap
that opens was made by one of the two: nobody in between can put in a key of
their own. A message is sealed with the room key itself.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID

from nacl.bindings import crypto_scalarmult, crypto_scalarmult_base
from nacl.exceptions import RuntimeError as NaclError

from crypto.sealing import KEY_BYTES, NONCE_BYTES, SealBroken, seal, unseal

FIELD_PRIME = 2**255 - 19
"""Numbers below it are how RFC 7748 writes a point; it takes others as well, which would be a second name for one."""

FINGERPRINT_BYTES = 20
"""Bytes of SHA-256 that a fingerprint shows. 160 bits leave nobody a second key with the same one."""

DEVICE_ID_LENGTH = 64
"""Characters in a device's id at most."""

SAFETY_ROUNDS = 5_200
"""Rounds of SHA-512, as in Signal (libsignal, fingerprint): to forge 30 digits then costs some 2^112 steps."""

_WRAP = b"parley end-to-end wrap 1"
_MESSAGE = b"parley end-to-end message 1"
_FILE = b"parley end-to-end file 1"
_DEVICE = b"parley device key 1"


class KeyInvalid(Exception):
    """No key of a device: of the wrong length, a second spelling of a point, or one whose secrets everybody knows."""


# --- keys of devices -------------------------------------------------------------------------


def decode_public_key(text: str) -> bytes:
    """A public key from its base64. Raises KeyInvalid."""
    try:
        key = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise KeyInvalid("a public key is base64") from None
    if base64.b64encode(key).decode() != text:
        raise KeyInvalid("the base64 of a public key has one form")
    check_public_key(key)
    return key


def check_public_key(key: bytes) -> None:
    """Raises KeyInvalid.

    Points of low order give everybody the same secret (RFC 7748, 6.1). Their orders divide
    eight, and every private key is a multiple of eight, so any of those finds them out.
    """
    if len(key) != KEY_BYTES:
        raise KeyInvalid(f"a public key has {KEY_BYTES} bytes")
    if int.from_bytes(key, "little") >= FIELD_PRIME:
        raise KeyInvalid("a public key is a number below 2^255 - 19")
    try:
        crypto_scalarmult(b"\x08" * KEY_BYTES, key)
    except NaclError:
        raise KeyInvalid("this point of the curve gives everybody the same secret") from None


@dataclass(frozen=True, slots=True)
class DeviceName:
    """Which device: its user and its own id. In a wrap's associated data, so it can't be addressed anew."""

    user_id: UUID
    device_id: str

    def encoded(self) -> bytes:
        """16 bytes of the user, one for the length of the id, and the id. Raises KeyInvalid for what is no id."""
        if not self.device_id.isascii() or len(self.device_id) > DEVICE_ID_LENGTH:
            raise KeyInvalid(f"a device's id has at most {DEVICE_ID_LENGTH} characters of ASCII")
        id = self.device_id.encode()
        return self.user_id.bytes + len(id).to_bytes(1, "big") + id


class DevicePrivateKey:
    """The X25519 key pair of a device."""

    __slots__ = ("_private", "public")

    def __init__(self, private: bytes) -> None:
        if len(private) != KEY_BYTES:
            raise KeyInvalid(f"a private key has {KEY_BYTES} bytes")
        self._private = private
        self.public: bytes = crypto_scalarmult_base(private)

    @classmethod
    def generate(cls) -> DevicePrivateKey:
        """A new one."""
        return cls(os.urandom(KEY_BYTES))

    def private_bytes(self) -> bytes:
        """What has to be kept secret."""
        return self._private

    def shared_with(self, other: bytes, sender: bytes, recipient: bytes) -> bytes:
        """The key that wraps between the two, in this direction. Raises KeyInvalid."""
        check_public_key(other)
        return hkdf(crypto_scalarmult(self._private, other), _WRAP + sender + recipient)


def hkdf(secret: bytes, info: bytes) -> bytes:
    """HKDF-SHA256 without a salt, for one block of output (RFC 5869, 2.2 and 2.3)."""
    extracted = hmac.digest(bytes(32), secret, "sha256")
    return hmac.digest(extracted, info + b"\x01", "sha256")


# --- a room key on its way -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Wrap:
    """What a wrap is bound to: which key of which chatroom, from which device to which."""

    chatroom_id: UUID
    key_version: int
    sender: DeviceName
    recipient: DeviceName

    def _bound(self) -> bytes:
        version = self.key_version.to_bytes(4, "big")
        return _WRAP + self.chatroom_id.bytes + version + self.sender.encoded() + self.recipient.encoded()

    def close(self, room_key: bytes, sender: DevicePrivateKey, recipient: bytes) -> str:
        """The room key for the recipient's public key: base64 of nonce and sealed bytes. Raises KeyInvalid."""
        key = sender.shared_with(recipient, sender.public, recipient)
        nonce, sealed = seal(key, room_key, self._bound())
        return base64.b64encode(nonce + sealed).decode()

    def open(self, wrapped: str, recipient: DevicePrivateKey, sender: bytes) -> bytes:
        """The room key that the owner of the sender's public key put in. Raises SealBroken or KeyInvalid."""
        return self.open_with(recipient.shared_with(sender, sender, recipient.public), wrapped)

    def open_with(self, key: bytes, wrapped: str) -> bytes:
        """The same with the key of `shared_with`. Raises SealBroken."""
        try:
            data = base64.b64decode(wrapped, validate=True)
        except (binascii.Error, ValueError):
            raise SealBroken("a wrapped key is base64") from None
        room_key = unseal(key, data[:NONCE_BYTES], data[NONCE_BYTES:], self._bound())
        if len(room_key) != KEY_BYTES:
            raise SealBroken("what was wrapped is no room key")
        return room_key


# --- messages and the keys of files ------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Place:
    """What a message is bound to: all that both ends see of it. Elsewhere it does not open."""

    chatroom_id: UUID
    sender_id: UUID
    key_version: int
    message_type: str
    reply_to: UUID | None

    def _bound(self) -> bytes:
        reply = b"\x00" if self.reply_to is None else b"\x01" + self.reply_to.bytes
        version = self.key_version.to_bytes(4, "big")
        return _MESSAGE + self.chatroom_id.bytes + self.sender_id.bytes + version + reply + self.message_type.encode()

    def seal(self, room_key: bytes, text: str) -> tuple[str, str]:
        """`encrypted_data` (base64) and `iv` (48 characters of hex)."""
        return _seal_text(room_key, text.encode(), self._bound())

    def open(self, room_key: bytes, encrypted_data: str, iv: str) -> str:
        """The text. Raises SealBroken."""
        try:
            return _open_text(room_key, encrypted_data, iv, self._bound()).decode()
        except UnicodeDecodeError:
            raise SealBroken("what was sealed is no text") from None

    def file(self, message_iv: str, file_id: UUID) -> FilePlace:
        """Where a file of this message stands; `message_iv` is the one that its text was sealed under."""
        return FilePlace(self, message_iv, file_id)


@dataclass(frozen=True, slots=True)
class FilePlace:
    """What the key of a sealed file is bound to: a message, which its `iv` names, and the file's id."""

    message: Place
    message_iv: str
    file_id: UUID

    def _bound(self) -> bytes:
        return _FILE + _nonce_of(self.message_iv) + self.file_id.bytes + self.message._bound()

    def seal(self, room_key: bytes, data: bytes) -> tuple[str, str]:
        """`encrypted_data` and `iv`, as of a message. Raises SealBroken for an `iv` of the message that is none."""
        return _seal_text(room_key, data, self._bound())

    def open(self, room_key: bytes, encrypted_data: str, iv: str) -> bytes:
        """What was sealed. Raises SealBroken."""
        return _open_text(room_key, encrypted_data, iv, self._bound())


def _seal_text(room_key: bytes, data: bytes, bound: bytes) -> tuple[str, str]:
    nonce, sealed = seal(room_key, data, bound)
    return base64.b64encode(sealed).decode(), nonce.hex()


def _open_text(room_key: bytes, encrypted_data: str, iv: str, bound: bytes) -> bytes:
    try:
        sealed = base64.b64decode(encrypted_data, validate=True)
    except (binascii.Error, ValueError):
        raise SealBroken("encrypted_data is base64") from None
    return unseal(room_key, _nonce_of(iv), sealed, bound)


def _nonce_of(iv: str) -> bytes:
    """Raises SealBroken."""
    try:
        nonce = bytes.fromhex(iv)
    except ValueError:
        raise SealBroken("an iv is hex") from None
    if len(nonce) != NONCE_BYTES:
        raise SealBroken(f"an iv has {NONCE_BYTES} bytes")
    return nonce


# --- for people to compare -------------------------------------------------------------------


def fingerprint(user_id: UUID, public_key: bytes) -> str:
    """A device's key for people: 40 hex digits of SHA-256 over user and key, in groups of four."""
    digits = hashlib.sha256(_DEVICE + user_id.bytes + public_key).digest()[:FINGERPRINT_BYTES].hex()
    return " ".join(re.findall("....", digits))


def safety_number(mine: tuple[UUID, Iterable[bytes]], theirs: tuple[UUID, Iterable[bytes]]) -> str:
    """60 digits that are the same for both users as long as each sees the keys that the other has.

    Signal's construction (libsignal, rust/protocol/src/fingerprint.rs), with a user's keys sorted
    and joined in place of one identity key, and the user's id as the identifier.
    """
    digits = "".join(sorted(numeric_fingerprint(id.bytes, b"".join(sorted(keys))) for id, keys in (mine, theirs)))
    return " ".join(re.findall(".....", digits))


def numeric_fingerprint(identifier: bytes, keys: bytes) -> str:
    """One side of a safety number: 30 digits."""
    digest = hashlib.sha512(b"\x00\x00" + keys + identifier + keys).digest()
    for _ in range(SAFETY_ROUNDS - 1):
        digest = hashlib.sha512(digest + keys).digest()
    return "".join(f"{int.from_bytes(digest[at : at + 5], 'big') % 100_000:05}" for at in range(0, 30, 5))
