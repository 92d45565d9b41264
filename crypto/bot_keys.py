"""API keys of bots: made, read, and compared with what the database keeps of them."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
import zlib
from typing import NamedTuple
from uuid import UUID

PREFIX = "ply_"
"""What API keys begin with. No access token does: a JWT begins with `eyJ`."""
SECRET_BYTES = 32
"""256 random bits: as many as there are in a SHA-256 hash, and beyond all guessing."""

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


def _checksum(bot_id: UUID, secret: bytes) -> bytes:
    return zlib.crc32(bot_id.bytes + secret).to_bytes(4, "big")


def _base32(data: bytes) -> str:
    return base64.b32encode(data).rstrip(b"=").decode().lower()


def _bytes(text: str) -> bytes:
    return base64.b32decode(text.upper() + "=" * (-len(text) % 8))
