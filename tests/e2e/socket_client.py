"""A client that does nothing by itself, over any transport: for tests that look at single frames."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any
from uuid import UUID

import msgspec
from websockets.asyncio.client import ClientConnection

from tests.e2e.lines import PACKED, TRANSPORTS, Ended, Line, Transport, WebSocketLine, open_tcp, open_websocket
from tests.e2e.packing import pack
from tests.e2e.server import Server

UNCOUNTED = {"hello", "ready", "resumed", "session_reset", "pong", "ping", "lagging", "migrate", "closing"}
SIGN_OF_LIFE = "sign of life"
"""The id of the pings that answer the server's own."""


class SocketClient:
    """Frames as dicts, in and out. On every transport they look as JSON has them: ids and times are text."""

    def __init__(self, line: Line, *, packed: bool, lively: bool) -> None:
        self.line = line
        self._packed = packed
        self._lively = lively
        self.received = 0
        self.end: Ended | None = None

    @property
    def ws(self) -> ClientConnection:
        """The WebSocket, for tests that are about one."""
        assert isinstance(self.line, WebSocketLine)
        return self.line.ws

    @property
    def close_code(self) -> int | None:
        """How the connection ended, once `closed` or a read has found that it did."""
        return self.end.code if self.end is not None else None

    async def send(self, event: str, data: dict[str, Any] | None = None, id: str | None = None) -> None:
        """Sends a frame. Raises Ended."""
        frame: dict[str, Any] = {"event": event, "data": data or {}}
        if id is not None:
            frame["id"] = id
        try:
            await self.line.send(self.encode(frame))
        except Ended:
            await self.closed()  # the server's last words may be unread
            assert self.end is not None
            raise self.end from None

    def encode(self, frame: Any) -> bytes:
        """A payload of this transport."""
        return pack(frame) if self._packed else json.dumps(frame, default=str).encode()

    def decode(self, payload: bytes) -> dict[str, Any]:
        """What is in a payload."""
        frame: dict[str, Any]
        frame = msgspec.to_builtins(msgspec.msgpack.decode(payload)) if self._packed else json.loads(payload)
        return frame

    async def recv(self, timeout: float = 5.0) -> dict[str, Any]:
        """The next frame. Raises Ended, on every transport: a `closing` frame is the end."""
        async with asyncio.timeout(timeout):
            while (frame := await self._next()) is None:
                pass
        if frame["event"] not in UNCOUNTED:
            self.received += 1
        return frame

    async def _next(self) -> dict[str, Any] | None:
        """The next frame, or None for one that belongs to the connection itself."""
        if self.end is not None:
            raise self.end
        try:
            frame = self.decode(await self.line.receive())
            if frame["event"] == "closing":
                raise Ended(frame["data"]["code"], frame["data"]["reason"])
        except Ended as end:
            self.end = end
            raise
        if frame["event"] == "ping":
            if self._lively:
                await self.send("ping", id=SIGN_OF_LIFE)
            return None
        return None if frame.get("id") == SIGN_OF_LIFE else frame

    async def until(self, event: str, id: str | None = None, timeout: float = 5.0) -> dict[str, Any]:
        """The next frame of this event (and of this id); those before it are skipped."""
        async with asyncio.timeout(timeout):
            while True:
                frame = await self.recv(timeout)
                if frame["event"] == event and (id is None or frame.get("id") == id):
                    return frame

    async def ask(self, event: str, data: dict[str, Any] | None = None, id: str = "q") -> dict[str, Any]:
        """Sends a command and returns its `ack` or `error`."""
        await self.send(event, data, id)
        while True:
            frame = await self.recv()
            if frame.get("id") == id:
                return frame

    async def authenticate(self, token: str) -> dict[str, Any]:
        """Opens a session: `hello`, `authenticate`, `ready`. Returns the data of `ready`."""
        await self.until("hello")
        await self.send("authenticate", {"token": token})
        frame = await self.recv()
        assert frame["event"] == "ready", frame
        data: dict[str, Any] = frame["data"]
        return data

    async def say(self, chatroom_id: UUID, text: str, **more: Any) -> dict[str, Any]:
        """Sends a message and returns the answer."""
        return await self.ask("send_message", {"chatroom_id": str(chatroom_id), "content": text, **more})

    async def closed(self, timeout: float = 10.0) -> tuple[int, str]:
        """Waits for the close, after which nothing may come; its code and reason."""
        async with asyncio.timeout(timeout):
            with suppress(Ended):
                while True:
                    await self._next()
            assert self.end is not None
            assert await self.line.ended() == b""
        return self.end.code, self.end.reason

    async def goodbye(self) -> None:
        """Ends the session and the connection as the transport has it."""
        await self.line.close(self.encode({"event": "goodbye", "data": {}}))

    def cut(self) -> None:
        """Breaks the connection without a word."""
        self.line.abort()


@asynccontextmanager
async def socket_client(
    to: Server | str, transport: Transport | None = None, *, lively: bool = True, buffer: int | None = None, **more: Any
) -> AsyncIterator[SocketClient]:
    """A connection that has not said anything yet; at the end it says goodbye.

    A URL in place of the server is a WebSocket's, and `more` its options. A client
    that is not `lively` leaves the server's pings unanswered (on TCP, where that is its
    own affair). One with a small `buffer` makes the server wait until it reads.
    """
    transport = transport or ("ws-json" if isinstance(to, str) else to.transport)
    line = await _line(to, transport, buffer, more)
    client = SocketClient(line, packed=transport in PACKED, lively=lively)
    try:
        yield client
    finally:
        await client.goodbye()


async def _line(to: Server | str, transport: Transport, buffer: int | None, more: dict[str, Any]) -> Line:
    if isinstance(to, str):
        return await open_websocket(to, transport, b"", **more)
    key = await to.noise_key() if transport.endswith("noise") else b""
    over_tcp = transport.startswith("tcp")
    plain = await _connected(to.tcp_port if over_tcp else to.port, buffer)
    if over_tcp:
        return await open_tcp(plain, transport, key, buffer or 2**30, to.trust)
    if buffer is not None:
        more["max_queue"] = 1
    if to.trust is not None:
        more["ssl"] = to.trust
    return await open_websocket(to.ws, transport, key, sock=plain, **more)


async def _connected(port: int, buffer: int | None) -> socket.socket:
    plain = socket.socket()
    if buffer is not None:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    plain.setblocking(False)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        await asyncio.get_running_loop().sock_connect(plain, ("127.0.0.1", port))
    except BaseException:
        plain.close()
        raise
    return plain


async def on_all_transports(server: Server, case: Callable[[Server], Awaitable[None]]) -> None:
    """Runs a case over all transports at once: for those that mostly wait."""

    async def run(transport: Transport) -> None:
        try:
            await case(server.over(transport))
        except Exception as error:
            error.add_note(f"over {transport}")
            raise

    async with asyncio.TaskGroup() as group:
        for transport in TRANSPORTS:
            group.create_task(run(transport))
