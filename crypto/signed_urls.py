"""Addresses that need no token beside them: what they allow is written in them, until a moment, and signed.

A grant is MessagePack followed by the first 16 bytes of an HMAC-SHA256 over it, in
base64url, under a key that descends from a master key by HKDF-SHA256 (RFC 5869) for
one purpose. It can be read by who has it, and not be changed.
"""

from __future__ import annotations

import binascii
import hmac
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from typing import Generic, TypeVar

import msgspec
from msgspec import Struct

from crypto.cluster import derive

TAG_BYTES = 16

G = TypeVar("G", bound="Grant")


class Grant(Struct, frozen=True, array_like=True):
    """What an address allows, until `expires_at` (seconds since 1970)."""

    expires_at: int


class Grants(Generic[G]):
    """Issues and checks the grants of one kind. `master` is what MasterKeys takes: ids and keys, newest first."""

    def __init__(self, kind: type[G], purpose: bytes, master: Sequence[tuple[str, bytes]]) -> None:
        self._purpose = purpose
        self._encode = msgspec.msgpack.Encoder(uuid_format="bytes").encode
        self._decode = msgspec.msgpack.Decoder(kind).decode
        self.replace(master)

    def replace(self, master: Sequence[tuple[str, bytes]]) -> None:
        """Takes rotated keys; grants under those that are still there stay good."""
        self._keys = tuple(derive(key, b"parley grant " + self._purpose) for _, key in master)

    def issue(self, grant: G) -> str:
        """The grant as text that may stand in a URL."""
        body = self._encode(grant)
        return urlsafe_b64encode(body + _tag(self._keys[0], body)).rstrip(b"=").decode()

    def check(self, text: str) -> G | None:
        """What is granted; None for what is not ours, was changed, or is over."""
        try:
            data = urlsafe_b64decode(text + "=" * (-len(text) % 4))
        except (binascii.Error, ValueError):
            return None
        body, tag = data[:-TAG_BYTES], data[-TAG_BYTES:]
        if not any(hmac.compare_digest(_tag(key, body), tag) for key in self._keys):
            return None
        grant = self._decode(body)
        return grant if grant.expires_at > time.time() else None


def _tag(key: bytes, body: bytes) -> bytes:
    return hmac.digest(key, body, "sha256")[:TAG_BYTES]
