"""Those who announce much and send it a byte at a time hold neither memory nor a place, and nobody waits for them."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import chain, repeat
from uuid import UUID

import pytest

from tests.e2e.conftest import StartServer
from tests.e2e.lines import LOST, TRANSPORTS, TcpLine, Transport
from tests.e2e.server import Person, Server
from tests.e2e.socket_client import SocketClient, socket_client
from tests.e2e.test_slow_reader import memory, p99, watch_memory

OF_EACH = 100
"""Slow connections of each of the five kinds."""
DEADLINE = 3.0
"""Seconds that a frame may take."""
LARGEST = (65_536).to_bytes(4, "big")
LARGEST_NOISE = (65_535).to_bytes(4, "big")
MEBIBYTE = 2**20
FRAME_TIMEOUT = 4104

End = tuple[float, int]
"""After how many seconds a connection was ended, and by which code."""


async def drip(write: Callable[[bytes], None], first: bytes, ended: Awaitable[int], rest: bytes = b"") -> int:
    """Sends bytes at once, and then one a second, until the server has had enough; the code it ends with."""
    ending = asyncio.ensure_future(ended)
    for piece in chain([first], map(int.to_bytes, rest), repeat(b"x")):
        write(piece)
        if (await asyncio.wait([ending], timeout=1))[0]:
            break
    return ending.result()


async def slow_stranger(server: Server, first: bytes, rest: bytes = b"") -> End:
    """A connection that stops in its preface, or in its handshake. It hears nothing."""
    started = time.monotonic()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.tcp_port)

    async def ended() -> int:
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
        return LOST

    try:
        code = await drip(writer.write, first, ended(), rest)
        return time.monotonic() - started, code
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def slow_client(client: SocketClient, announced: bytes) -> End:
    """A frame, or a Noise message, that never comes to its end."""
    line = client.line
    assert isinstance(line, TcpLine)

    async def ended() -> int:
        return (await client.closed(30))[0]

    started = time.monotonic()
    code = await drip(line.write, announced, ended())
    return time.monotonic() - started, code


@asynccontextmanager
async def clients(server: Server, transport: Transport, person: Person | None) -> AsyncIterator[list[SocketClient]]:
    """So many, signed in where a person is given."""
    async with AsyncExitStack() as stack:
        opened = []
        for _ in range(OF_EACH):
            client = await stack.enter_async_context(socket_client(server, transport))
            await (client.authenticate(person.token) if person else client.until("hello"))
            opened.append(client)
        yield opened


class Healthy:
    """Someone on each transport, sending one message after the other; `took` are the seconds to each ack."""

    def __init__(self) -> None:
        self.took: list[float] = []

    @asynccontextmanager
    async def talking(self, server: Server, person: Person, room: UUID) -> AsyncIterator[None]:
        """For as long as the context is open."""
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._talk(server, transport, person, room)) for transport in TRANSPORTS]
            yield
            for task in tasks:
                task.cancel()

    async def _talk(self, server: Server, transport: Transport, person: Person, room: UUID) -> None:
        async with socket_client(server, transport) as client:
            await client.authenticate(person.token)
            while True:
                started = time.monotonic()
                assert (await client.say(room, "x"))["event"] == "ack"
                self.took.append(time.monotonic() - started)
                await asyncio.sleep(0.01)


@pytest.mark.alone
async def test_five_hundred_who_send_a_byte_a_second(start_server: StartServer) -> None:
    """They are cut at the deadline; 32 MB announced take no 8 MB; the others' acks come within 100 ms (p99).

    A fifth stops in the preface, a fifth in the handshake of Noise, and the others in a frame of the
    largest size: before they say who they are, in an open session, and in a session under Noise.
    """
    server = await start_server(PARLEY_FRAME_DEADLINE=str(DEADLINE), PARLEY_AUTH_DEADLINE="60")
    ann, eve = await server.people(2)
    room = await server.chatroom(ann)
    healthy = Healthy()
    async with (
        clients(server, "tcp-json", None) as strangers,
        clients(server, "tcp-json", eve) as open_ones,
        clients(server, "tcp-noise", eve) as sealed,
        healthy.talking(server, ann, room),
        watch_memory(server) as looks,
    ):
        before = memory(server)
        ends = await asyncio.gather(
            *(slow_stranger(server, b"P", b"LY1") for _ in range(OF_EACH)),
            *(slow_stranger(server, b"PLY1\x02" + LARGEST_NOISE) for _ in range(OF_EACH)),
            *(slow_client(client, LARGEST) for client in strangers + open_ones),
            *(slow_client(client, LARGEST_NOISE) for client in sealed),
        )
    assert [code for _, code in ends] == [LOST] * 2 * OF_EACH + [FRAME_TIMEOUT] * 3 * OF_EACH
    assert all(DEADLINE - 0.1 < seconds < 2 * DEADLINE for seconds, _ in ends), sorted(ends)
    assert max(looks) - before < 8 * MEBIBYTE
    assert p99(healthy.took) < 0.1
    assert "Traceback" not in server.logs()
