"""What the pumps have in common: a transport, a connection above it, and the deadline until there is one."""

from __future__ import annotations

import asyncio
import sys
from abc import ABC, abstractmethod

from gateway.connection import Connection
from gateway.door import Door
from gateway.sink import Sink
from gateway.wire import Wire
from protocol.addresses import network_of
from protocol.errors import CloseCode

SLICE = 8_192
"""Bytes of a read that are worked on at a time, so that no client's read keeps the others waiting."""


class Pump(Sink, ABC):
    """One socket. A subclass turns its bytes into payloads, and is the `Socket` of its connection."""

    __slots__ = (
        "_address",
        "_admitted",
        "_connection",
        "_door",
        "_ended",
        "_held",
        "_waiting",
        "due",
    )

    def __init__(self, door: Door) -> None:
        super().__init__()
        self._door = door
        self._connection: Connection | None = None
        self._address = ""
        self._admitted = False  # counted as a stranger
        self._ended = False  # what still comes is not looked at
        self._held = False  # the connection wants no more for now
        self._waiting = b""
        self.due = 0

    # --- asyncio.Protocol --------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Takes the socket."""
        super().connection_made(transport)
        self._come_from(self._peer)

    def _come_from(self, address: str | None) -> None:
        self._address = sys.intern(network_of(address))  # one string for all who come from there

    @property
    def _peer(self) -> str | None:
        """The address at the other end of the socket."""
        peer = self._transport.get_extra_info("peername")
        return peer[0] if isinstance(peer, tuple) else None

    def data_received(self, data: bytes) -> None:
        """Bytes from the client; of many at once, some now and the others in the next turns of the loop."""
        if self._held or self._waiting or len(data) > SLICE:
            self._wait(data)
        elif not self._ended:
            self._feed(data)

    def pause_writing(self) -> None:
        """The transport holds enough; frames wait in the outbox."""
        self.paused = True

    def resume_writing(self) -> None:
        """The transport takes more."""
        self.paused = False
        if self._connection is not None:
            self._connection.drained()

    def _leave(self, *, clean: bool) -> None:
        """The socket is gone, whether there was a connection on it or not."""
        self._ended, self._waiting = True, b""
        if self._connection is not None:
            self._connection.lost(clean=clean)
        elif self._admitted:
            self._door.known(self._address)

    # --- in ----------------------------------------------------------------------------------

    @abstractmethod
    def _feed(self, data: bytes) -> None:
        """Works on bytes from the client."""

    def _wait(self, data: bytes) -> None:
        if not self._waiting and not self._transport.is_closing():
            self._transport.pause_reading()
            self._soon()
        self._waiting += data

    def _soon(self) -> None:
        asyncio.get_running_loop().call_soon(self._next)

    def _next(self) -> None:
        if self._held or not self._waiting:
            return
        piece, self._waiting = self._waiting[:SLICE], self._waiting[SLICE:]
        if not self._ended:
            self._feed(piece)
        if self._waiting:
            self._soon()
        elif not self._held and not self._transport.is_closing():
            self._transport.resume_reading()

    def _break(self) -> None:
        """Ends a connection whose envelope does not hold: without a word, and the same for every reason."""
        self._door.metrics.closed("broken_envelope")
        self._ended = True
        self._live = False
        self._transport.abort()

    # --- opening -----------------------------------------------------------------------------

    def _admit(self) -> bool:
        """Counts a stranger. False when there are too many from its address."""
        self._admitted = self._door.admit_stranger(self._address)
        return self._admitted

    def _begin(
        self, wire: Wire, answer: bytes = b"", *, token: str | None = None, peer_key: bytes | None = None
    ) -> None:
        """From now on there is a connection, with deadlines of its own. Its hello goes with the handshake's answer."""
        connection = self._connection = Connection(self._door, self, wire, self._address, peer_key)
        self._live = True
        hello = connection.hello()
        self._send(answer + (hello if self._envelope is None else self._envelope.seal(hello)))
        connection.begin(token)

    # --- what the hub and the connection use ---------------------------------------------------

    def stuck(self) -> None:
        """The session behind this socket lags."""
        if self._connection is not None:
            self._connection.stuck()

    def finish(self) -> asyncio.Task[None] | None:
        """Takes no more commands."""
        return self._connection.finish() if self._connection is not None else None

    def close(self, code: CloseCode, reason: str) -> None:
        """Closes the connection; the client is told why."""
        if self._connection is not None:
            self._connection.close(code, reason)

    def pause_reading(self) -> None:
        """Lets TCP's window hold the client back."""
        self._held = True
        if not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Reads again, and first what was read already."""
        if not self._held:
            return
        self._held = False
        if self._waiting:
            self._soon()
        elif not self._transport.is_closing():
            self._transport.resume_reading()

    def abort(self) -> None:
        """Drops the socket."""
        self._transport.abort()

    @abstractmethod
    def ping(self) -> None:
        """Asks the other end for a sign of life."""

    @abstractmethod
    def send_close(self, code: CloseCode, reason: str) -> None:
        """Tells the client why and begins to close."""

    @abstractmethod
    def hang_up(self) -> None:
        """Closes after the client's goodbye."""
