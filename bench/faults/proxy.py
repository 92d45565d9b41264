"""The chaos proxy: stands between two programs that talk over TCP or a Unix socket, and spoils it on demand.

`up` is from whoever connected to the proxy to the server behind it, `down` the way back.

What can go wrong is in `Proxy.faults`, which may be changed at any time and holds
from the next bytes on; what happens once, at a moment or at a pattern of bytes, are
methods of `Proxy` and `Line`. `heal` takes all of it back.
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal, Protocol, Self

from bench.faults.addresses import Address, Streams, Tcp, dial

Direction = Literal["up", "down"]
DIRECTIONS: tuple[Direction, Direction] = ("up", "down")

PIECE = 65_536
WAITING = 256
"""Pieces that may wait for their time in one direction; then nothing more is read."""
LOOK = 0.005
"""Seconds between two looks at whether a stall is over."""


class Filter(Protocol):
    """Changes what passes in one direction of one line."""

    def feed(self, data: bytes) -> bytes:
        """What goes on of these bytes, and of earlier ones that were kept."""
        ...


@dataclass(slots=True)
class Faults:
    """What is wrong with all lines of a proxy.

    `latency` and `jitter` are seconds each way; the jitter is between 0 and so much more,
    and never changes the order. `slices` is how many bytes go in one write at most, 0 for
    no bound. A `stalled` proxy passes nothing, and loses nothing: what waits goes on
    afterwards. A `black_hole` takes connections and bytes and loses them: a line that lost
    some is reset once that is over, as a stream with a hole would never have been.
    `cut` breaks every line after so many bytes in a direction, with RST.
    """

    latency: float = 0.0
    jitter: float = 0.0
    slices: int = 0
    stalled: bool = False
    black_hole: bool = False
    cut: tuple[Direction, int] | None = None


@dataclass(slots=True)
class Trigger:
    """Something that happens when a line first carries a pattern. `fired` is set then."""

    direction: Direction
    pattern: bytes
    action: Callable[[Line], None]
    through: bool
    fired: asyncio.Event = field(default_factory=asyncio.Event)


class Line:
    """One connection through a proxy."""

    def __init__(self, proxy: Proxy, near: Streams, far: Streams) -> None:
        self._proxy = proxy
        self._near, self._far = near, far
        self.passed: dict[Direction, int] = {"up": 0, "down": 0}
        self.swallowing: set[Direction] = set()
        self.holed = False
        self._filters: dict[Direction, Filter | None] = {
            "up": proxy.filter_up() if proxy.filter_up else None,
            "down": None,
        }
        self._tails: dict[Direction, bytes] = {"up": b"", "down": b""}
        self._tasks: list[asyncio.Task[None]] = []

    # --- what may be done to it ------------------------------------------------------------

    def reset(self) -> None:
        """Ends both connections at once: with RST on TCP."""
        for _, writer in (self._near, self._far):
            _reset(writer)
        for task in self._tasks:
            task.cancel()

    def half_close(self, direction: Direction) -> None:
        """Ends one direction as a program does that has no more to say; the other goes on."""
        with suppress(OSError, RuntimeError):
            self._writer(direction).write_eof()

    def swallow(self, direction: Direction) -> None:
        """From now on nothing arrives in this direction, while the line stays open."""
        self.swallowing.add(direction)

    # --- at work -----------------------------------------------------------------------------

    async def run(self) -> None:
        """Carries bytes both ways until both ends have closed."""
        self._tasks = [asyncio.create_task(self._carry(direction)) for direction in DIRECTIONS]
        try:
            await asyncio.gather(*self._tasks, return_exceptions=True)
        finally:
            for task in self._tasks:
                task.cancel()
            for _, writer in (self._near, self._far):
                writer.close()

    def _writer(self, direction: Direction) -> asyncio.StreamWriter:
        return (self._far if direction == "up" else self._near)[1]

    async def _carry(self, direction: Direction) -> None:
        """Reads, and hands on in order, each piece when its time has come."""
        waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(WAITING)
        writing = asyncio.create_task(self._hand_on(direction, waiting))
        reader = (self._near if direction == "up" else self._far)[0]
        try:
            while data := await self._read(reader):
                await waiting.put((self._proxy.due(), data))
            await waiting.put((self._proxy.due(), b""))
            await writing
        except OSError:
            self.reset()
        finally:
            writing.cancel()

    async def _read(self, reader: asyncio.StreamReader) -> bytes:
        data = await reader.read(PIECE)
        while self._proxy.faults.stalled:
            await asyncio.sleep(LOOK)
        return data

    async def _hand_on(self, direction: Direction, waiting: asyncio.Queue[tuple[float, bytes]]) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due, data = await waiting.get()
            if (left := due - loop.time()) > 0:
                await asyncio.sleep(left)
            if not data:
                self.half_close(direction)
                return
            try:
                await self._pass(direction, data)
            except OSError:
                self.reset()
                return

    async def _pass(self, direction: Direction, data: bytes) -> None:
        if self._lost(direction):
            return
        if kept := self._filters[direction]:
            data = kept.feed(data)
        data, after = self._watch(direction, data)
        data, broken = self._up_to_cut(direction, data)
        self.passed[direction] += len(data)
        await self._write(self._writer(direction), data)
        if after is not None:
            after(self)
        if broken:
            self.reset()

    def _lost(self, direction: Direction) -> bool:
        """Whether bytes of this direction go nowhere now."""
        if self._proxy.faults.black_hole:
            self.holed = True
            return True
        if self.holed:
            self.reset()
            return True
        return direction in self.swallowing

    def _watch(self, direction: Direction, data: bytes) -> tuple[bytes, Callable[[Line], None] | None]:
        """What may pass of these bytes, and what has to be done then. A pattern may come in several pieces."""
        seen = self._tails[direction] + data
        for trigger in self._proxy.triggers(direction):
            at = seen.find(trigger.pattern)
            if at >= 0:
                self._proxy.fire(trigger)
                if trigger.through:
                    return data, trigger.action
                return data[: max(0, at - len(self._tails[direction]))], _then_reset(trigger.action)
        longest = self._proxy.longest_pattern
        self._tails[direction] = seen[-longest:] if longest else b""
        return data, None

    def _up_to_cut(self, direction: Direction, data: bytes) -> tuple[bytes, bool]:
        cut = self._proxy.faults.cut
        if cut is None or cut[0] != direction:
            return data, False
        left = max(0, cut[1] - self.passed[direction])
        return data[:left], len(data) >= left

    async def _write(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        if not (size := self._proxy.faults.slices):
            writer.write(data)
            await writer.drain()
            return
        for at in range(0, len(data), size):
            writer.write(data[at : at + size])
            await writer.drain()
            await asyncio.sleep(0)


def _then_reset(action: Callable[[Line], None]) -> Callable[[Line], None]:
    def act(line: Line) -> None:
        action(line)
        line.reset()

    return act


def _reset(writer: asyncio.StreamWriter) -> None:
    """Closes so that the other side gets RST: SO_LINGER with a time of 0 (socket(7))."""
    fd = writer.get_extra_info("socket").fileno()
    if fd >= 0:
        with suppress(OSError), socket.socket(fileno=os.dup(fd)) as same:
            same.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


class Proxy:
    """Listens on a port of the loopback, and carries each connection to the server at `upstream`.

    `filter_up` makes what changes the bytes of a new line on their way up. Everything
    random comes from `dice`.
    """

    def __init__(
        self,
        upstream: Address,
        *,
        filter_up: Callable[[], Filter] | None = None,
        dice: random.Random | None = None,
    ) -> None:
        self._upstream = upstream
        self.filter_up = filter_up
        self.dice = dice or random.Random(0)
        self.faults = Faults()
        self.lines: list[Line] = []
        self.port = 0
        self.accepted = 0
        self.longest_pattern = 0
        self._triggers: list[Trigger] = []
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.Task[None]] = set()
        self._last_due = 0.0

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def address(self) -> Tcp:
        """Where to connect."""
        return Tcp("127.0.0.1", self.port)

    # --- for whoever spoils things -------------------------------------------------------------

    async def open(self) -> None:
        """Listens; after `refuse` on the same port again."""
        if self._server is None:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, limit=PIECE)
            self.port = self._server.sockets[0].getsockname()[1]

    def refuse(self) -> None:
        """Nobody listens from now on; lines that are open stay."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def reset_lines(self, share: float = 1.0) -> int:
        """Breaks every open line, or about such a share of them; how many those were."""
        lines = [line for line in self.lines if self.dice.random() < share]
        for line in lines:
            line.reset()
        return len(lines)

    def on(
        self, direction: Direction, pattern: bytes, action: Callable[[Line], None], *, through: bool = False
    ) -> Trigger:
        """Does something, once, when any line carries `pattern`.

        With `through` the bytes pass before. Else nothing from the pattern on does, and
        the line is reset after the action.
        """
        trigger = Trigger(direction, pattern, action, through)
        self._triggers.append(trigger)
        self.longest_pattern = max(len(one.pattern) for one in self._triggers) - 1
        return trigger

    def drop_reply(self, pattern: bytes) -> Trigger:
        """What comes back after a request with `pattern` is lost, on that line; the request gets through."""
        return self.on("up", pattern, lambda line: line.swallow("down"), through=True)

    async def heal(self) -> None:
        """Everything passes again. Lines that lost bytes are reset."""
        self.faults = Faults()
        self._triggers.clear()
        for line in list(self.lines):
            if line.holed or line.swallowing:
                line.reset()
        await self.open()

    async def close(self) -> None:
        """Ends everything."""
        self.refuse()
        self.reset_lines()
        for task in list(self._serving):
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    # --- for its lines ---------------------------------------------------------------------------

    def due(self) -> float:
        """When a piece that has just come may go on."""
        return asyncio.get_running_loop().time() + self.faults.latency + self.dice.uniform(0, self.faults.jitter)

    def triggers(self, direction: Direction) -> Sequence[Trigger]:
        """What waits for a pattern in this direction."""
        return [trigger for trigger in self._triggers if trigger.direction == direction]

    def fire(self, trigger: Trigger) -> None:
        """It happens once."""
        self._triggers.remove(trigger)
        trigger.fired.set()

    # --- connections -------------------------------------------------------------------------------

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        self.accepted += 1
        try:
            await self._carry(reader, writer)
        except asyncio.CancelledError:
            pass  # by `close`: asyncio's streams would report it
        finally:
            self._serving.discard(task)
            writer.close()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while self.faults.black_hole:
            await asyncio.sleep(LOOK)
        try:
            far = await self.connect()
        except OSError:
            _reset(writer)
            return
        line = Line(self, (reader, writer), far)
        self.lines.append(line)
        try:
            await line.run()
        finally:
            self.lines.remove(line)

    async def connect(self) -> Streams:
        """A connection to the server. Raises OSError."""
        return await dial(self._upstream, PIECE)
