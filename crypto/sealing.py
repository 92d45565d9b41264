"""Content at rest: XChaCha20-Poly1305, and the master keys that wrap data keys.

draft-irtf-cfrg-xchacha-03; its 24-byte nonces may be drawn at random for as
many messages as a key will ever see.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from nacl.bindings import (
    crypto_aead_xchacha20poly1305_ietf_decrypt,
    crypto_aead_xchacha20poly1305_ietf_encrypt,
)
from nacl.exceptions import CryptoError

KEY_BYTES = 32
NONCE_BYTES = 24


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
    return crypto_aead_xchacha20poly1305_ietf_encrypt(plaintext, ad, nonce, key)


def unseal(key: bytes, nonce: bytes, sealed: bytes, ad: bytes) -> bytes:
    """The plaintext. Raises SealBroken."""
    try:
        return crypto_aead_xchacha20poly1305_ietf_decrypt(sealed, ad, nonce, key)
    except (CryptoError, ValueError):  # ValueError: shorter than a tag
        raise SealBroken("the sealed bytes do not open") from None


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
