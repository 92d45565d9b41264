"""Content at rest: XChaCha20-Poly1305, and the master keys that wrap data keys.

draft-irtf-cfrg-xchacha-03; its 24-byte nonces may be drawn at random for as
many messages as a key will ever see.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from nacl import bindings  # which also makes libsodium ready
from nacl._sodium import ffi, lib

KEY_BYTES = bindings.crypto_aead_xchacha20poly1305_ietf_KEYBYTES
NONCE_BYTES = bindings.crypto_aead_xchacha20poly1305_ietf_NPUBBYTES
TAG_BYTES = bindings.crypto_aead_xchacha20poly1305_ietf_ABYTES

# libsodium without PyNaCl's wrappers, which take twice as long as the cipher: a page of history opens fifty messages.
_encrypt = lib.crypto_aead_xchacha20poly1305_ietf_encrypt
_decrypt = lib.crypto_aead_xchacha20poly1305_ietf_decrypt
_bytes = ffi.typeof("unsigned char[]")
_none = ffi.NULL


class SealBroken(Exception):
    """What was sealed does not open: another key, other associated data, or changed bytes."""


class MasterKeyMissing(Exception):
    """A data key is wrapped by a master key that is not here; `master_key_id` names it."""

    def __init__(self, master_key_id: str) -> None:
        self.master_key_id = master_key_id
        super().__init__(
            f"Stored messages are sealed under the master key {master_key_id!r}, which is not among the keys at hand. "
            "Put it back: into PARLEY_MASTER_KEYS, or into the data directory's keys."
        )


def new_key() -> bytes:
    """A fresh key for `seal` or a MasterKeys."""
    return os.urandom(KEY_BYTES)


def seal(key: bytes, plaintext: bytes, ad: bytes) -> tuple[bytes, bytes]:
    """A fresh nonce and the sealed bytes (16 longer than the plaintext), bound to the associated data."""
    nonce = os.urandom(NONCE_BYTES)
    return nonce, seal_with(key, nonce, plaintext, ad)


def seal_with(key: bytes, nonce: bytes, plaintext: bytes, ad: bytes) -> bytes:
    """The sealed bytes under a given nonce, which must never have been used with this key."""
    _check_key(key)
    if len(nonce) != NONCE_BYTES:
        raise ValueError(f"a nonce has {NONCE_BYTES} bytes")
    size = len(plaintext) + TAG_BYTES
    sealed = ffi.new(_bytes, size)
    _encrypt(sealed, _none, plaintext, len(plaintext), ad, len(ad), _none, nonce, key)  # it cannot fail
    made: bytes = ffi.buffer(sealed, size)[:]
    return made


def unseal(key: bytes, nonce: bytes, sealed: bytes, ad: bytes) -> bytes:
    """The plaintext. Raises SealBroken."""
    _check_key(key)
    size = len(sealed) - TAG_BYTES
    if size < 0 or len(nonce) != NONCE_BYTES:  # libsodium takes both for granted
        raise SealBroken("the sealed bytes do not open")
    plaintext = ffi.new(_bytes, size)
    if _decrypt(plaintext, _none, _none, sealed, len(sealed), ad, len(ad), nonce, key):
        raise SealBroken("the sealed bytes do not open")
    opened: bytes = ffi.buffer(plaintext, size)[:]
    return opened


def _check_key(key: bytes) -> None:
    if len(key) != KEY_BYTES:  # libsodium would read what lies behind it
        raise ValueError(f"a key has {KEY_BYTES} bytes")


class MasterKeys:
    """The keys that wrap data keys, newest first: the first wraps, all unwrap."""

    def __init__(self, keys: Sequence[tuple[str, bytes]]) -> None:
        if not keys or len(dict(keys)) != len(keys):
            raise ValueError("there has to be a master key, and each id may stand once")
        if any(len(key) != KEY_BYTES for _, key in keys):
            raise ValueError(f"a master key has {KEY_BYTES} bytes")
        self._keys = dict(keys)
        self.current = keys[0][0]
        """Id of the newest key, the one that wraps."""

    def require(self, master_key_id: str) -> None:
        """Raises MasterKeyMissing when this key is not here."""
        if master_key_id not in self._keys:
            raise MasterKeyMissing(master_key_id)

    def wrap(self, data_key: bytes, ad: bytes) -> tuple[str, bytes]:
        """The id of the newest master key, and the data key wrapped by it (its nonce in front)."""
        nonce, sealed = seal(self._keys[self.current], data_key, ad)
        return self.current, nonce + sealed

    def unwrap(self, master_key_id: str, wrapped: bytes, ad: bytes) -> bytes:
        """The data key. Raises MasterKeyMissing, or SealBroken."""
        self.require(master_key_id)
        return unseal(self._keys[master_key_id], wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:], ad)
