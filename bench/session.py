"""One session on one socket: opens itself, checks every seq, and tells the load what came."""

from __future__ import annotations

import asyncio
import os
import select
from collections.abc import Mapping
from typing import Any, cast

from bench.clock import now_us
from bench.dialect import Dialect, Line, Scan, Span, Wrong
from bench.frames import SeqCheck
from bench.load import Load
from bench.target import TargetError

INBOX_BYTES = 256 * 1024
"""What is read at once at most."""
ROW = 4
"""Sockets that are read until the clock is looked at, as long as they have little."""
LARGE = 8192
"""Bytes of one look that take as long as many reads: after these the clock is looked at for each socket."""
TURN_US = 250
"""Microseconds of reading, until alarms and everything else have their turn: they may be late by a row more."""


class Reading:
    """What the sessions of one process share: the dialect, the load, the bytes that are read and their meaning.

    All sessions read into one buffer, which stays in the processor's cache. What one
    receiver got, the next usually gets byte for byte: equal bytes have equal seqs, and
    comparing them is cheaper than looking for them.
    """

    def __init__(self, dialect: Dialect, load: Load) -> None:
        self.dialect = dialect
        self.load = load
        self.inbox = bytearray(INBOX_BYTES)
        self.data = b""
        self.scan = Scan([], [], [], 0)
        self.size = -1
        self.span = Span(b"", 0, 0)
        self._stamped: tuple[bytes, list[int]] = (b"", [])
        self._read_to_the_end: tuple[bytes, int] = (b"", 0)
        self._epoll: select.epoll | None = None
        self._sessions: dict[int, Session] = {}

    def remember(self, data: bytes, scan: Scan) -> None:
        """The last bytes that were scanned. They are worth it if they hold events of one chatroom and nothing else."""
        self.data, self.scan = data, scan
        simple = len(scan.spans) == 1 and not scan.acks and not scan.others and scan.end == len(data)
        self.size = len(data) if simple else -1
        if simple:
            self.span = scan.spans[0]

    def stamps(self, data: bytes, scan: Scan) -> list[int]:
        """Those of the scanned events."""
        if self._stamped[0] != data:
            self._stamped = data, list(self.dialect.stamps(data, scan))
        return self._stamped[1]

    def fully(self, data: bytes, scan: Scan) -> int:
        """Parses all of it. How many events these were. Raises Wrong."""
        if self._read_to_the_end[0] != data:
            self._read_to_the_end = data, self.dialect.read(data, scan)
        return self._read_to_the_end[1]

    def read_for(self, session: Session, transport: asyncio.Transport) -> None:
        """From now on we read this socket ourselves: a third of what the event loop takes for it.

        A loop also reads all sockets that are ready before it looks at an alarm. Where
        there is TLS, or no epoll(7), the loop goes on.
        """
        if not hasattr(select, "epoll") or transport.get_extra_info("sslcontext") is not None:
            return
        if self._epoll is None:
            self._epoll = select.epoll()
            asyncio.get_running_loop().add_reader(self._epoll.fileno(), self._read_all, self._epoll)
        transport.pause_reading()
        number = transport.get_extra_info("socket").fileno()
        self._sessions[number] = session
        self._epoll.register(number, select.EPOLLIN)

    def _read_all(self, epoll: select.epoll) -> None:
        """Reads until nothing is there, or others have waited for long enough."""
        until, most = now_us() + TURN_US, ROW
        while (size := self._read_row(epoll, most)) and now_us() < until:
            most = ROW if size < LARGE else 1

    def _read_row(self, epoll: select.epoll, most: int) -> int:
        """Reads so many sockets at most. How many bytes these had."""
        sessions, inbox, whole = self._sessions, (self.inbox,), 0
        for number, _ in epoll.poll(0, most):
            session = sessions[number]
            try:
                size = os.readv(number, inbox)
            except BlockingIOError:
                continue
            except OSError as error:
                self._ended(epoll, number, session, error)
                continue
            if size:
                session.buffer_updated(size)
                whole += size
            else:
                self._ended(epoll, number, session, None)
        return whole

    def _ended(self, epoll: select.epoll, number: int, session: Session, error: OSError | None) -> None:
        epoll.unregister(number)
        session.connection_lost(error)
        session.close()


class Session(asyncio.BufferedProtocol):
    """The socket. `checks` has the state of each chatroom it hears, `delivered` counts their events.

    One that is `timed` looks at when each event should have gone; one that is `read_fully` decodes all of them.
    """

    __slots__ = (
        "_closing",
        "_line",
        "_reading",
        "_rest",
        "_transport",
        "_way",
        "checks",
        "credential",
        "delivered",
        "kept",
        "opened",
        "read_fully",
        "timed",
    )

    def __init__(
        self, reading: Reading, credential: str, *, read_fully: bool = False, line: Line | None = None
    ) -> None:
        self.credential = credential
        self.kept: dict[str, Any] = {}
        self.checks: dict[bytes, SeqCheck] = {}
        self.delivered = 0
        self.read_fully = read_fully
        self.timed = read_fully
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._reading = reading
        self._way = line or reading.dialect.line(credential)
        self._line: Line | None = self._way  # None once bytes are frames as they come
        self._rest = b""
        self._closing = False
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begins."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(self._way.first())

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone: a failure, unless it was us."""
        self.failed(f"connection lost: {exc or 'closed by the server'}")

    def close(self) -> None:
        """Drops the socket, if there was one."""
        self._closing = True
        if self._transport is not None:
            self._transport.abort()

    def say_goodbye(self) -> None:
        """The server may close from now on."""
        self._closing = True
        self.send(self._reading.dialect.goodbye())

    def send(self, frames: bytes) -> None:
        """Writes frames."""
        if self._transport is not None:
            self._transport.write(frames if self._line is None else self._line.pack(frames))

    # --- the hot path ------------------------------------------------------------------------

    def get_buffer(self, sizehint: int) -> bytearray:
        """The one that all share: nothing stays in it."""
        return self._reading.inbox

    def buffer_updated(self, nbytes: int) -> None:
        """Bytes that another receiver just had are known; others are looked at."""
        reading = self._reading
        if (
            nbytes == reading.size
            and not (self.timed or self._rest or self._line)
            and reading.inbox.startswith(reading.data)
        ):
            self._take(reading.span)
        else:
            self._look(bytes(reading.inbox[:nbytes]))

    def _look(self, data: bytes) -> None:
        reading = self._reading
        if self._line is not None:
            data = self._open(self._line, data)
        if self._rest:
            data = self._rest + data
            self._rest = b""
        if data == reading.data:
            scan = reading.scan
        else:
            scan = reading.dialect.scan(data)
            reading.remember(data, scan)
        if scan.end != len(data):
            self._rest = data[scan.end :]
        self._told(data, scan)

    def _told(self, data: bytes, scan: Scan) -> None:
        load = self._reading.load
        for opcode, payload in scan.others:
            self._reading.dialect.other(self, opcode, payload)
        if scan.acks:
            load.acked(scan.acks)
        for span in scan.spans:
            self._take(span)
        if self.timed and scan.spans:
            load.arrived(self._reading.stamps(data, scan))
        if self.read_fully and scan.spans:
            self._read(data, scan)

    def _take(self, span: Span) -> None:
        room, first, last = span
        check = self.checks.get(room)
        if check is None:
            self.failed("an event of a chatroom that is none of this session's")
            return
        before = check.last
        if first == before + 1:
            check.last = last
        else:
            check.take(first, last)
        load, count = self._reading.load, last - first + 1
        self.delivered += count
        load.delivered += count
        if load.listens:
            load.heard(before, check.last)

    # --- what is rare ------------------------------------------------------------------------

    def _open(self, line: Line, data: bytes) -> bytes:
        """What the line makes of the bytes."""
        try:
            frames, answer = line.take(data)
        except TargetError as error:
            self.failed(str(error))
            return b""
        if answer and self._transport is not None:
            self._transport.write(answer)
        if line.ready and not line.sealed:
            self._line = None
        return frames

    def _read(self, data: bytes, scan: Scan) -> None:
        try:
            self._reading.load.fully_read += self._reading.fully(data, scan)
        except Wrong as wrong:
            self.failed(str(wrong))

    def ready(self, heads: Mapping[bytes, int]) -> None:
        """The session is open, and hears these chatrooms from these seqs on."""
        self.checks = {room: SeqCheck(head) for room, head in heads.items()}
        if not self.opened.done():
            self.opened.set_result(None)
            if self._transport is not None:
                self._reading.read_for(self, self._transport)

    def failed(self, what: str) -> None:
        """While it opens, this is raised for whoever waits; later it is counted. What we have closed, we let go."""
        if self._closing:
            return
        if self.opened.done():
            self._reading.load.failed(what)
        else:
            self._closing = True
            self.opened.set_exception(TargetError(f"A session could not be opened: {what}"))
