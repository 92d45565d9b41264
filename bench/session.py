"""One session on one socket: opens itself, checks every seq, and tells a Listener what came."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator, Sequence
from typing import Protocol, cast
from urllib.parse import urlsplit

from bench.frames import (
    CLOSE,
    LAYOUTS,
    PING,
    PONG,
    TEXT,
    Pack,
    Run,
    Scan,
    Scanner,
    SeqCheck,
    framed,
    masked,
    split,
    split_framed,
)
from bench.lines import Line, SealedLine, TcpLine, WebSocketLine
from bench.rest import Account
from bench.target import TargetError
from protocol.codec import CODECS, ClientFrame, Codec
from protocol.commands import Goodbye, Ping

AT_ONCE = 64
"""Sessions that are opening together: below any listen backlog, and enough to keep the server busy."""
OPEN_SECONDS = 30.0
"""What one session may take to open while the others do too."""
LEAVE_SECONDS = 0.5
"""What the server gets to take goodbyes."""
READ_FULLY = 50
"""Every so many-th session decodes all it gets: 2 %."""


class Listener(Protocol):
    """Who counts. Called for every read from a socket, so it has to be quick."""

    def acked(self, numbers: list[int]) -> None:
        """Answers to messages have come."""
        ...

    def heard(self, before: int, last: int) -> None:
        """A receiver that had a chatroom's events up to `before` has those up to `last`."""
        ...

    def failed(self, what: str) -> None:
        """Something came that should not have, or a connection ended."""
        ...


class Wire:
    """What the sessions of one run share: address, transport, codec, the memory of the last scan, the listener."""

    def __init__(self, url: str, codec: str, listener: Listener, text: str) -> None:
        parts = urlsplit(url)
        self.tls = ssl.create_default_context() if parts.scheme == "https" else None
        self.host = parts.hostname or "127.0.0.1"
        self.port = parts.port or (443 if self.tls else 80)
        self.path = parts.path
        self.codec: Codec = CODECS[codec]
        self.pack: Pack = masked
        self.scanner = Scanner(LAYOUTS[codec], split)
        self.listener = listener
        self.text = text

    def line(self, token: str | None) -> Line:
        """A session's way to the server; without a token nothing is opened yet."""
        return WebSocketLine(self.host, self.port, self.path, self.codec, token)

    def frames(self, data: bytes) -> Iterator[tuple[int, int, int]]:
        """(opcode, start, end) of each payload."""
        return split(data)


class TcpWire(Wire):
    """The same over TCP, under Noise where there is a key."""

    def __init__(self, url: str, port: int, key: bytes | None, like: Wire) -> None:
        super().__init__(url, like.codec.name, like.listener, like.text)
        self.tls = None
        self.port = port
        self.pack = framed
        self.scanner = Scanner(LAYOUTS[like.codec.name], split_framed)
        self._key = key

    def line(self, token: str | None) -> Line:
        """A session's way to the server."""
        if token is None:
            raise NotImplementedError("over TCP the token is in the first frame")
        return TcpLine(self.codec, token) if self._key is None else SealedLine(self.codec, token, self._key)

    def frames(self, data: bytes) -> Iterator[tuple[int, int, int]]:
        """(opcode, start, end) of each payload."""
        return split_framed(data)


class BenchSession(asyncio.Protocol):
    """The socket. `checks` has the state of each chatroom it hears, `delivered` counts their events."""

    def __init__(self, wire: Wire, token: str, *, read_fully: bool, line: Line | None = None) -> None:
        self.token = token
        self.id = ""
        self.resume_token = ""
        self._wire = wire
        self._way = line or wire.line(token)
        self._line: Line | None = self._way  # None once bytes are frames as they come
        self._read_fully = read_fully
        self._rest = b""
        self._closing = False
        self.checks: dict[bytes, SeqCheck] = {}
        self.delivered = 0
        self.fully_read = 0
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begins."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(self._way.first())

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone: a failure, unless it was us."""
        self._fail(f"connection lost: {exc or 'closed by the server'}")

    def close(self) -> None:
        """Drops the socket."""
        self._closing = True
        self._transport.abort()

    def say_goodbye(self) -> None:
        """The server may close from now on."""
        self._closing = True
        self.send(self._wire.pack(TEXT, self._wire.codec.encode(ClientFrame("goodbye", Goodbye()))))

    def send(self, frames: bytes) -> None:
        """Writes frames."""
        self._transport.write(frames if self._line is None else self._line.pack(frames))

    def data_received(self, data: bytes) -> None:
        """The hot path."""
        if self._line is not None:
            data = self._open(self._line, data)
        if self._rest:
            data = self._rest + data
            self._rest = b""
        scan = self._wire.scanner.scan(data)
        if scan.end != len(data):
            self._rest = data[scan.end :]
        if scan.others:
            self._others(scan)
        if scan.acks:
            self._wire.listener.acked(scan.acks)
        for run in scan.runs:
            self._take(run)
        if self._read_fully and scan.runs:
            self._decode(data, scan)

    def _open(self, line: Line, data: bytes) -> bytes:
        """What the line makes of the bytes."""
        try:
            frames, answer = line.take(data)
        except TargetError as error:
            self._fail(str(error))
            return b""
        if answer:
            self._transport.write(answer)
        if line.ready and not line.sealed:
            self._line = None
        return frames

    def _take(self, run: Run) -> None:
        check = self.checks.get(run.room)
        if check is None:
            self._fail("an event of a chatroom that is none of this session's")
            return
        before = check.last
        check.take(run.first, run.last)
        self.delivered += run.last - run.first + 1
        self._wire.listener.heard(before, check.last)

    # --- what is rare ------------------------------------------------------------------------

    def _others(self, scan: Scan) -> None:
        for opcode, payload in scan.others:
            if opcode == PING:
                self.send(masked(PONG, payload))
            elif opcode == CLOSE:
                self._fail(f"closed: {int.from_bytes(payload[:2], 'big')} {payload[2:].decode(errors='replace')}")
            else:
                self._other(payload)

    def _other(self, payload: bytes) -> None:
        frame = self._wire.codec.decode_server(payload)
        if frame.event == "ready":
            self.id, self.resume_token = frame.data["session_id"], frame.data["resume_token"]
            rooms = frame.data["chatrooms"]
            self.checks = {room["id"].encode(): SeqCheck(room["seq"]) for room in rooms}
            self.opened.set_result(None)
        elif frame.event == "ping":
            self.send(self._wire.pack(TEXT, self._wire.codec.encode(ClientFrame("ping", Ping()))))
        elif frame.event not in ("hello", "pong"):
            self._fail(f"{frame.event} {frame.data.get('code', '')}".strip())

    def _decode(self, data: bytes, scan: Scan) -> None:
        """Decodes what was only skimmed, and compares."""
        decode, text = self._wire.codec.decode_server, self._wire.text
        whole = self._wire.frames(data[: scan.end])
        frames = [decode(data[start:end]) for opcode, start, end in whole if opcode < CLOSE]  # the others are control
        events = [frame for frame in frames if frame.event == "message_received"]
        skimmed = [(run.room.decode(), seq) for run in scan.runs for seq in range(run.first, run.last + 1)]
        if [(str(frame.chatroom_id), frame.seq) for frame in events] != skimmed:
            self._fail("a frame is not what its last bytes say")
        if any(frame.data["message"]["content"] != text for frame in events):
            self._fail("a message's text is not the one that was sent")
        self.fully_read += len(events)

    def _fail(self, what: str) -> None:
        if self._closing:
            return
        if not self.opened.done():
            self.opened.set_exception(TargetError(f"A session could not be opened: {what}"))
            self._closing = True
        else:
            self._wire.listener.failed(what)


async def open_sessions(wire: Wire, accounts: Sequence[Account], count: int, first: int = 0) -> list[BenchSession]:
    """`count` sessions, going round the accounts. Raises TargetError; those that were open are closed then."""
    turns = asyncio.Semaphore(AT_ONCE)
    sessions: list[BenchSession] = []

    async def one(number: int) -> None:
        async with turns, asyncio.timeout(OPEN_SECONDS):
            session = BenchSession(wire, accounts[number % len(accounts)].token, read_fully=number % READ_FULLY == 0)
            sessions.append(session)
            await asyncio.get_running_loop().create_connection(lambda: session, wire.host, wire.port, ssl=wire.tls)
            await session.opened

    try:
        async with asyncio.TaskGroup() as group:
            for number in range(first, first + count):
                group.create_task(one(number))
    except BaseExceptionGroup as errors:
        close_sessions(sessions)
        raise errors.exceptions[0] from None
    return sessions


async def leave(sessions: Sequence[BenchSession]) -> None:
    """Ends the sessions over TCP, so that the server keeps nothing of them; then drops the sockets."""
    for session in sessions:
        session.say_goodbye()
    await asyncio.sleep(LEAVE_SECONDS)
    close_sessions(sessions)


def close_sessions(sessions: Sequence[BenchSession]) -> None:
    """Drops all these sockets."""
    for session in sessions:
        session.close()
