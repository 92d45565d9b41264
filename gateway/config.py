"""Every setting, once: its variable, its default, its meaning.

`Config.from_env` is the only reader of the environment. Secrets may also come
from a file, named by the variable with `_FILE` behind it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from crypto import keyfile
from crypto.keyfile import Keys
from gateway.files.clamd import ClamdAddress, parse_address
from protocol.addresses import Network, is_loopback, networks
from storage.places import Bucket, Place, place_of

LOG_LEVELS = ("debug", "info", "warning", "error")


class ConfigError(Exception):
    """A setting is missing or wrong; the message names it and says what to do."""


def setting(env: str, default: Any, meaning: str, *, secret: bool = False) -> Any:
    """A field of Config: the variable it is read from, and its line of help."""
    return field(default=default, metadata={"env": env, "meaning": meaning, "secret": secret})


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The settings of one Parley process. Times are in seconds, sizes in bytes."""

    env: str = setting(
        "PARLEY_ENV", "development", "`development`, or `production`: missing secrets are a refusal to start"
    )
    data: Path = setting(
        "PARLEY_DATA", Path("data"), "directory of the embedded database and of keys made at first start"
    )
    http: str = setting("PARLEY_HTTP", "127.0.0.1:8000", "address and port of HTTP and WebSocket")
    tls_cert: Path | None = setting(
        "PARLEY_TLS_CERT", None, "file with the certificate chain in PEM; with it, all ports speak TLS"
    )
    tls_key: Path | None = setting("PARLEY_TLS_KEY", None, "file with the certificate's private key in PEM")
    tcp: str = setting("PARLEY_TCP", "127.0.0.1:8001", "address and port of framed TCP; `off` for none")
    tcp_clear: str | None = setting(
        "PARLEY_TCP_CLEAR",
        None,
        "`yes` or `no`: whether TCP may go without Noise; not set, it may on loopback and under TLS, and nowhere else",
    )
    public_url: str | None = setting(
        "PARLEY_PUBLIC_URL",
        None,
        "how people reach the server, where that is not `http://` or `https://` and PARLEY_HTTP",
    )
    database_url: str | None = setting(
        "DATABASE_URL", None, "PostgreSQL 14 or newer; without it Parley runs its own", secret=True
    )
    redis_url: str | None = setting(
        "REDIS_URL",
        None,
        "Redis or Valkey, a server, behind Sentinel or a cluster, through which several nodes on one database wake each"
        " other; without it there is one node",
        secret=True,
    )
    blobs: str | None = setting(
        "PARLEY_BLOBS",
        None,
        "where files' bytes are: `file:` and a directory, or `s3://bucket/prefix`; not set, `files` in PARLEY_DATA",
    )
    blobs_direct: str = setting(
        "PARLEY_BLOBS_DIRECT",
        "no",
        "`yes`: clients send parts of files to S3 themselves. Such files are **not sealed** there: S3, and who may read"
        " the bucket, see what is in them",
    )
    clamd: str | None = setting(
        "PARLEY_CLAMD",
        None,
        "where ClamAV's daemon scans files: `host:port`, or `unix:` and a path; not set, none are",
    )
    database_pool: int = setting(
        "PARLEY_DATABASE_POOL", 10, "most connections to the database, at least 2; the journal has one more"
    )
    origins: tuple[str, ...] = setting(
        "PARLEY_ORIGINS",
        (),
        "web origins that may connect, separated by commas; `*` for any; same host and no Origin always may",
    )
    proxies: tuple[str, ...] = setting(
        "PARLEY_PROXIES",
        (),
        "addresses and networks of proxies, separated by commas: what they say in X-Forwarded-For is believed",
    )
    log_level: str = setting("PARLEY_LOG_LEVEL", "info", "`debug`, `info`, `warning` or `error`")

    # Secrets
    master_keys: str | None = setting(
        "PARLEY_MASTER_KEYS",
        None,
        "keys that wrap room keys, newest first: `id:base64 of 32 bytes`, separated by commas",
        secret=True,
    )
    jwt_keys: str | None = setting(
        "PARLEY_JWT_KEYS", None, "RSA private keys in PEM, newest first: the first signs, all verify", secret=True
    )
    refresh_secret: str | None = setting(
        "PARLEY_REFRESH_SECRET", None, "base64 of at least 32 bytes, from which refresh tokens descend", secret=True
    )
    noise_key: str | None = setting(
        "PARLEY_NOISE_KEY",
        None,
        "base64 of 32 bytes, the X25519 key by which clients of encrypted connections know the server",
        secret=True,
    )

    # Tokens
    issuer: str = setting("PARLEY_ISSUER", "parley", "`iss` of access tokens; others are refused")
    access_token_life: int = setting("PARLEY_ACCESS_TOKEN_LIFE", 1_800, "seconds an access token is good for")
    refresh_token_life_web: int = setting(
        "PARLEY_REFRESH_TOKEN_LIFE_WEB", 604_800, "seconds a refresh token is good for on the web"
    )
    refresh_token_life_mobile: int = setting(
        "PARLEY_REFRESH_TOKEN_LIFE_MOBILE", 7_776_000, "the same for `client_type` mobile"
    )
    refresh_retry: int = setting(
        "PARLEY_REFRESH_RETRY",
        10,
        "seconds in which a used refresh token may be sent again by a client that lost the answer",
    )
    token_warning: int = setting("PARLEY_TOKEN_WARNING", 60, "seconds before a token's end at which a socket is told")
    token_grace: int = setting("PARLEY_TOKEN_GRACE", 25, "seconds after a token's end at which a socket is closed")

    # Sockets
    heartbeat_interval: float = setting("PARLEY_HEARTBEAT_INTERVAL", 25.0, "seconds of silence before the server pings")
    heartbeat_timeout: float = setting(
        "PARLEY_HEARTBEAT_TIMEOUT", 8.0, "seconds of silence after that ping before it closes"
    )
    auth_deadline: float = setting("PARLEY_AUTH_DEADLINE", 10.0, "seconds a connection may take to say who it is")
    resume_window: float = setting("PARLEY_RESUME_WINDOW", 120.0, "seconds a cut session is kept")
    presence_grace: float = setting(
        "PARLEY_PRESENCE_GRACE", 10.0, "seconds after the last socket before a user is offline"
    )
    frame_deadline: float = setting(
        "PARLEY_FRAME_DEADLINE", 10.0, "seconds that a preface with its handshake, or a frame, may take in all on TCP"
    )
    slow_consumer: float = setting("PARLEY_SLOW_CONSUMER", 15.0, "seconds a lagging reader has to drain")
    drain: float = setting(
        "PARLEY_DRAIN",
        5.0,
        "seconds over which sockets are closed on SIGTERM; with other nodes, those that each client has to move there,"
        " and once more to resume there when it did not",
    )
    reconnect_rate: int = setting(
        "PARLEY_RECONNECT_RATE", 500, "sessions a second that a stopping node sends to the others"
    )

    # Limits
    limit_frame: int = setting("PARLEY_LIMIT_FRAME", 65_536, "bytes in a frame from a client")
    limit_text: int = setting("PARLEY_LIMIT_TEXT", 16_384, "bytes of UTF-8 in a message's text")
    limit_body: int = setting("PARLEY_LIMIT_BODY", 131_072, "bytes in a REST request's body")
    limit_connections: int = setting("PARLEY_LIMIT_CONNECTIONS", 5, "connections a user")
    limit_bots: int = setting("PARLEY_LIMIT_BOTS", 20, "bots a user")
    limit_commands: int = setting("PARLEY_LIMIT_COMMANDS", 120, "commands a minute a session")
    limit_burst: int = setting("PARLEY_LIMIT_BURST", 30, "commands a session may send at once")
    limit_requests: int = setting(
        "PARLEY_LIMIT_REQUESTS", 60, "REST requests a minute a user, or an address when signed out"
    )
    limit_uploads: int = setting("PARLEY_LIMIT_UPLOADS", 10, "uploads an hour a user")
    limit_file: int = setting(
        "PARLEY_LIMIT_FILE", 10_485_760, "bytes in a file that is neither picture, sound nor film"
    )
    limit_image: int = setting("PARLEY_LIMIT_IMAGE", 10_485_760, "bytes in a picture")
    limit_media: int = setting("PARLEY_LIMIT_MEDIA", 10_485_760, "bytes in a sound or a film")
    limit_avatar: int = setting("PARLEY_LIMIT_AVATAR", 5_242_880, "bytes in a picture of a user or a chatroom")
    limit_user_files: int = setting("PARLEY_LIMIT_USER_FILES", 1_073_741_824, "bytes in all files of a user")
    limit_chatroom_files: int = setting(
        "PARLEY_LIMIT_CHATROOM_FILES", 10_737_418_240, "bytes in all files that were uploaded for a chatroom"
    )
    limit_unauthenticated: int = setting(
        "PARLEY_LIMIT_UNAUTHENTICATED", 1_000, "connections an address that have not said who they are"
    )
    limit_openings: int = setting(
        "PARLEY_LIMIT_OPENINGS", 8, "sessions being opened or resumed at once; the others wait for their turn"
    )
    slowest_transfer: int = setting(
        "PARLEY_SLOWEST_TRANSFER", 8_192, "bytes a second below which an upload or a download is cut"
    )
    file_url_life: int = setting("PARLEY_FILE_URL_LIFE", 300, "seconds a signed URL of a file is good for")
    unused_files: int = setting(
        "PARLEY_UNUSED_FILES",
        86_400,
        "seconds after which a file that stands in no message is gone, and half an upload",
    )
    limit_outbox_ephemeral: int = setting(
        "PARLEY_LIMIT_OUTBOX_EPHEMERAL", 262_144, "bytes waiting for a reader above which ephemeral events are dropped"
    )
    limit_outbox: int = setting("PARLEY_LIMIT_OUTBOX", 1_048_576, "bytes waiting above which a session lags")
    limit_replay_frames: int = setting("PARLEY_LIMIT_REPLAY_FRAMES", 1_024, "frames kept for resume")
    limit_replay_bytes: int = setting("PARLEY_LIMIT_REPLAY_BYTES", 1_048_576, "bytes kept for resume")
    limit_sync: int = setting("PARLEY_LIMIT_SYNC", 500, "events a chatroom that a sync sends")
    limit_password_hashes: int = setting("PARLEY_LIMIT_PASSWORD_HASHES", 2, "passwords hashed at once")
    limit_password_queue: int = setting("PARLEY_LIMIT_PASSWORD_QUEUE", 32, "passwords waiting to be hashed before 429")
    http_header_deadline: float = setting(
        "PARLEY_HTTP_HEADER_DEADLINE", 10.0, "seconds a request's head may take in all"
    )
    http_body_deadline: float = setting("PARLEY_HTTP_BODY_DEADLINE", 20.0, "seconds a request's body may take in all")
    http_keep_alive: float = setting("PARLEY_HTTP_KEEP_ALIVE", 75.0, "seconds an HTTP connection may be idle")

    @property
    def production(self) -> bool:
        """Whether missing secrets are a refusal to start."""
        return self.env == "production"

    @property
    def tls(self) -> bool:
        """Whether the ports speak TLS."""
        return self.tls_cert is not None

    @property
    def http_address(self) -> tuple[str, int]:
        """Host and port of HTTP and WebSocket. Port 0 takes a free one."""
        return _address("PARLEY_HTTP", self.http)

    @property
    def tcp_address(self) -> tuple[str, int] | None:
        """Host and port of framed TCP, or None."""
        return None if self.tcp == "off" else _address("PARLEY_TCP", self.tcp)

    @property
    def tcp_may_be_clear(self) -> bool:
        """Whether TCP may go without Noise. Raises ConfigError where it is asked for and anyone could read along."""
        if self.tcp_address is None or self.tcp_clear == "no":
            return False
        safe = self.tls or is_loopback(self.tcp_address[0])
        if self.tcp_clear == "yes" and not safe:
            raise ConfigError(
                f"PARLEY_TCP_CLEAR is yes, and PARLEY_TCP is {self.tcp}: without Noise or TLS anyone on the way could"
                " read and change what is said. Listen on 127.0.0.1, set PARLEY_TLS_CERT and PARLEY_TLS_KEY, or leave"
                " PARLEY_TCP_CLEAR unset and let clients use Noise."
            )
        return safe

    @property
    def trusted_proxies(self) -> tuple[Network, ...]:
        """Whose X-Forwarded-For is believed. Raises ConfigError."""
        try:
            return networks(self.proxies)
        except ValueError as error:
            raise ConfigError(
                f"PARLEY_PROXIES is {','.join(self.proxies)}; it has to be addresses or networks, as in"
                f" 192.0.2.1,10.0.0.0/8 ({error})"
            ) from None

    @property
    def blob_place(self) -> Place:
        """Where the bytes of files are. Raises ConfigError."""
        try:
            place = self.data / "files" if self.blobs is None else place_of(self.blobs)
        except ValueError as error:
            raise ConfigError(f"PARLEY_BLOBS is no place for files: {error}") from None
        if self.blobs_direct not in ("yes", "no"):
            raise ConfigError(f"PARLEY_BLOBS_DIRECT is {self.blobs_direct!r}; it can be yes or no")
        if self.blobs_direct == "no":
            return place
        if not isinstance(place, Bucket):
            raise ConfigError("PARLEY_BLOBS_DIRECT is yes, and PARLEY_BLOBS is a directory; it has to be s3://…")
        return replace(place, direct=True)

    @property
    def spool(self) -> Path:
        """Where files are, sealed, on their way to S3."""
        return self.data / "spool"

    @property
    def clamd_address(self) -> ClamdAddress | None:
        """Where files are scanned. Raises ConfigError."""
        try:
            return None if self.clamd is None else parse_address(self.clamd)
        except ValueError:
            raise ConfigError(
                f"PARLEY_CLAMD is {self.clamd!r}; it has to be address:port, as in 127.0.0.1:3310, or unix:/path"
            ) from None

    @property
    def key_directory(self) -> Path:
        """Where a development install keeps the keys it made."""
        return self.data / "keys"

    def load_keys(self) -> Keys:
        """The secrets, from settings or files. Raises crypto.keyfile.SecretError, naming the setting."""
        return keyfile.load_keys(
            self.key_directory, self.master_keys, self.jwt_keys, self.refresh_secret, self.noise_key, self.production
        )

    @classmethod
    def from_env(cls, env: Mapping[str, str] = os.environ) -> Config:
        """The settings in the environment. Raises ConfigError, naming the variable."""
        values = {f.name: value for f in fields(cls) if (value := _read(f, env)) is not None}
        config = cls(**values)
        if config.env not in ("development", "production"):
            raise ConfigError(f"PARLEY_ENV is {config.env!r}; it can be development or production")
        if config.log_level not in LOG_LEVELS:
            raise ConfigError(f"PARLEY_LOG_LEVEL is {config.log_level!r}; it can be {', '.join(LOG_LEVELS)}")
        if config.tcp_clear not in (None, "yes", "no"):
            raise ConfigError(f"PARLEY_TCP_CLEAR is {config.tcp_clear!r}; it can be yes or no")
        _address("PARLEY_HTTP", config.http)
        _both("PARLEY_TLS_CERT", config.tls_cert, "PARLEY_TLS_KEY", config.tls_key)
        _ = (
            config.tcp_may_be_clear,
            config.trusted_proxies,
            config.clamd_address,
            config.blob_place,
        )  # raise for what is not safe, or makes no sense
        return config


def _read(f: Field[Any], env: Mapping[str, str]) -> Any:
    name = f.metadata["env"]
    text = env.get(name)
    if not text and f.metadata["secret"] and (path := env.get(f"{name}_FILE")):
        try:
            text = Path(path).read_text().strip()
        except OSError as error:
            raise ConfigError(f"{name}_FILE names {path}, which cannot be read: {error.strerror}") from None
    return _parse(name, str(f.type), text) if text else None


def _parse(name: str, kind: str, text: str) -> Any:
    if kind.startswith("tuple"):
        return tuple(part.strip() for part in text.split(",") if part.strip())
    if kind not in ("int", "float"):
        return Path(text) if kind.startswith("Path") else text
    try:
        number = int(text) if kind == "int" else float(text)
    except ValueError:
        raise ConfigError(f"{name} is {text!r}; it has to be a number") from None
    if number == 0 and ("_LIMIT_" in name or name == "PARLEY_RECONNECT_RATE"):
        raise ConfigError(f"{name} is 0; it has to be above zero")
    if not 0 <= number < math.inf:
        raise ConfigError(f"{name} is {text}; it cannot be negative or without end")
    return number


def _address(name: str, text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65_535:
        raise ConfigError(f"{name} is {text!r}; it has to be address:port, as in 127.0.0.1:8000")
    return host.strip("[]"), int(port)


def _both(name: str, value: Path | None, other: str, other_value: Path | None) -> None:
    if (value is None) != (other_value is None):
        there, missing = (other, name) if value is None else (name, other)
        raise ConfigError(f"{missing} is not set, but {there} is; give both, or neither")


def settings_table() -> str:
    """The settings as a Markdown table, as it stands in README.md."""
    rows = ["| variable | default | meaning |", "| --- | --- | --- |"]
    for f in fields(Config):
        default = "" if f.default in (None, ()) else f"`{f.default}`"
        name = f"`{f.metadata['env']}`" + (", also `…_FILE`" if f.metadata["secret"] else "")
        rows.append(f"| {name} | {default} | {f.metadata['meaning']} |")
    return "\n".join(rows)
