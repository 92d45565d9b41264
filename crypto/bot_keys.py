"""What bots prove themselves with: API keys of ours, and X25519 public keys of theirs."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
import zlib
from typing import NamedTuple
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

PREFIX = "ply_"
"""What API keys begin with. No access token does: a JWT begins with `eyJ`."""
SECRET_BYTES = 32
"""256 random bits: as many as there are in a SHA-256 hash, and beyond all guessing."""
PUBLIC_KEY_BYTES = 32
"""The length of an X25519 public key (RFC 7748, section 6.1)."""

_KEY = re.compile(rf"{PREFIX}([a-z2-7]{{26}})_([a-z2-7]{{58}})")


class ApiKeyInvalid(Exception):
    """The text is no API key of ours."""


class NewApiKey(NamedTuple):
    """A key, to be shown once, and what the database keeps of it."""

    text: str
    digest: bytes


def new_api_key(bot_id: UUID) -> NewApiKey:
    """A key for a bot: `ply_`, the bot's id, `_`, a secret and its CRC-32, in lower-case base32.

    So it is one word to a mouse, safe in a URL, and a scanner for leaked secrets can tell it from noise.
    """
    secret = secrets.token_bytes(SECRET_BYTES)
    text = f"{PREFIX}{_base32(bot_id.bytes)}_{_base32(secret + _checksum(bot_id, secret))}"
    return NewApiKey(text, digest(text))


def is_api_key(token: str) -> bool:
    """Whether a token means to be an API key."""
    return token.startswith(PREFIX)


def bot_of(key: str) -> UUID:
    """The bot that a key names. Whether it is that bot's, only the database knows. Raises ApiKeyInvalid."""
    if (match := _KEY.fullmatch(key)) is None:
        raise ApiKeyInvalid("the form is not that of a key")
    bot_id = UUID(bytes=_bytes(match[1]))
    secret, checksum = (tail := _bytes(match[2]))[:SECRET_BYTES], tail[SECRET_BYTES:]
    if checksum != _checksum(bot_id, secret):
        raise ApiKeyInvalid("the checksum is not that of the key")
    return bot_id


def digest(key: str) -> bytes:
    """What the database keeps. A plain SHA-256 will do: a slow hash is for what can be guessed, as passwords are."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def matches(key: str, kept: bytes | None) -> bool:
    """Whether a key is the one whose digest was kept, in constant time."""
    return kept is not None and hmac.compare_digest(digest(key), kept)


def read_public_key(text: str) -> bytes:
    """The bytes of an X25519 public key in base64. Raises ValueError, also for a point that gives no secret.

    With a point of low order every shared secret is zero (RFC 7748, section 6.1), so anyone could prove to have its
    private key.
    """
    try:
        key = base64.b64decode(text, validate=True)
    except ValueError:
        raise ValueError("it is not base64") from None
    if len(key) != PUBLIC_KEY_BYTES:
        raise ValueError(f"it has {len(key)} bytes instead of {PUBLIC_KEY_BYTES}")
    try:
        X25519PrivateKey.generate().exchange(X25519PublicKey.from_public_bytes(key))
    except ValueError:
        raise ValueError("it is a point of low order") from None
    return key


def write_public_key(key: bytes) -> str:
    """A public key as clients see it: base64."""
    return base64.b64encode(key).decode()


def _checksum(bot_id: UUID, secret: bytes) -> bytes:
    return zlib.crc32(bot_id.bytes + secret).to_bytes(4, "big")


def _base32(data: bytes) -> str:
    return base64.b32encode(data).rstrip(b"=").decode().lower()


def _bytes(text: str) -> bytes:
    return base64.b32decode(text.upper() + "=" * (-len(text) % 8))
