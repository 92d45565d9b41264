"""One port for HTTP and WebSocket: looks at the request's head and hands the connection to whoever speaks it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import cast

from gateway.wheel import Wheel

MAX_HEAD = 16_384
"""Bytes of a request line and headers; longer ones are refused."""

_UPGRADE = re.compile(rb"\r\nupgrade:[^\r\n]*websocket", re.IGNORECASE)
_PATHS = re.compile(rb"GET (/api/v1)?/ws/?(\?[^ ]*)? HTTP/")
_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"

Factory = Callable[[], asyncio.Protocol]


class FrontDoor(asyncio.Protocol):
    """A new connection, until its first request's head is there; the wheel still has it until the deadline."""

    __slots__ = ("_deadline", "_handed_over", "_head", "_http", "_transport", "_websocket", "_wheel", "due")

    def __init__(self, websocket: Factory, http: Factory, wheel: Wheel, deadline: float) -> None:
        self._websocket = websocket
        self._http = http
        self._wheel = wheel
        self._deadline = deadline
        self._transport: asyncio.Transport
        self._head = b""
        self._handed_over = False
        self.due = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Starts the deadline."""
        self._transport = cast("asyncio.Transport", transport)
        self._wheel.schedule(self, self._wheel.now() + self._deadline)

    def data_received(self, data: bytes) -> None:
        """Collects the head."""
        self._head += data
        if b"\r\n\r\n" in self._head:
            self._hand_over()
        elif len(self._head) > MAX_HEAD:
            self._transport.write(_TOO_LARGE)
            self._transport.close()

    def _hand_over(self) -> None:
        head, _, _ = self._head.partition(b"\r\n\r\n")
        is_websocket = _PATHS.match(head) and _UPGRADE.search(head)
        protocol = self._websocket() if is_websocket else self._http()
        self._handed_over = True
        self._transport.set_protocol(protocol)
        protocol.connection_made(self._transport)
        protocol.data_received(self._head)
        self._head = b""

    def tick(self, now: float) -> None:
        """The deadline for the first head, in all: one byte a second does not hold a place."""
        if not self._handed_over:
            self._transport.abort()
