"""What a browser is to do with a file: show it, or keep it under a name (RFC 6266). Pure."""

from __future__ import annotations

import re
import unicodedata
from urllib.parse import quote

SHOWN = frozenset(
    {
        *("image/png", "image/jpeg", "image/gif", "image/webp", "image/avif"),
        *("audio/mpeg", "audio/mp4", "audio/x-m4a", "audio/aac", "audio/ogg", "audio/opus", "audio/flac"),
        *("audio/wav", "audio/x-wav", "audio/webm"),
        *("video/mp4", "video/webm", "video/ogg"),
    }
)
"""Types in which no browser finds anything to run. All others are for keeping."""

_ATTRIBUTE = "!#$&+-.^_`|~"
"""Beside letters and digits, what may stand in an extended value as it is (RFC 8187, 3.2.1)."""


def content_disposition(name: str, file_type: str) -> str:
    """The header. Whatever the name is, this is one line of ASCII."""
    plain = _plain(name)
    extended = "" if plain == name else f"; filename*=UTF-8''{quote(name, safe=_ATTRIBUTE)}"
    return f'{"inline" if file_type in SHOWN else "attachment"}; filename="{plain}"{extended}'


def _plain(name: str) -> str:
    """The name for those who do not know `filename*`.

    Some read `%41` as A (RFC 6266, appendix D), and some split at every `;`: neither is in it.
    """
    letters = "".join(char for char in unicodedata.normalize("NFKD", name) if not unicodedata.combining(char))
    return re.sub(r'[^\x20-\x7e]|["%;\\/]', "_", letters)
