"""A node stops while others go on: its clients move over, and nobody notices."""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Literal
from uuid import UUID

import aiohttp

from gateway.client import Client, connect
from tests.e2e.server import Server
from tests.e2e.socket_client import on_all_transports, socket_client
from tests.ports import free_port
from tests.valkey import Valkey

DRAINING = (4200, "the server is stopping")
APART = 0.05
"""Seconds between two messages of a client: with six of them, about 100 a second."""


@asynccontextmanager
async def pair(
    database_url: str, tmp_path: Path, valkey: Valkey, **settings: str
) -> AsyncIterator[tuple[Server, Server]]:
    """Two nodes that share a database, keys and a Valkey. They know of each other."""
    async with AsyncExitStack() as stack:
        nodes = []
        for number in range(2):
            directory = tmp_path / f"node-{number}"
            directory.mkdir()
            own = {"REDIS_URL": valkey.url, "PARLEY_DATA": str(tmp_path / "data"), **settings}
            node = Server(directory, database_url, own)
            await node.start()
            stack.push_async_callback(node.stop)
            nodes.append(node)
        async with asyncio.timeout(30):
            while [await metrics(node, "parley_nodes") for node in nodes] != [{"": 1}] * 2:
                await asyncio.sleep(0.05)
        yield nodes[0], nodes[1]
    assert not any("Traceback" in node.logs() for node in nodes)


async def metrics(node: Server, name: str) -> dict[str, float]:
    """What /metrics has under this name, by its labels."""
    async with aiohttp.ClientSession() as http, http.get(node.http + "/metrics") as answer:
        return {m[1]: float(m[2]) for m in re.finditer(rf"^{name}(\S*) (\S+)$", await answer.text(), re.MULTILINE)}


@asynccontextmanager
async def balancer(*ports: int) -> AsyncIterator[int]:
    """A port that leads to the first of these that takes a connection."""

    async def lead(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for port in ports:
            with contextlib.suppress(ConnectionError):
                there, back = await asyncio.open_connection("127.0.0.1", port)
                await asyncio.gather(_pump(reader, back), _pump(there, writer))
                return
        writer.transport.abort()

    server = await asyncio.start_server(lead, "127.0.0.1", free_port())
    async with server:
        yield server.sockets[0].getsockname()[1]


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await source.read(65_536):
            sink.write(data)
            await sink.drain()
    sink.close()


class Talker:
    """Writes and listens at once, until it is told to stop."""

    def __init__(self, client: Client, room: UUID, name: str) -> None:
        self.client = client
        self.session = client.session_id
        self.acked: list[str] = []
        self.heard: list[tuple[str, int | None]] = []
        self._room = room
        self._name = name

    async def write(self, stop: asyncio.Event) -> None:
        """Message after message."""
        while not stop.is_set():
            text = f"{self._name}-{len(self.acked)}"
            await self.client.send_message(self._room, text)
            self.acked.append(text)
            await asyncio.sleep(APART)

    async def listen(self, head: asyncio.Future[int]) -> None:
        """Everything up to the last event there is."""
        async for event in self.client:
            if event.chatroom_id == self._room:
                self.heard.append((event.event, event.seq))
            if head.done() and (event.seq or 0) >= head.result():
                return


Way = tuple[str, Literal["json", "msgpack"]]


async def test_a_node_stops_under_load(database_url: str, tmp_path: Path, valkey: Valkey) -> None:
    """Every client resumes on the other node, over any transport; nothing is lost or repeated, and the node ends."""
    async with AsyncExitStack() as stack:
        settings = {"PARLEY_DRAIN": "60", "PARLEY_RECONNECT_RATE": "20"}
        here, there = await stack.enter_async_context(pair(database_url, tmp_path, valkey, **settings))
        http = await stack.enter_async_context(balancer(here.port, there.port))
        tcp = await stack.enter_async_context(balancer(here.tcp_port, there.tcp_port))
        ways: list[Way] = [
            (f"ws://127.0.0.1:{http}/ws", "json"),
            (f"ws://127.0.0.1:{http}/ws", "msgpack"),
            (f"ws://127.0.0.1:{http}/ws?key=discover", "json"),
            (f"parley+clear://127.0.0.1:{tcp}", "json"),
            (f"parley+clear://127.0.0.1:{tcp}", "msgpack"),
            (f"parley://127.0.0.1:{tcp}?discover=http://127.0.0.1:{http}", "msgpack"),
            (there.ws, "json"),  # has been on the other node from the beginning
        ]
        people = await here.people(len(ways))
        room = await here.chatroom(people[0], *people[1:])
        talkers = [
            Talker(await stack.enter_async_context(connect(url, person.token, codec=codec)), room, str(number))
            for number, (person, (url, codec)) in enumerate(zip(people, ways, strict=True))
        ]
        stop, head = asyncio.Event(), asyncio.get_running_loop().create_future()
        listening = asyncio.gather(*(talker.listen(head) for talker in talkers))
        writing = asyncio.gather(*(talker.write(stop) for talker in talkers))
        await asyncio.sleep(0.5)
        assert here.process is not None
        here.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(30):  # of the 120 s that it may take
            assert await here.process.wait() == 0
        await asyncio.sleep(0.5)
        stop.set()
        await writing
        written = await there.history(people[0], room)
        head.set_result(written[-1]["seq"])
        async with asyncio.timeout(20):
            last = await talkers[0].client.send_message(room, "the last")
            await listening
        acked = [text for talker in talkers for text in talker.acked]
        assert Counter(message["content"] for message in written) == Counter(acked)
        assert await metrics(there, "parley_resumes_total") == {'{verdict="resumed"}': len(ways) - 1}
        for talker in talkers:
            events = [event for event in talker.heard if event[1] is None or event[1] < last.message.seq]
            assert events == [("message_received", seq) for seq in range(2, last.message.seq)]
            assert talker.client.session_id == talker.session


async def test_who_does_not_follow(database_url: str, tmp_path: Path, valkey: Valkey) -> None:
    """A client that ignores `migrate` is served, closed as draining after the overlap, and resumes elsewhere then."""
    async with pair(database_url, tmp_path, valkey, PARLEY_DRAIN="3") as (here, there):
        people = await here.people(2)
        room = await here.chatroom(people[0], people[1])
        loop = asyncio.get_running_loop()
        begun = 0.0

        async def stays(server: Server) -> None:
            async with socket_client(server) as client:
                ready = await client.authenticate(people[0].token)
                waiting.release()
                told = (await client.until("migrate", timeout=30))["data"]
                assert told == {"after_ms": told["after_ms"], "resume_token": ready["resume_token"], "overlap_ms": 3000}
                assert (await client.say(room, f"still here {server.transport}"))["event"] == "ack"
                assert await client.closed(timeout=30) == DRAINING
                assert loop.time() - begun >= 3.0
                async with socket_client(there, server.transport) as next_client:
                    await next_client.until("hello")
                    which = {"session_id": ready["session_id"], "resume_token": ready["resume_token"]}
                    await next_client.send("resume", {**which, "received": client.received})
                    assert (await next_client.recv())["event"] == "resumed"
                    assert (await next_client.say(room, f"there {server.transport}"))["event"] == "ack"

        waiting = asyncio.Semaphore(0)
        staying = asyncio.create_task(on_all_transports(here, stays))
        for _ in range(6):
            await waiting.acquire()
        begun = loop.time()
        assert here.process is not None
        here.process.send_signal(signal.SIGTERM)
        await staying
        async with asyncio.timeout(30):
            assert await here.process.wait() == 0
