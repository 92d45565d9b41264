"""Resume tokens: a secret of one session, made on one node, that every node of the cluster can tell from a made-up one.

`<node>.<secret>.<tag>`: the node's id in hex, 32 random bytes, and the first 16
bytes of an HMAC-SHA256 over these two and the session's id, under a key that
descends from a master key by HKDF-SHA256 (RFC 5869).
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from base64 import urlsafe_b64encode
from collections.abc import Sequence
from uuid import UUID

from crypto.cluster import derive

TAG_BYTES = 16


class ResumeTokens:
    """Makes and checks the tokens of one node. `master` is what MasterKeys takes: ids and keys, newest first."""

    def __init__(self, node_id: UUID, master: Sequence[tuple[str, bytes]]) -> None:
        self._node_id = node_id
        self._keys = _keys(master)

    def replace(self, master: Sequence[tuple[str, bytes]]) -> None:
        """Takes rotated keys; tokens made under those that are still there stay good."""
        self._keys = _keys(master)

    def issue(self, session_id: UUID) -> str:
        """The token of a new session."""
        body = f"{self._node_id.hex}.{secrets.token_urlsafe(32)}"
        return f"{body}.{_tag(self._keys[0], body, session_id).decode()}"

    def home(self, token: str, session_id: UUID) -> UUID | None:
        """The node that made the token for this session; None when none of ours did."""
        body, _, tag = token.rpartition(".")
        if not any(hmac.compare_digest(_tag(key, body, session_id), tag.encode()) for key in self._keys):
            return None
        return UUID(hex=body.partition(".")[0])


def home_of(token: str) -> UUID:
    """The node that a token of ours was made on."""
    return UUID(hex=token.partition(".")[0])


def digest_of(token: str) -> bytes:
    """What Redis and other nodes know of a token: the first 16 bytes of its SHA-256."""
    return hashlib.sha256(token.encode()).digest()[:16]


def _keys(master: Sequence[tuple[str, bytes]]) -> tuple[bytes, ...]:
    return tuple(derive(key, b"parley resume") for _, key in master)


def _tag(key: bytes, body: str, session_id: UUID) -> bytes:
    digest = hmac.digest(key, session_id.bytes + body.encode(), "sha256")
    return urlsafe_b64encode(digest[:TAG_BYTES]).rstrip(b"=")
