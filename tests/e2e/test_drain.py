"""SIGTERM: nothing that was taken is lost, and clients are sent away one after the other."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from contextlib import AsyncExitStack
from itertools import cycle
from pathlib import Path
from uuid import UUID

import aiohttp

from tests.e2e.conftest import StartServer
from tests.e2e.lines import TRANSPORTS, Ended
from tests.e2e.server import Server
from tests.e2e.socket_client import SocketClient, socket_client

CLIENTS = 20
DRAIN = 1.0
DRAINING = 4200


class Sender:
    """Sends as fast as acks come, until the server closes the connection."""

    def __init__(self, client: SocketClient, room: UUID, name: str) -> None:
        self.client = client
        self._room = room
        self._name = name
        self.acked: list[str] = []
        self.closed_at = 0.0

    async def run(self) -> None:
        """Returns at the close."""
        try:
            while True:
                text = f"{self._name}-{len(self.acked)}"
                answer = await self.client.say(self._room, text)
                assert answer["event"] == "ack", answer
                self.acked.append(text)
        except Ended:
            self.closed_at = time.monotonic()


async def _watch_ready(server: Server, http: aiohttp.ClientSession) -> str:
    """What becomes of /health/ready, asked again and again on a connection that is kept: its first other answer."""
    while True:
        try:
            async with http.get(server.http + "/health/ready") as answer:
                if answer.status != 200:
                    return str(answer.status)
        except aiohttp.ClientError:
            return "refused"
        await asyncio.sleep(0.01)


async def test_drain_under_load(start_server: StartServer) -> None:
    """Not ready at once; every ack is true; sockets close as draining, one after the other; the process exits 0."""
    server = await start_server(PARLEY_DRAIN=str(DRAIN))
    people = await server.people(CLIENTS)
    room = await server.chatroom(people[0], *people[1:])
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(aiohttp.ClientSession())
        senders = []
        for number, (person, transport) in enumerate(zip(people, cycle(TRANSPORTS), strict=False)):
            client = await stack.enter_async_context(socket_client(server, transport))
            await client.authenticate(person.token)
            senders.append(Sender(client, room, str(number)))
        running = asyncio.gather(*(sender.run() for sender in senders))
        unready = asyncio.create_task(_watch_ready(server, http))
        await asyncio.sleep(0.5)
        assert server.process is not None
        server.process.send_signal(signal.SIGTERM)
        told = time.monotonic()
        async with asyncio.timeout(DRAIN / 2):
            assert await unready in ("503", "refused")
        async with asyncio.timeout(DRAIN + 5):
            await running
            assert await server.process.wait() == 0
    assert Counter(sender.client.close_code for sender in senders) == {DRAINING: CLIENTS}
    closes = sorted(sender.closed_at - told for sender in senders)
    assert closes[-1] - closes[0] > DRAIN / 2
    assert max(Counter(int(close / DRAIN * 4) for close in closes).values()) <= CLIENTS // 2
    await server.start()
    written = Counter(message["content"] for message in await server.history(people[0], room))
    acked = {text for sender in senders for text in sender.acked}
    assert acked - written.keys() == set()
    assert set(written.values()) == {1}
    assert "Traceback" not in server.logs()


async def test_what_was_taken_is_answered(start_server: StartServer) -> None:
    """A message that the server has committed was acked before the close: its sender need not wonder."""
    server = await start_server(PARLEY_DRAIN=str(DRAIN))
    people = await server.people(CLIENTS)
    room = await server.chatroom(people[0], *people[1:])
    async with AsyncExitStack() as stack:
        senders = []
        for number, (person, transport) in enumerate(zip(people, cycle(TRANSPORTS), strict=False)):
            client = await stack.enter_async_context(socket_client(server, transport))
            await client.authenticate(person.token)
            senders.append(Sender(client, room, str(number)))
        running = asyncio.gather(*(sender.run() for sender in senders))
        await asyncio.sleep(0.3)
        await server.stop()
        await running
    await server.start()
    written = {message["content"] for message in await server.history(people[0], room)}
    assert written == {text for sender in senders for text in sender.acked}


async def test_nobody_new(start_server: StartServer) -> None:
    """While it drains, the server takes no new connections, so that clients go elsewhere."""
    server = await start_server(PARLEY_DRAIN="3")
    people = await server.people(CLIENTS)
    async with AsyncExitStack() as stack:
        for person, transport in zip(people, cycle(TRANSPORTS), strict=False):
            client = await stack.enter_async_context(socket_client(server, transport))
            await client.authenticate(person.token)
        assert server.process is not None
        server.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(2.5):
            await asyncio.gather(*(_refused(port) for port in (server.port, server.tcp_port)))
        assert server.process.returncode is None
        await server.process.wait()


async def _refused(port: int) -> None:
    """Waits until nobody can connect to this port."""
    refused = False
    while not refused:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
        except ConnectionError as error:  # a reset is one that still waited to be taken
            refused = isinstance(error, ConnectionRefusedError)


async def test_its_own_postgres(start_server: StartServer, tmp_path: Path) -> None:
    """A Parley that runs its own PostgreSQL stops it too, and finds everything at the next start."""
    server = await start_server(DATABASE_URL="")
    (ann,) = await server.people(1)
    room = await server.chatroom(ann)
    async with socket_client(server.ws) as client:
        await client.authenticate(ann.token)
        await client.say(room, "kept")
        pid_file = tmp_path / "data" / "postgres" / "postmaster.pid"
        assert pid_file.exists()
        await server.stop()
        assert (await client.closed())[0] == DRAINING
    assert server.process is not None
    assert server.process.returncode == 0
    assert not pid_file.exists()
    await server.start()
    assert [message["content"] for message in await server.history(ann, room)] == ["kept"]
