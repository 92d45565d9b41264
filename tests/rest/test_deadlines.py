"""Clients that take their time: every part of an exchange has a total deadline."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import cast

import msgspec

from protocol import commands as c
from protocol.events import MessagesFetched
from protocol.models import Account
from tests.rest.conftest import Serve, Server
from tests.rest.stand_in import ACCOUNT, MESSAGE, PAGE

GET = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST /chatrooms HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ada-token\r\nContent-Length: 15\r\n\r\n"


async def trickle(writer: asyncio.StreamWriter, data: bytes, pause: float = 0.05) -> None:
    """Sends one byte at a time, until the other side has had enough."""
    for byte in data:
        writer.write(bytes([byte]))
        try:
            await writer.drain()
        except ConnectionError:
            return
        await asyncio.sleep(pause)


async def read_answer(reader: asyncio.StreamReader) -> bytes:
    """One answer with a length."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    return head + await reader.readexactly(length)


async def cut_after(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: bytes) -> float:
    """Seconds until the connection ends while `data` trickles in."""
    began = time.monotonic()
    sender = asyncio.create_task(trickle(writer, data))
    try:
        await reader.read()
    except ConnectionError:
        pass
    finally:
        sender.cancel()
    return time.monotonic() - began


async def test_a_head_a_byte_at_a_time_is_cut(serve: Serve) -> None:
    """The first head has its deadline in all, however steadily its bytes come."""
    server = await serve(header_deadline=0.3)
    async with server.raw() as (reader, writer):
        assert 0.2 < await cut_after(reader, writer, b"GET / HTTP/1.1\r\nX: " + b"x" * 500) < 1.0


async def test_silence_is_cut(serve: Serve) -> None:
    """So has a connection that says nothing at all."""
    server = await serve(header_deadline=0.3)
    async with server.raw() as (reader, writer):
        assert 0.2 < await cut_after(reader, writer, b"") < 1.0


async def test_a_later_head_a_byte_at_a_time_is_cut(serve: Serve) -> None:
    """Every head after the first has the deadline too, from its own first byte."""
    server = await serve(header_deadline=0.3, keep_alive=60)
    async with server.raw() as (reader, writer):
        for _ in range(2):
            writer.write(GET)
            assert b" 200 OK" in await read_answer(reader)
            await asyncio.sleep(0.2)
        writer.write(GET[:20])
        await asyncio.sleep(0.1)
        writer.write(GET[20:])
        assert b" 200 OK" in await read_answer(reader)
        assert 0.2 < await cut_after(reader, writer, b"GET / HTTP/1.1\r\nX: " + b"x" * 500) < 1.0


async def test_a_head_begun_behind_a_request_is_cut(serve: Serve) -> None:
    """Half a head that was sent along with a whole request does not wait for ever."""
    server = await serve(header_deadline=0.3, keep_alive=60)
    async with server.raw() as (reader, writer):
        writer.write(GET + b"GET / HT")
        await read_answer(reader)
        assert 0.2 < await cut_after(reader, writer, b"TP/1.1\r\nX: " + b"x" * 500) < 1.0


async def test_half_a_head_and_then_silence_is_cut(serve: Serve) -> None:
    """The deadline runs for every head anew, also when the one before was quick, and needs no further byte to end."""
    server = await serve(header_deadline=0.3, keep_alive=60)
    async with server.raw() as (reader, writer):
        writer.write(GET)
        await read_answer(reader)
        writer.write(GET[:20])
        assert await asyncio.wait_for(reader.read(), 2) == b""


async def test_idle_connections_outlive_the_head_deadline(serve: Serve) -> None:
    """Between requests a connection may be silent for the time of keep-alive, and no longer."""
    server = await serve(header_deadline=0.2, keep_alive=0.8)
    async with server.raw() as (reader, writer):
        writer.write(GET)
        await read_answer(reader)
        await asyncio.sleep(0.5)
        writer.write(GET)
        assert b" 200 OK" in await read_answer(reader)
        assert 0.6 < await cut_after(reader, writer, b"") < 2.5


async def test_a_body_a_byte_at_a_time_is_cut(serve: Serve) -> None:
    """It is answered 408 after its deadline in all, and the connection ends."""
    server = await serve(body_deadline=0.3)
    async with server.raw() as (reader, writer):
        writer.write(POST)
        sender = asyncio.create_task(trickle(writer, b" " * 14))
        began = time.monotonic()
        answer = await read_answer(reader)
        assert 0.2 < time.monotonic() - began < 5
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"REQUEST_TIMEOUT" in answer
        assert b"Connection: close" in answer
        await sender
        assert await asyncio.wait_for(reader.read(), 3) == b""
    assert server.chat.asked == []


async def test_a_slow_body_within_its_deadline_is_taken(serve: Serve) -> None:
    """The deadline of the head does not run on into the body."""
    server = await serve(header_deadline=0.3, body_deadline=5.0)
    async with server.raw() as (reader, writer):
        writer.write(POST)
        await trickle(writer, b'{"name": "Tea"}')
        assert (await read_answer(reader)).startswith(b"HTTP/1.1 201 ")


async def test_an_answer_that_nobody_reads_is_dropped(serve: Serve) -> None:
    """A client that asks for much and reads nothing is cut off, and its answer with it."""
    server = await serve(body_deadline=0.3)
    big = msgspec.structs.replace(MESSAGE, content="x" * 16_000_000)
    server.chat.on[c.FetchMessages] = lambda _: MessagesFetched(messages=(big,), pagination=PAGE)
    async with server.raw() as (reader, writer):
        room = str(MESSAGE.chatroom_id).encode()
        writer.write(
            b"GET /chatrooms/" + room + b"/messages HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ada-token\r\n\r\n"
        )
        await asyncio.sleep(0.8)
        received = 0
        try:
            while chunk := await reader.read(1_000_000):
                received += len(chunk)
        except ConnectionError:
            pass
        assert 100_000 < received < 16_000_000
    assert (await server.ask("GET", "/users/me")).status == 200


class Door(asyncio.Protocol):
    """Looks at the first bytes of a connection, then hands it over."""

    def __init__(self, factory: Callable[[], asyncio.Protocol]) -> None:
        self._factory = factory

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keeps the transport."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Gives everything to the protocol behind the door."""
        protocol = self._factory()
        protocol.connection_made(self._transport)
        protocol.data_received(data)
        self._transport.set_protocol(protocol)


async def test_a_connection_handed_over_by_a_front_door(server: Server) -> None:
    """A protocol that is given a transport, and the bytes read so far, goes on from there."""
    listener = await asyncio.get_running_loop().create_server(lambda: Door(server.factory), "127.0.0.1", 0)
    async with listener:
        reader, writer = await asyncio.open_connection(*listener.sockets[0].getsockname())
        for _ in range(2):
            writer.write(GET)
            assert b" 200 OK" in await read_answer(reader)
        writer.close()


async def test_stopping_lets_a_request_finish(serve: Serve) -> None:
    """A request that is under way gets its answer, an idle connection ends, and no request is taken after."""
    server = await serve()
    under_way = asyncio.Event()
    go_on = asyncio.Event()

    async def slowly(_: c.Command) -> Account:
        under_way.set()
        await go_on.wait()
        return ACCOUNT

    server.chat.slowly[c.GetAccount] = slowly
    async with server.raw() as (idle, _), server.raw() as (reader, writer):
        writer.write(b"GET /users/me HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ada-token\r\n\r\n")
        await under_way.wait()
        stopping = asyncio.create_task(server.factory.stop(5))
        assert await idle.read() == b""
        go_on.set()
        assert b" 200 OK" in await read_answer(reader)
        assert await reader.read() == b""
        await stopping
