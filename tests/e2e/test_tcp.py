"""The framed TCP port by hand: what no proper client sends, and what only this transport has."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from protocol.framing import Preface, frame
from tests.e2e.conftest import StartServer
from tests.e2e.server import Person, Server

CLEAR = bytes(Preface())


@pytest.fixture
def server(common_server: Server) -> Server:
    """The common server; every test here makes rooms of its own."""
    return common_server


class TcpSocket:
    """Bytes out, frames in."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, event: str, data: dict[str, Any] | None = None) -> None:
        """A command in JSON."""
        self.writer.write(frame(json.dumps({"event": event, "data": data or {}}).encode()))

    async def event(self) -> dict[str, Any]:
        """The next frame, which is JSON."""
        async with asyncio.timeout(10):
            length = int.from_bytes(await self.reader.readexactly(4), "big")
            event: dict[str, Any] = json.loads(await self.reader.readexactly(length))
            return event

    async def until(self, name: str) -> dict[str, Any]:
        """The data of the next frame of this event."""
        while (event := await self.event())["event"] != name:
            pass
        data: dict[str, Any] = event["data"]
        return data

    async def rest(self, seconds: float = 10) -> bytes:
        """What comes until the server ends the connection."""
        async with asyncio.timeout(seconds):
            with suppress(ConnectionError):
                return await self.reader.read()
        return b""


@asynccontextmanager
async def tcp_socket(server: Server, opening: bytes = b"") -> AsyncIterator[TcpSocket]:
    """A connection that begins with these bytes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.tcp_port)
    try:
        writer.write(opening)
        yield TcpSocket(reader, writer)
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def drip(socket: TcpSocket, data: bytes) -> None:
    """One byte after the other."""
    for byte in data:
        socket.writer.write(bytes((byte,)))
        await asyncio.sleep(0.1)


async def signed_in(socket: TcpSocket, person: Person) -> dict[str, Any]:
    """Opens a session; the data of `ready`."""
    await socket.until("hello")
    socket.send("authenticate", {"token": person.token})
    return await socket.until("ready")


async def test_a_goodbye_ends_the_session(server: Server, crowd: list[Person]) -> None:
    """Who says goodbye is answered by the end of the stream, and can't resume; who is cut can."""
    async with tcp_socket(server, CLEAR) as first, tcp_socket(server, CLEAR) as second:
        ready = [await signed_in(socket, crowd[0]) for socket in (first, second)]
        first.send("goodbye")
        assert await first.rest() == b""
        second.writer.transport.abort()
    verdicts = []
    for session in ready:
        async with tcp_socket(server, CLEAR) as again:
            await again.until("hello")
            resume = {"session_id": session["session_id"], "resume_token": session["resume_token"], "received": 0}
            again.send("resume", resume)
            verdicts.append((await again.event())["event"])
    assert verdicts == ["session_reset", "resumed"]


@pytest.mark.parametrize(
    "opening", [b"PLY1\x08", b"PLY2\x00", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00", b"PLY1\x04"]
)
async def test_other_prefaces(server: Server, opening: bytes) -> None:
    """Who speaks something else is told so, in JSON, and not to come back unchanged."""
    async with tcp_socket(server, opening) as socket:
        assert (await socket.event())["data"]["code"] == 4002
        assert await socket.rest() == b""


async def test_a_frame_too_large(server: Server) -> None:
    """It is refused at its length: the `closing` frame says why, then the stream ends."""
    async with tcp_socket(server, CLEAR) as socket:
        await socket.until("hello")
        socket.writer.write((65_537).to_bytes(4, "big"))
        closing = await socket.until("closing")
        assert (closing["code"], closing["reason"]) == (4000, "a frame may have 65536 bytes")
        assert await socket.rest() == b""


async def test_no_frame_is_lost_before_a_bad_one(server: Server, crowd: list[Person]) -> None:
    """What came whole in front of it is taken and answered."""
    async with tcp_socket(server, CLEAR) as socket:
        await signed_in(socket, crowd[0])
        ping = frame(json.dumps({"event": "ping", "id": "last"}).encode())
        socket.writer.write(ping + b"\xff\xff\xff\xff")
        assert (await socket.event())["id"] == "last"
        assert (await socket.until("closing"))["code"] == 4000


async def test_silence_is_told_apart_from_life(start_server: StartServer) -> None:
    """The server asks by a `ping` frame; who answers stays, who does not is closed with `no_pong`."""
    server = await start_server(PARLEY_HEARTBEAT_INTERVAL="0.5", PARLEY_HEARTBEAT_TIMEOUT="0.5")
    person = await server.person()
    async with tcp_socket(server, CLEAR) as alive, tcp_socket(server, CLEAR) as silent:
        for socket in (alive, silent):
            await signed_in(socket, person)

        async def answer() -> None:
            for _ in range(4):
                await alive.until("ping")
                alive.send("ping")

        answering = asyncio.create_task(answer())
        assert (await silent.until("closing"))["code"] == 4201
        await answering


async def test_everything_has_a_total_deadline(start_server: StartServer) -> None:
    """A preface, a handshake or a frame that comes byte by byte is cut, however lively the bytes."""
    server = await start_server(PARLEY_FRAME_DEADLINE="1")
    person = await server.person()

    async def trickle(opening: bytes, data: bytes, *, after_ready: bool = False) -> bytes:
        async with tcp_socket(server, opening) as socket:
            if after_ready:
                await signed_in(socket, person)
            dripping = asyncio.create_task(drip(socket, data))
            said = await socket.rest()
            dripping.cancel()
            return said

    preface, handshake, large = await asyncio.gather(
        trickle(b"", b"PLY1"),
        trickle(bytes(Preface(noise=True)), frame(bytes(1_000))),
        trickle(CLEAR, frame(bytes(60_000)), after_ready=True),
    )
    assert (preface, handshake) == (b"", b"")
    assert json.loads(large[4:])["data"] == {"code": 4104, "reason": "a frame took too long"}


async def test_not_clear_where_it_is_forbidden(start_server: StartServer) -> None:
    """With PARLEY_TCP_CLEAR=no, as off loopback, a clear preface is told so and Noise goes on working."""
    server = await start_server(PARLEY_TCP_CLEAR="no")
    async with tcp_socket(server, CLEAR) as socket:
        assert (await socket.until("closing"))["code"] == 4003
    assert (await server.call("GET", "/.well-known/parley"))[1]["tcp"]["clear"] is False
