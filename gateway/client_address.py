"""Where a client connects, and how: the transport is chosen by the URL.

    ws://host:8000/ws           WebSocket; `http` stands for `ws`, and a missing path for /ws
    wss://host/ws               the same under TLS; `https` stands for `wss`
    parley://host:8001          TCP, sealed by Noise
    parleys://host:8001         TCP under TLS
    parley+clear://host:8001    TCP without either, on loopback only

`?key=…` names the server's public Noise key (base64url). A WebSocket or `parleys`
with a key speaks Noise inside. `key=discover`, or no key with `parley`, reads it from the
server's /.well-known/parley: by HTTPS, or on loopback by HTTP. That is at the same
host (and port, for a WebSocket), or where `?discover=https://…` says. Files go by
HTTP to the same place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal
from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit, urlunsplit

from gateway.urls import host_text, parse_key, public_part
from protocol.addresses import is_loopback
from protocol.discovery import WELL_KNOWN

TCP_PORT = 8001
HTTP_PORT = 8000

_SCHEMES: dict[str, tuple[Literal["ws", "tcp"], bool]] = {
    "ws": ("ws", False),
    "http": ("ws", False),
    "wss": ("ws", True),
    "https": ("ws", True),
    "parley": ("tcp", False),
    "parley+clear": ("tcp", False),
    "parleys": ("tcp", True),
}
_DISCOVER = "discover"
_EXAMPLES = "an address such as ws://127.0.0.1:8000/ws or parley://127.0.0.1:8001"


@dataclass(frozen=True, slots=True)
class Address:
    """A parsed URL. `url` is what a WebSocket is opened with; `key` is None until it is discovered.

    `name` is the URL without its query, where tokens and keys are, for logs. `http` is where files go by HTTP; empty
    where that would be in the clear beside a connection that is not.
    """

    transport: Literal["ws", "tcp"]
    tls: bool
    noise: bool
    host: str
    port: int
    url: str
    name: str
    key: bytes | None = None
    discover: str = ""
    http: str = ""


def parse_address(url: str) -> Address:
    """Reads a URL. Raises ValueError, saying what is wrong with it, and nothing that is secret."""
    parts = _split(url)
    name = public_part(parts)
    known = _SCHEMES.get(parts.scheme)
    if known is None or not parts.hostname:
        raise ValueError(f"this is not {_EXAMPLES}")
    transport, tls = known
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    key, discover = query.pop("key", ""), query.pop("discover", "")
    noise = bool(key) or parts.scheme == "parley"
    if parts.scheme == "parley+clear" and (noise or not is_loopback(parts.hostname)):
        raise ValueError(f"{name!r}: without Noise and TLS only loopback is allowed; use parley:// or parleys://")
    pinned = parse_key(key) if key and key != _DISCOVER else None
    found_at = _discovery(parts, transport, tls, discover) if noise and pinned is None else ""
    return Address(
        transport=transport,
        tls=tls,
        noise=noise,
        host=parts.hostname,
        port=parts.port or TCP_PORT,
        url=_websocket_url(parts, tls, query),
        name=name,
        key=pinned,
        discover=found_at,
        http=_http_base(parts, transport, tls, noise, discover),
    )


def _split(url: str) -> SplitResult:
    """The parts of a URL, its port looked at. Raises ValueError."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:  # what it says may show all of the URL
        raise ValueError(f"this is not {_EXAMPLES}") from None
    if "@" in parts.netloc:
        raise ValueError(f"{public_part(parts)!r}: leave out what stands in front of the @; sign in with a token")
    return parts


def _websocket_url(parts: SplitResult, tls: bool, query: dict[str, str]) -> str:
    path = parts.path if parts.path.strip("/") else "/ws"
    return urlunsplit(("wss" if tls else "ws", parts.netloc, path, urlencode(query), ""))


def _discovery(parts: SplitResult, transport: str, tls: bool, given: str) -> str:
    """The URL of what the server says of itself. It has to come from the server, or the key in it proves nothing."""
    base = given or _default_base(parts, transport, tls)
    at = _split(base)
    if not at.hostname or not (at.scheme == "https" or (at.scheme == "http" and is_loopback(at.hostname))):
        raise ValueError(
            f"{public_part(at)!r}: a key is only believed from https:// or loopback; pin it with ?key=… instead"
        )
    return public_part(at).rstrip("/") + WELL_KNOWN


def _http_base(parts: SplitResult, transport: str, tls: bool, noise: bool, given: str) -> str:
    """Tokens and files go there, so it is as safe as the connection: HTTPS, or on loopback, or as clear as a `ws`."""
    at = _split(given or _default_base(parts, transport, tls))
    safe = at.scheme == "https" or (at.scheme == "http" and is_loopback(at.hostname or ""))
    if safe or (transport == "ws" and not (tls or noise or given)):
        return public_part(at).rstrip("/")
    return ""


def _default_base(parts: SplitResult, transport: str, tls: bool) -> str:
    host = host_text(parts.hostname or "")
    if transport == "ws":
        port = f":{parts.port}" if parts.port else ""
        return f"{'https' if tls else 'http'}://{host}{port}"
    return f"http://{host}:{HTTP_PORT}" if is_loopback(parts.hostname or "") else f"https://{host}"
