"""The way out of a socket: past the transport, while that holds nothing back."""

from __future__ import annotations

import asyncio
import os
from typing import cast

from gateway.envelope import Envelope

HIGH_WATER = 65_536
"""Bytes the transport may buffer before frames wait in the session's outbox, where they are counted."""
LOW_WATER = 16_384


class Sink(asyncio.Protocol):
    """What is looked at for every write, and `write` itself.

    These attributes have a class of their own because those of a base class lie first in an object: then a write
    touches its beginning alone. Between two writes to a socket the kernel works on a thousand others, and nothing
    of any of them is still in the processor's cache.
    """

    __slots__ = ("_behind", "_descriptor", "_envelope", "_live", "_transport", "paused")

    _transport: asyncio.Transport

    def __init__(self) -> None:
        self._envelope: Envelope | None = None
        self._live = False  # plain and cheap: it is asked at every write
        self.paused = False
        self._descriptor = -1  # none, or not one that may be written to
        self._behind = True  # the transport may hold something that has to go first

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Takes the socket."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(HIGH_WATER, LOW_WATER)
        if (sock := transport.get_extra_info("socket")) and not transport.get_extra_info("sslcontext"):
            self._descriptor = sock.fileno()

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone. From the next turn of the loop on, its descriptor may be another socket's."""
        self._live, self._descriptor, self._behind = False, -1, True

    def write(self, data: bytes) -> None:
        """Sends frames that are framed already; the bytes are shared with other receivers, until they are sealed."""
        if self._live and data:
            self._send(data if self._envelope is None else self._envelope.seal(data))

    def _send(self, data: bytes) -> None:
        """Sends bytes as they are, after all that was sent before. Whatever a pump writes goes by here."""
        if self._behind and (self._descriptor < 0 or self._transport.get_write_buffer_size()):
            self._transport.write(data)
            return
        try:
            sent = os.write(self._descriptor, data)
        except OSError:  # it is full, or broken: the transport finds out which
            sent = 0
        self._behind = sent < len(data)
        if self._behind:
            self._transport.write(data[sent:])
