"""What a server says of itself at `/.well-known/parley`, so that a client needs no more than its address."""

from __future__ import annotations

from msgspec import Struct

WELL_KNOWN = "/.well-known/parley"
"""Where it stands (RFC 8615)."""


class NoiseInfo(Struct, frozen=True, kw_only=True):
    """The server's static X25519 key, in base64url without padding, and the Noise protocols it speaks."""

    public_key: str
    protocols: tuple[str, ...]


class TcpInfo(Struct, frozen=True, kw_only=True):
    """The framed TCP port. `clear`: it may be used without Noise. `tls`: it speaks TLS first."""

    port: int
    tls: bool
    clear: bool


class LimitsInfo(Struct, frozen=True, kw_only=True):
    """What one client may send: sizes in bytes, rates a minute."""

    frame_bytes: int
    text_bytes: int
    body_bytes: int
    connections: int
    commands_per_minute: int
    commands_at_once: int
    requests_per_minute: int


class ServerInfo(Struct, frozen=True, kw_only=True):
    """`subprotocols` are those of the WebSocket; `tcp` is null where there is no TCP port."""

    server: str
    version: str
    subprotocols: tuple[str, ...]
    noise: NoiseInfo
    tcp: TcpInfo | None
    limits: LimitsInfo
