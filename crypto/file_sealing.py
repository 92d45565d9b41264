"""Files at rest: chunks of 64 KiB, each sealed by itself, so that a range of a file opens without the rest.

Each file has a random key of its own, and comes in one part or several. A chunk is sealed with ChaCha20-Poly1305
(RFC 8439) under a random nonce, which stands in front of it, and is bound to the
file, to the part, to its place there and to whether it is the last: the idea of STREAM (Hoang,
Reyhanitabar, Rogaway and Vizár, "Online Authenticated-Encryption and its Nonce-Reuse
Misuse-Resistance", 2015). So a chunk that was moved, left out, repeated or taken
from another file does not open, and neither does a part that was cut short.
"""

from __future__ import annotations

import hmac
import os
from typing import NamedTuple
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from crypto.cluster import derive
from crypto.sealing import SealBroken

CHUNK = 65_536
"""Bytes of a file that are sealed together."""
NONCE = 12
"""Bytes of a nonce. Drawn at random, so few chunks share a key that none will ever meet the same twice."""
SEALED_CHUNK = NONCE + CHUNK + 16
"""Bytes of a whole chunk when it is sealed; the last of a part may be shorter."""


class Span(NamedTuple):
    """Where some bytes of a file are: chunks `first` to `last`, after `skip` bytes of the first."""

    first: int
    last: int
    skip: int


def chunks_of(size: int) -> int:
    """How many chunks a part of so many bytes has; an empty one has one, which says that it is empty."""
    return max(1, -(-size // CHUNK))


def sealed_size(size: int) -> int:
    """How many bytes a part of so many bytes takes when it is sealed."""
    return size + chunks_of(size) * (SEALED_CHUNK - CHUNK)


def span(start: int, length: int) -> Span:
    """The chunks that hold `length` bytes (at least one) from `start`."""
    return Span(start // CHUNK, (start + length - 1) // CHUNK, start % CHUNK)


class PartSeal:
    """Seals and opens the chunks of one part: `variant` says of what (the file itself, a picture of it)."""

    def __init__(self, key: bytes, file_id: UUID, variant: str, number: int) -> None:
        self._cipher = ChaCha20Poly1305(key)
        self._part = b"parley file" + file_id.bytes + f"{variant} {number} ".encode()

    def seal(self, index: int, chunk: bytes | memoryview, *, last: bool) -> bytes:
        """A chunk, sealed. All but the last have CHUNK bytes."""
        nonce = self._nonce(index, chunk, last)
        return nonce + self._cipher.encrypt(nonce, chunk, self._bound(index, last))

    def open(self, index: int, sealed: bytes | memoryview, *, last: bool) -> bytes:
        """The chunk at this place. Raises SealBroken."""
        try:
            return self._cipher.decrypt(sealed[:NONCE], sealed[NONCE:], self._bound(index, last))
        except (InvalidTag, ValueError):  # ValueError: shorter than a nonce
            raise SealBroken("a chunk of a file does not open") from None

    def _nonce(self, index: int, chunk: bytes | memoryview, last: bool) -> bytes:
        return os.urandom(NONCE)

    def _bound(self, index: int, last: bool) -> bytes:
        return self._part + index.to_bytes(8, "big") + bytes([last])


class RepeatableSeal(PartSeal):
    """Seals what is the same into the same bytes, so that an upload which was cut goes on behind what has arrived.

    A nonce is an HMAC-SHA256 of chunk and place, as in SIV (RFC 5297): other content never meets the same one.
    """

    def __init__(self, key: bytes, file_id: UUID, variant: str, number: int) -> None:
        super().__init__(key, file_id, variant, number)
        self._nonce_key = derive(key, b"parley file nonce")

    def _nonce(self, index: int, chunk: bytes | memoryview, last: bool) -> bytes:
        mac = hmac.new(self._nonce_key, self._bound(index, last), "sha256")
        mac.update(chunk)
        return mac.digest()[:NONCE]
