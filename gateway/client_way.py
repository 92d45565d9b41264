"""The way to a server: its address, and its Noise key, which is looked up where it is not pinned."""

from __future__ import annotations

import asyncio
import re
import ssl
from dataclasses import replace
from urllib.parse import urlsplit

import msgspec

from crypto.noise import PrivateKey
from gateway.client_address import Address
from gateway.client_lines import ABNORMAL, OPEN_TIMEOUT, HandshakeFailed, Line, LineClosed, open_line
from gateway.urls import parse_key
from protocol.codec import Codec
from protocol.discovery import ServerInfo

_ANSWER_BYTES = 65_536
"""Bytes of the largest answer that is read, head included: Parley's own has less than one KiB."""


class Way:
    """Opens a line as often as it is asked for. A key that was discovered is kept until a handshake fails with it."""

    def __init__(self, address: Address, codec: Codec, private_key: bytes | None, tls: ssl.SSLContext | None) -> None:
        if private_key is not None and not address.noise:
            raise ValueError("a private key is shown in a Noise handshake: the URL needs the server's key")
        self._address = address
        self._codec = codec
        self._private_key = None if private_key is None else PrivateKey(private_key)
        secure = address.tls or _is_https(address.discover) or _is_https(address.http)
        self.tls = tls or (ssl.create_default_context() if secure else None)
        self._discovered: bytes | None = None

    @property
    def name(self) -> str:
        """What stands in logs: without a query, where tokens may be."""
        return self._address.name

    @property
    def http(self) -> str:
        """Where files go, and nothing where no place is as safe as the connection."""
        return self._address.http

    async def open(self) -> Line:
        """A line, its handshakes done. Raises LineClosed."""
        address = self._address
        if not address.noise or address.key is not None:
            return await self._open_at(address)
        if self._discovered is None:
            self._discovered = await self._discover()
        try:
            return await self._open_at(replace(address, key=self._discovered))
        except HandshakeFailed:
            self._discovered = None
            raise

    async def _open_at(self, address: Address) -> Line:
        return await open_line(address, self._codec, self._private_key, self.tls if address.tls else None)

    async def _discover(self) -> bytes:
        try:
            async with asyncio.timeout(OPEN_TIMEOUT):
                info = await _read(self._address.discover, self.tls)
            return parse_key(info.noise.public_key)
        except (OSError, ValueError, msgspec.MsgspecError) as error:
            raise LineClosed(ABNORMAL, f"no key at {self._address.discover}: {error!r}") from error


def _is_https(url: str) -> bool:
    return url.startswith("https:")


async def _read(url: str, tls: ssl.SSLContext | None) -> ServerInfo:
    """One request, without proxies and redirects: the answer is believed because of who gave it.

    HTTP/1.0 (RFC 1945) has no chunks, and its answers end with the connection.
    """
    at = urlsplit(url)
    secure = _is_https(url)
    request = f"GET {at.path} HTTP/1.0\r\nHost: {at.netloc}\r\n\r\n".encode("ascii")
    reader, writer = await asyncio.open_connection(
        at.hostname, at.port or (443 if secure else 80), ssl=tls if secure else None
    )
    try:
        writer.write(request)
        return _server_info(await _read_all(reader))
    finally:
        writer.transport.abort()


async def _read_all(reader: asyncio.StreamReader) -> bytes:
    try:
        await reader.readexactly(_ANSWER_BYTES + 1)
    except asyncio.IncompleteReadError as ended:
        return ended.partial
    raise ValueError(f"it answers with more than {_ANSWER_BYTES} bytes")


def _server_info(answer: bytes) -> ServerInfo:
    """What an HTTP answer holds. Raises ValueError, or msgspec's errors."""
    head, _, body = answer.partition(b"\r\n\r\n")
    status = head.split(b"\r\n")[0]
    if not re.match(rb"HTTP/1\.[01] 200\b", status):
        raise ValueError(f"it answers {status[:64]!r}")
    return msgspec.json.decode(body, type=ServerInfo)
