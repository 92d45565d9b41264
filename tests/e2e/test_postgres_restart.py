"""PostgreSQL restarts under load: clients notice it by typed errors alone, and everything heals by itself."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from itertools import cycle, product
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from storage.embedded import EmbeddedPostgres
from tests.e2e.conftest import StartServer
from tests.e2e.lines import TRANSPORTS
from tests.e2e.server import Server
from tests.e2e.socket_client import SocketClient, socket_client

SENDERS = 10
HEALED = 5.0
"""Seconds from the moment that the database is back to the first ack, and to the last event that was missing."""


class Postgres:
    """A PostgreSQL server of this test's own, to be shut down as an operator, or a crash, would."""

    def __init__(self, directory: Path) -> None:
        self._server = EmbeddedPostgres(directory)
        self._pid_file = directory / "postgres" / "postmaster.pid"

    async def start(self) -> str:
        """Starts it and returns its URL."""
        return await asyncio.to_thread(self._server.start)

    async def stop(self) -> None:
        """Stops it at the end of the test."""
        await asyncio.to_thread(self._server.stop)

    async def shut_down(self, how: signal.Signals) -> None:
        """SIGINT is its fast shutdown, SIGQUIT its immediate one, which leaves the disk as a crash would."""
        os.kill(int(self._pid_file.read_text().split()[0]), how)
        async with asyncio.timeout(20):
            while self._pid_file.exists():
                await asyncio.sleep(0.01)


class Sender:
    """Someone who sends one message after the other and, told to come again, does so, on one and the same socket.

    It hears the chatroom, too: `seqs` are the events in the order they came.
    """

    def __init__(self, client: SocketClient, room: UUID, name: str) -> None:
        self._client = client
        self._room = room
        self._name = name
        self.seqs: list[int] = []
        self.acked: dict[str, int] = {}
        self.last_ack = 0.0
        self.refusals: list[dict[str, Any]] = []

    async def run(self, stop: asyncio.Event) -> None:
        """Sends until told to stop, and until the last message is acked."""
        count = 0
        while not stop.is_set():
            await self._send(f"{self._name}-{count}")
            count += 1

    async def _send(self, text: str) -> None:
        while text not in self.acked:
            command = {"chatroom_id": str(self._room), "content": text, "client_id": text}
            await self._client.send("send_message", command, text)
            answer = await self._until(lambda frame: frame.get("id") == text)
            if answer["event"] == "ack":
                self.acked[text] = answer["data"]["message"]["seq"]
                self.last_ack = time.monotonic()
            else:
                self.refusals.append(answer["data"])
                await asyncio.sleep(answer["data"]["retry_after"])

    async def hear(self, head: int) -> None:
        """Reads on until this event has come."""
        while self.seqs[-1] < head:
            await self._until(lambda frame: "seq" in frame)

    async def _until(self, wanted: Any) -> dict[str, Any]:
        while True:
            frame = await self._client.recv(20)
            assert frame["event"] in ("message_received", "ack", "error"), frame
            if "seq" in frame:
                self.seqs.append(frame["seq"])
            if wanted(frame):
                return frame


@pytest.fixture
async def postgres(tmp_path: Path) -> AsyncIterator[Postgres]:
    """One that is not running yet."""
    made = Postgres(tmp_path / "own")
    yield made
    await made.stop()


async def _restart(postgres: Postgres, how: signal.Signals, senders: list[Sender]) -> None:
    """Down for a second, up again; then an ack has to come in time."""
    await asyncio.sleep(0.7)
    await postgres.shut_down(how)
    await asyncio.sleep(1.0)
    await postgres.start()
    back = time.monotonic()
    async with asyncio.timeout(HEALED):
        while not all(sender.last_ack > back for sender in senders):
            await asyncio.sleep(0.02)


async def _finish(server: Server, stop: asyncio.Event, senders: list[Sender], running: Any, reader: Any) -> None:
    stop.set()
    await running
    room, person = reader
    history = await server.history(person, room)
    written = {message["content"]: message["seq"] for message in history}
    assert len(written) == len(history)
    acked = {text: seq for sender in senders for text, seq in sender.acked.items()}
    assert acked == written
    async with asyncio.timeout(HEALED):
        await asyncio.gather(*(sender.hear(history[-1]["seq"]) for sender in senders))
    everything = list(range(2, history[-1]["seq"] + 1))
    assert all(sender.seqs == everything for sender in senders)


async def test_restart_under_load(start_server: StartServer, postgres: Postgres) -> None:
    """Through a fast and a crash shutdown sockets stay, errors are typed, no ack is lost and no event is missed."""
    server = await start_server(DATABASE_URL=await postgres.start())
    people = await server.people(SENDERS)
    room = await server.chatroom(people[0], *people[1:])
    stop = asyncio.Event()
    async with AsyncExitStack() as stack:
        senders = []
        for number, (person, transport) in enumerate(zip(people, cycle(TRANSPORTS), strict=False)):
            client = await stack.enter_async_context(socket_client(server, transport))
            await client.authenticate(person.token)
            senders.append(Sender(client, room, str(number)))
        running = asyncio.gather(*(sender.run(stop) for sender in senders))
        for how in (signal.SIGINT, signal.SIGQUIT):
            for sender in senders:
                sender.refusals.clear()
            await _restart(postgres, how, senders)
            refusals = [refusal for sender in senders for refusal in sender.refusals]
            assert {refusal["code"] for refusal in refusals} == {"SERVICE_UNAVAILABLE"}
            assert all(0 < refusal["retry_after"] <= HEALED for refusal in refusals)
        await _finish(server, stop, senders, running, (room, people[0]))
    assert "Traceback" not in server.logs()


async def test_reading_while_it_is_away(start_server: StartServer, postgres: Postgres) -> None:
    """Whatever is asked of a server without its database has a typed answer, on the socket and by REST."""
    server = await start_server(DATABASE_URL=await postgres.start())
    (ann,) = await server.people(1)
    room = await server.chatroom(ann)
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(socket_client(server, transport)) for transport in TRANSPORTS]
        late = [await stack.enter_async_context(socket_client(server, transport)) for transport in TRANSPORTS]
        for client in clients:
            await client.authenticate(ann.token)
        await postgres.shut_down(signal.SIGINT)
        commands: tuple[tuple[str, dict[str, Any]], ...] = (
            ("send_message", {"chatroom_id": str(room), "content": "x"}),
            ("fetch_messages", {"chatroom_id": str(room)}),
            ("message_read", {"chatroom_id": str(room), "seq": 1}),
            ("join_chatroom", {"chatroom_id": str(room)}),
            ("list_chatrooms", {}),
            ("create_chatroom", {"name": "another"}),
            ("add_members", {"chatroom_id": str(room), "user_ids": [str(ann.id)]}),
            ("sync", {"chatrooms": {str(room): 0}}),
        )
        for client, (event, data) in product(clients, commands):
            answer = await client.ask(event, data, event)
            assert (answer["event"], answer["data"]["code"]) == ("error", "SERVICE_UNAVAILABLE"), event
            assert answer["data"]["retry_after"] > 0
        status, body = await server.call("GET", f"/chatrooms/{room}/messages", ann.token)
        assert (status, body["error"]["code"]) == (503, "SERVICE_UNAVAILABLE")
        assert (await server.call("GET", "/health/ready"))[0] == 503
        assert (await server.call("GET", "/health/live"))[0] == 200
        for client in late:
            await client.until("hello")
            await client.send("authenticate", {"token": ann.token})
            assert (await client.recv())["data"]["code"] == "SERVICE_UNAVAILABLE"
            assert (await client.closed())[0] == 4100
        await postgres.start()
        for client in clients:
            assert (await client.say(room, "back"))["event"] == "ack"
    assert "Traceback" not in server.logs()
