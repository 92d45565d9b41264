"""A client that does not read costs only itself."""

from __future__ import annotations

import asyncio
import re
import socket
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from uuid import UUID

import pytest

from tests.e2e.conftest import StartServer
from tests.e2e.lines import TRANSPORTS
from tests.e2e.raw import RawSocket, head, text
from tests.e2e.server import Person, Server
from tests.e2e.socket_client import SocketClient, socket_client

SIZE = 16_000
"""Bytes of a message's text."""
FLOOD = 13_000
"""Messages of SIZE: 208 MB."""
ASKED = 50
"""Pages that each of those who do not read asks for: 16 MB."""
WINDOW = 24
"""Messages under way at once."""
MEBIBYTE = 2**20
SLOW = (4101, "the client does not read")


def memory(server: Server) -> int:
    """The server's own memory in bytes: what it shares with others counts in part."""
    rollup = Path(f"/proc/{server.pid}/smaps_rollup").read_text()
    found = re.search(r"^Pss:\s+(\d+) kB", rollup, re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


@asynccontextmanager
async def watch_memory(server: Server) -> AsyncIterator[list[int]]:
    """Looks at the server's memory twenty times a second."""
    looks: list[int] = []

    async def watch() -> None:
        while True:
            looks.append(memory(server))
            await asyncio.sleep(0.05)

    task = asyncio.create_task(watch())
    try:
        yield looks
    finally:
        task.cancel()


async def flood(client: SocketClient, room: UUID, count: int) -> list[float]:
    """Sends messages, WINDOW under way at once; the seconds that each took to come back as an event."""
    sent: dict[int, float] = {}
    took: list[float] = []
    filling = "x" * SIZE
    own = re.compile(r'"content":"(\d+) ')
    number = 0
    while len(took) < count:
        while number < count and number - len(took) < WINDOW:
            sent[number] = time.monotonic()
            frame = f'{{"event":"send_message","data":{{"chatroom_id":"{room}","content":"{number} {filling}"}}}}'
            await client.ws.send(frame)
            number += 1
        async with asyncio.timeout(30):
            heard = await client.ws.recv()
        assert isinstance(heard, str)
        if heard.startswith('{"event":"message_received"') and (found := own.search(heard)) is not None:
            took.append(time.monotonic() - sent.pop(int(found[1])))
    return took


def p99(took: list[float]) -> float:
    """The 99th percentile."""
    return statistics.quantiles(took, n=100)[98]


@asynccontextmanager
async def deaf_client(server: Server, person: Person) -> AsyncIterator[RawSocket]:
    """A session whose client reads nothing after `ready`, with the smallest buffers there are."""
    plain = socket.socket()
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    plain.setblocking(False)
    await asyncio.get_running_loop().sock_connect(plain, ("127.0.0.1", server.port))
    reader, writer = await asyncio.open_connection(
        sock=plain, limit=4_096, ssl=server.trust, server_hostname="127.0.0.1" if server.trust else None
    )
    raw = RawSocket(reader, writer)
    raw.send(head())
    await raw.response()
    raw.send(text("authenticate", {"token": person.token}))
    assert (await raw.event())["event"] == "hello"
    assert (await raw.event())["event"] == "ready"
    try:
        yield raw
    finally:
        writer.transport.abort()


@asynccontextmanager
async def deaf_clients(server: Server, person: Person) -> AsyncIterator[list[SocketClient]]:
    """One on each transport."""
    async with AsyncExitStack() as stack:
        clients = []
        for transport in TRANSPORTS:
            client = await stack.enter_async_context(socket_client(server, transport, buffer=4_096))
            await client.authenticate(person.token)
            clients.append(client)
        yield clients
        for client in clients:
            client.cut()


@pytest.mark.alone
async def test_a_client_that_never_reads(start_server: StartServer) -> None:
    """While 208 MB go to its room the server's memory stays flat and the others are served as before.

    When it begins to read it has what was sent before it lagged, is told where the room stands, and
    catches up. There is one on each transport; each may hold what an outbox, a replay buffer and
    the system's sockets take.
    """
    server = await start_server(PARLEY_SLOW_CONSUMER="300")
    ann, bob = await server.people(2)
    room = await server.chatroom(ann, bob)
    async with socket_client(server) as client:
        await client.authenticate(ann.token)
        async with watch_memory(server) as before:
            fresh = p99(await flood(client, room, FLOOD // 5))
        async with deaf_clients(server, bob) as deaf:
            async with watch_memory(server) as during:
                slowed = p99(await flood(client, room, FLOOD))
            assert max(during) - max(before) < 3 * MEBIBYTE * len(deaf)
            for number, slow in enumerate(deaf):
                await catch_up(slow, client, room, FLOOD // 5 + FLOOD + 1 + number)
        # The database itself is slower after so much, so what is usual is measured before and after.
        usual = max(fresh, p99(await flood(client, room, FLOOD // 5)))
        assert slowed < 2 * usual
    assert "Traceback" not in server.logs()


async def catch_up(slow: SocketClient, other: SocketClient, room: UUID, head_seq: int) -> None:
    """Reads what there is, syncs, and is live again."""
    first = expected = FLOOD // 5 + 2
    while (frame := await slow.recv())["event"] == "message_received":
        assert frame["seq"] == expected
        expected += 1
    assert first < expected < head_seq
    assert frame["event"] == "lagging"
    assert frame["data"]["chatrooms"].keys() == {str(room)}
    await slow.send("sync", {"chatrooms": {str(room): expected - 1}})
    synced = await slow.until("synced")
    assert synced["data"]["chatrooms"][str(room)] == {"from": expected - 1, "to": head_seq, "verdict": "too_long"}
    await slow.send("sync", {"chatrooms": {str(room): head_seq - 3}})
    assert [(await slow.recv())["seq"] for _ in range(3)] == [head_seq - 2, head_seq - 1, head_seq]
    assert (await slow.recv())["event"] == "synced"
    await other.say(room, "live again")
    assert (await slow.recv())["seq"] == head_seq + 1


async def closed_as_slow(server: Server) -> int:
    """How many slow readers the server has closed."""
    _, answer = await metrics(server)
    found = re.search(r'^parley_closes_total\{reason="slow_consumer"\} (\d+)', answer, re.MULTILINE)
    return int(found[1]) if found else 0


async def metrics(server: Server) -> tuple[int, str]:
    """What /metrics says."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port, ssl=server.trust)
    writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    answer = (await reader.read(-1)).decode()
    writer.close()
    return int(answer.split()[1]), answer


async def test_a_client_that_stays_stuck(start_server: StartServer) -> None:
    """Who does not drain in time is closed as `slow_consumer`; the others are served."""
    server = await start_server(PARLEY_SLOW_CONSUMER="1")
    ann, bob = await server.people(2)
    room = await server.chatroom(ann, bob)
    async with socket_client(server) as client, deaf_clients(server, bob) as deaf:
        await client.authenticate(ann.token)
        await flood(client, room, 1_500)
        async with asyncio.timeout(10):
            while await closed_as_slow(server) < len(deaf):
                await asyncio.sleep(0.05)
        assert await asyncio.gather(*(slow.closed() for slow in deaf)) == [SLOW] * len(deaf)
        assert (await client.say(room, "served"))["event"] == "ack"


async def test_answers_are_never_dropped(start_server: StartServer) -> None:
    """A client that asks and does not read is not read from; what it had asked is answered once it reads again."""
    server = await start_server()
    ann = await server.person()
    room = await server.chatroom(ann)
    async with socket_client(server) as client:
        await client.authenticate(ann.token)
        await flood(client, room, 100)
    async with deaf_clients(server, ann) as deaf:
        before = memory(server)
        for n in range(ASKED):
            for slow in deaf:
                await slow.send("fetch_messages", {"chatroom_id": str(room), "limit": 20}, id=str(n))
        await asyncio.sleep(2)
        assert memory(server) - before < 3 * MEBIBYTE * len(deaf)
        for slow in deaf:
            answers = [await slow.recv() for _ in range(ASKED)]
            assert [answer["id"] for answer in answers] == [str(n) for n in range(ASKED)]
            assert all(len(answer["data"]["messages"]) == 20 for answer in answers)
