"""Where a proxy listens and goes to: TCP or a Unix socket, and URLs that lead through it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

POSTGRES_PORT = 5432
REDIS_PORT = 6379
_PORTS = {"postgresql": POSTGRES_PORT, "postgres": POSTGRES_PORT, "redis": REDIS_PORT, "ws": 80, "http": 80}


class Tcp(NamedTuple):
    """A TCP port."""

    host: str
    port: int


Address = Tcp | Path
"""A TCP port, or the path of a Unix socket."""

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def dial(address: Address, limit: int) -> Streams:
    """A connection. Raises OSError."""
    if isinstance(address, Path):
        return await asyncio.open_unix_connection(address, limit=limit)
    return await asyncio.open_connection(address.host, address.port, limit=limit)


def server_of(url: str) -> Address:
    """Where the server of a URL listens. PostgreSQL's may name the directory of its socket, as libpq has it.

    Raises ValueError for a URL without a host.
    """
    parts = urlsplit(url)
    given = dict(parse_qsl(parts.query))
    host = parts.hostname or given.get("host", "")
    port = parts.port or int(given.get("port", 0)) or _PORTS.get(parts.scheme, 0)
    if host.startswith("/"):
        return Path(host) / f".s.PGSQL.{port}"
    if not host or not port:
        raise ValueError(f"{parts.scheme}://…: the address needs a host and a port")
    return Tcp(host, port)


def through(url: str, way: Tcp) -> str:
    """The same URL with another host and port: those of a proxy."""
    parts = urlsplit(url)
    account, at, _ = parts.netloc.rpartition("@")
    query = [(name, value) for name, value in parse_qsl(parts.query) if name not in ("host", "port")]
    return urlunsplit(parts._replace(netloc=f"{account}{at}{way.host}:{way.port}", query=urlencode(query)))
