"""A commit whose answer is lost: it happened, and nobody here knows."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import parse_qs, quote, urlsplit

import pytest

from tests.e2e.conftest import StartServer
from tests.e2e.lines import TRANSPORTS, Transport
from tests.e2e.server import Server
from tests.e2e.socket_client import socket_client

SENDERS: tuple[Transport, ...] = ("ws-json", "tcp-noise")
FOUND = 5.0
"""Seconds in which a lost event reaches those who hear the chatroom."""
CLIENT_ID = b"sent only once"
SOCKET = ".s.PGSQL.5432"


class Line:
    """Stands between Parley and PostgreSQL, and breaks a connection right after a message has been committed."""

    def __init__(self, database: Path, directory: Path) -> None:
        self._database = database
        self._path = directory / SOCKET
        self._server: asyncio.Server | None = None
        self.armed = False
        self.lost = 0

    async def open(self) -> None:
        """Begins to listen."""
        self._server = await asyncio.start_unix_server(self._serve, self._path)

    async def close(self) -> None:
        """Ends all of it."""
        assert self._server is not None
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, database = await asyncio.open_unix_connection(self._database)
        losing = asyncio.Event()
        passing = asyncio.create_task(self._pass(answers, writer, losing))
        while data := await reader.read(65_536):
            if self.armed and CLIENT_ID in data:  # it goes up with the one statement that writes the message
                self.armed = False
                losing.set()
            database.write(data)
        passing.cancel()
        database.close()

    async def _pass(self, answers: asyncio.StreamReader, writer: asyncio.StreamWriter, losing: asyncio.Event) -> None:
        while (data := await answers.read(65_536)) and not losing.is_set():
            writer.write(data)
        self.lost += losing.is_set()  # the answer has come: it is done
        writer.close()


@pytest.fixture
async def line(database_url: str) -> AsyncIterator[tuple[Line, str]]:
    """The line, and the URL of the database behind it."""
    parts = urlsplit(database_url)
    (host,) = parse_qs(parts.query)["host"]
    with TemporaryDirectory(prefix="parley-") as short:  # a socket's path may have some hundred bytes
        made = Line(Path(host) / SOCKET, Path(short))
        await made.open()
        yield made, f"postgresql://parley@{parts.path}?host={quote(short, safe='')}&port=5432"
        await made.close()


async def test_lost_answer(start_server: StartServer, line: tuple[Line, str]) -> None:
    """The sender is told to try again, and does so without harm; the others hear of it in time, on the same socket."""
    between, url = line
    server = await start_server(DATABASE_URL=url)
    for sender in SENDERS:
        await _lose_answer(between, server, sender)


async def _lose_answer(between: Line, server: Server, transport: Transport) -> None:
    """There is a reader on every transport."""
    ann, bob = await server.people(2)
    room = await server.chatroom(ann, bob)
    async with AsyncExitStack() as stack:
        sender = await stack.enter_async_context(socket_client(server, transport))
        await sender.authenticate(ann.token)
        readers = [await stack.enter_async_context(socket_client(server, other)) for other in TRANSPORTS]
        for reader in readers:
            await reader.authenticate(bob.token)
        lost = between.lost
        seq = (await sender.say(room, "before"))["data"]["message"]["seq"] + 1
        between.armed = True
        answer = await sender.say(room, "lost", client_id=CLIENT_ID.decode())
        began = time.monotonic()
        assert (answer["event"], answer["data"]["code"]) == ("error", "SERVICE_UNAVAILABLE")
        assert between.lost == lost + 1
        for reader in readers:
            heard = [await reader.until("message_received", timeout=FOUND) for _ in range(2)]
            assert [frame["data"]["message"]["content"] for frame in heard] == ["before", "lost"]
            assert heard[1]["seq"] == seq
        assert time.monotonic() - began < FOUND
        retried = await sender.say(room, "lost", client_id=CLIENT_ID.decode())
        assert (retried["data"]["duplicate"], retried["data"]["message"]["seq"]) == (True, seq)
        await sender.say(room, "after")
        for reader in readers:
            assert (await reader.until("message_received"))["seq"] == seq + 1
