"""What a client says its bytes come to, so that those that were spoilt on the way are not kept."""

from __future__ import annotations

import hashlib
import hmac
from typing import Literal

from protocol.errors import ChatError

Algorithm = Literal["md5", "sha1", "sha256"]


class Checksum:
    """The checksum of some bytes, and what it has to be."""

    def __init__(self, algorithm: Algorithm, expected: bytes) -> None:
        # Against accidents, not against the client, who chooses the bytes as well.
        self.digest = hashlib.new(algorithm, usedforsecurity=False)
        self._expected = expected

    def check(self) -> None:
        """All bytes have come. Raises ChatError UPLOAD_CHECKSUM_MISMATCH."""
        if not hmac.compare_digest(self.digest.digest(), self._expected):
            raise ChatError("UPLOAD_CHECKSUM_MISMATCH")
