"""Doors and pumps without sockets: what strangers' bytes come to, however they are cut."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import NamedTuple, cast

from gateway.connection import Connection
from gateway.door import Door
from gateway.front_door import FrontDoor
from gateway.tcp import TcpPump, framed_wires
from gateway.wheel import Wheel
from gateway.wire import Wire
from protocol.errors import CloseCode
from tests.crypto.noise_sides import SERVER

LIMIT_FRAME = 256


class Socket(asyncio.Transport):
    """A socket that gives its bytes to whoever has it."""

    def __init__(self, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self.protocol: asyncio.BaseProtocol = protocol
        self.aborted = False
        protocol.connection_made(self)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Gives the connection to another."""
        assert not isinstance(self.protocol, Taker)
        self.protocol = protocol

    def arrive(self, data: bytes, piece: int) -> None:
        """Bytes come, in pieces."""
        for start in range(0, len(data), piece):
            if not self.aborted:
                cast("asyncio.Protocol", self.protocol).data_received(data[start : start + piece])

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """There is no buffer."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Nobody reads."""

    def can_write_eof(self) -> bool:
        """As TCP does."""
        return True

    def write_eof(self) -> None:
        """Nobody reads."""

    def abort(self) -> None:
        """Nothing comes any more."""
        self.aborted = True


class StillWheel:
    """A wheel that does not turn."""

    def now(self) -> float:
        """No time passes."""
        return 0.0

    def schedule(self, timed: object, when: float) -> None:
        """Nothing comes due."""


# --- the front door --------------------------------------------------------------------------


class Taker(asyncio.Protocol):
    """Takes a connection over."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.received = b""

    def data_received(self, data: bytes) -> None:
        """Keeps what it gets."""
        self.received += data


def enter(data: bytes, piece: int) -> tuple[str, bytes] | None:
    """Who got a connection and its bytes; None while its head is not whole."""
    wheel = cast("Wheel", StillWheel())
    socket = Socket(FrontDoor(lambda: Taker("websocket"), lambda: Taker("http"), wheel, 10.0))
    socket.arrive(data, piece)
    return (socket.protocol.name, socket.protocol.received) if isinstance(socket.protocol, Taker) else None


# --- TCP -------------------------------------------------------------------------------------


class Heard(NamedTuple):
    """What came of a TCP connection: its payloads, why it was closed, and whether it was cut without a word."""

    payloads: list[bytes]
    closed: list[str]
    aborted: bool


class Listener:
    """Stands where a Connection does."""

    def __init__(self, pump: ListeningPump) -> None:
        self._pump = pump
        self.payloads: list[bytes] = []

    def receive(self, payload: bytes) -> None:
        """Keeps what comes."""
        self.payloads.append(payload)

    def close(self, code: CloseCode, reason: str) -> None:
        """Says goodbye."""
        self._pump.closed.append(code.name)
        self._pump.send_close(code, reason)


class ListeningPump(TcpPump):
    """A pump with nobody behind it."""

    __slots__ = ("closed", "listener")

    def __init__(self, *, clear: bool) -> None:
        self.closed: list[str] = []
        config = SimpleNamespace(frame_deadline=10.0, limit_frame=LIMIT_FRAME)
        metrics = SimpleNamespace(closed=self.closed.append)
        door = SimpleNamespace(config=config, metrics=metrics, wheel=StillWheel())
        super().__init__(cast("Door", door), framed_wires(), SERVER, clear=clear)
        self.listener = Listener(self)

    def _admit(self) -> bool:
        return True

    def _begin(
        self, wire: Wire, answer: bytes = b"", *, token: str | None = None, peer_key: bytes | None = None
    ) -> None:
        self._connection = cast("Connection", self.listener)
        self._live = True


def dial(data: bytes, piece: int, *, clear: bool) -> Heard:
    """What a server hears from a client that sends these bytes."""
    pump = ListeningPump(clear=clear)
    socket = Socket(pump)
    socket.arrive(data, piece)
    return Heard(pump.listener.payloads, pump.closed, socket.aborted)
