"""The TCP pump: large reads take turns, and nobody is blamed for bytes that we did not read."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

from gateway.connection import Connection
from gateway.door import Door
from gateway.pump import SLICE
from gateway.tcp import TcpPump, framed_wires
from gateway.wire import Wire
from protocol.framing import Preface, frame
from tests.crypto.noise_sides import SERVER

DEADLINE = 10.0


class Clock:
    """A wheel that is turned by hand."""

    def __init__(self) -> None:
        self.time = 100.0
        self.scheduled: list[float] = []

    def now(self) -> float:
        """The time."""
        return self.time

    def schedule(self, timed: object, when: float) -> None:
        """Notes it."""
        self.scheduled.append(when)


class Transport(asyncio.Transport):
    """Notes whether it is read."""

    def __init__(self) -> None:
        super().__init__()
        self.reading = True
        self.written = b""
        self.aborted = False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """There is no buffer."""

    def is_closing(self) -> bool:
        """Not of itself."""
        return self.aborted

    def pause_reading(self) -> None:
        """No more, please."""
        self.reading = False

    def resume_reading(self) -> None:
        """Go on."""
        self.reading = True

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Keeps it."""
        self.written += bytes(data)

    def can_write_eof(self) -> bool:
        """As TCP does."""
        return True

    def write_eof(self) -> None:
        """The end."""

    def abort(self) -> None:
        """Nothing comes any more."""
        self.aborted = True


class Ears:
    """Stands where a Connection does."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []
        self.closed: list[str] = []

    def receive(self, payload: bytes) -> None:
        """Keeps what comes."""
        self.heard.append(payload)

    def close(self, code: Any, reason: str) -> None:
        """Keeps why."""
        self.closed.append(code.name)


class EarPump(TcpPump):
    """A pump with ears behind it."""

    def __init__(self, door: Door, ears: Ears) -> None:
        super().__init__(door, framed_wires(), SERVER, clear=True)
        self.ears = ears

    def _begin(
        self, wire: Wire, answer: bytes = b"", *, token: str | None = None, peer_key: bytes | None = None
    ) -> None:
        self._connection = cast("Connection", self.ears)


class Line:
    """A client behind its preface, which says nothing yet."""

    def __init__(self) -> None:
        self.clock, self.transport, self.ears = Clock(), Transport(), Ears()
        config = SimpleNamespace(frame_deadline=DEADLINE, limit_frame=1_000_000)
        door: Any = SimpleNamespace(config=config, wheel=self.clock, admit_stranger=lambda _: True)
        self.pump = EarPump(door, self.ears)
        self.pump.connection_made(self.transport)
        self.pump.data_received(bytes(Preface()))

    def tick(self, seconds: float) -> float | None:
        """Time passes, and the wheel turns."""
        self.clock.time += seconds
        return self.pump.tick(self.clock.time)


async def test_a_large_read_takes_turns() -> None:
    """What comes at once is worked on piece by piece, others go in between, and nothing more is read meanwhile."""
    line = Line()
    frames = [str(number).encode() * 10 for number in range(5_000)]
    line.pump.data_received(b"".join(map(frame, frames)))
    assert (line.ears.heard, line.transport.reading) == ([], False)
    heard = []
    while not line.transport.reading:
        await asyncio.sleep(0)
        heard.append(len(line.ears.heard))
    assert line.ears.heard == frames
    steps = [after - before for before, after in zip([0, *heard], heard, strict=False)]
    assert max(steps) <= SLICE // 8
    line.pump.data_received(frame(b"next"))
    assert line.ears.heard[-1] == b"next"


async def test_nothing_is_taken_while_the_connection_wants_no_more() -> None:
    """Neither what is read nor what was read already, until it wants more; then in order."""
    line = Line()
    line.pump.pause_reading()
    line.pump.data_received(frame(b"first"))
    line.pump.data_received(frame(b"second"))
    await asyncio.sleep(0)
    assert (line.ears.heard, line.transport.reading) == ([], False)
    line.pump.resume_reading()
    await asyncio.sleep(0)
    assert (line.ears.heard, line.transport.reading) == ([b"first", b"second"], True)


async def test_a_frame_has_its_time() -> None:
    """From its first byte to its last; a whole one in between begins the time anew."""
    line = Line()
    line.pump.data_received(frame(b"slow")[:3])
    assert line.tick(DEADLINE - 1) == line.clock.time + 1
    line.pump.data_received(frame(b"slow")[3:] + b"\x00")
    assert line.tick(DEADLINE - 1) == line.clock.time + 1
    assert line.ears.closed == []
    assert line.tick(1) is None
    assert line.ears.closed == ["frame_timeout"]


async def test_time_in_which_we_do_not_read_does_not_count() -> None:
    """A client whose frame is half read when the server stops reading gets the whole time again."""
    line = Line()
    line.pump.data_received(frame(b"half")[:6])
    line.pump.pause_reading()
    assert line.tick(DEADLINE + 1) == line.clock.time + DEADLINE
    line.pump.resume_reading()
    assert line.tick(DEADLINE - 1) == line.clock.time + 1
    assert line.ears.closed == []
    assert line.tick(1) is None
    assert line.ears.closed == ["frame_timeout"]
