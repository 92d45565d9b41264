"""The way to a server: its address, and its Noise key, which is looked up where it is not pinned."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ssl
from dataclasses import replace
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from urllib.parse import urlsplit

import msgspec

from crypto.noise import PrivateKey
from gateway.client_address import Address
from gateway.client_lines import ABNORMAL, OPEN_TIMEOUT, Line, LineClosed, open_line
from protocol.codec import Codec
from protocol.discovery import ServerInfo

_ANSWER_BYTES = 65_536


class Way:
    """Opens a line as often as it is asked for. A key that was discovered is kept until a handshake fails with it."""

    def __init__(self, address: Address, codec: Codec, private_key: bytes | None, tls: ssl.SSLContext | None) -> None:
        if private_key is not None and not address.noise:
            raise ValueError("a private key is shown in a Noise handshake: the URL needs the server's key")
        self._address = address
        self._codec = codec
        self._private_key = None if private_key is None else PrivateKey(private_key)
        self._tls = tls or (ssl.create_default_context() if address.tls or _is_https(address.discover) else None)
        self._discovered: bytes | None = None

    @property
    def name(self) -> str:
        """What stands in logs: without a query, where tokens may be."""
        return self._address.name

    async def open(self) -> Line:
        """A line, its handshakes done. Raises LineClosed."""
        address = self._address
        if not address.noise or address.key is not None:
            return await self._open_at(address)
        if self._discovered is None:
            self._discovered = await self._discover()
        try:
            return await self._open_at(replace(address, key=self._discovered))
        except LineClosed:
            self._discovered = None
            raise

    async def _open_at(self, address: Address) -> Line:
        return await open_line(address, self._codec, self._private_key, self._tls if address.tls else None)

    async def _discover(self) -> bytes:
        try:
            info = await asyncio.to_thread(_read, self._address.discover, self._tls)
            return base64.urlsafe_b64decode(info.noise.public_key + "=")
        except (OSError, ValueError, HTTPException, msgspec.MsgspecError) as error:
            raise LineClosed(ABNORMAL, f"no key at {self._address.discover}: {error}") from error


def _is_https(url: str) -> bool:
    return url.startswith("https:")


def _read(url: str, tls: ssl.SSLContext | None) -> ServerInfo:
    """One request, without proxies and redirects: the answer is believed because of who gave it."""
    at = urlsplit(url)
    connection: HTTPConnection
    if _is_https(url):
        connection = HTTPSConnection(at.netloc, timeout=OPEN_TIMEOUT, context=tls)
    else:
        connection = HTTPConnection(at.netloc, timeout=OPEN_TIMEOUT)
    with contextlib.closing(connection):
        connection.request("GET", at.path)
        answer = connection.getresponse()
        if answer.status != HTTPStatus.OK:
            raise ValueError(f"it answers {answer.status}")
        return msgspec.json.decode(answer.read(_ANSWER_BYTES), type=ServerInfo)
