"""How hosts and keys stand in URLs."""

from __future__ import annotations

import base64
from urllib.parse import SplitResult, urlunsplit

from crypto.noise import KEY_BYTES


def host_text(host: str) -> str:
    """A host in front of a port: IPv6 addresses have brackets (RFC 3986, 3.2.2)."""
    return f"[{host}]" if ":" in host else host


def public_part(parts: SplitResult) -> str:
    """A URL as logs and errors may show it: users, passwords, tokens and keys are left out."""
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def key_text(key: bytes) -> str:
    """A public key as it is shown: base64url without padding (RFC 4648, 5), which a URL can carry."""
    return base64.urlsafe_b64encode(key).decode().rstrip("=")


def parse_key(text: str) -> bytes:
    """The key that `key_text` has written, padded or not. Raises ValueError if it is none, without showing it."""
    try:
        key = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise ValueError(f"this is not a key: it has to be {KEY_BYTES} bytes in base64url")
    return key
