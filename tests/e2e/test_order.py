"""One order per chatroom, the same for everyone, and the database's own."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from itertools import cycle
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from tests.e2e.lines import TRANSPORTS, Transport
from tests.e2e.server import Person, Server
from tests.e2e.socket_client import SocketClient, socket_client

SENDERS = 50
BURSTS = 4
BURST = 10
EACH = BURSTS * BURST


@pytest.fixture
def server(common_server: Server) -> Server:
    """The common server; every test here makes rooms of its own."""
    return common_server


class Observer:
    """Looks at a room's events in the database again and again, as an outsider to the server."""

    def __init__(self) -> None:
        self.looks: list[list[int]] = []  # the seqs that were new at each look
        self._look = asyncio.Condition()

    async def watch(self, url: str, room: UUID) -> None:
        """Looks until it is cancelled."""
        conn = await asyncpg.connect(url)
        seen = 0
        query = "SELECT seq FROM events WHERE chatroom_id = $1 AND seq > $2 ORDER BY seq"
        try:
            while True:
                new = [row["seq"] for row in await conn.fetch(query, room, seen)]
                seen = max([seen, *new])
                async with self._look:
                    self.looks.append(new)
                    self._look.notify_all()
                await asyncio.sleep(0.001)
        finally:
            await conn.close()

    async def looked(self) -> None:
        """Waits for a look that began after this call."""
        next_whole = len(self.looks) + 2  # the look under way may have begun before
        async with asyncio.timeout(30), self._look:
            await self._look.wait_for(lambda: len(self.looks) >= next_whole)


async def send_all(
    server: Server, transport: Transport, person: Person, room: UUID, name: str, observer: Observer
) -> dict[str, int]:
    """Sends EACH messages in bursts, each burst once the one before is acked and observed; returns the seq of each."""
    seqs: dict[str, int] = {}
    async with socket_client(server, transport) as client:
        await client.authenticate(person.token)
        for start in range(0, EACH, BURST):
            for n in range(start, start + BURST):
                await client.send("send_message", {"chatroom_id": room, "content": f"{name}-{n}"}, id=f"{n}")
            while len(seqs) < start + BURST:
                frame = await client.recv(30)
                if frame["event"] == "ack":
                    seqs[frame["data"]["message"]["content"]] = frame["data"]["message"]["seq"]
            await observer.looked()
    return seqs


async def listen(client: SocketClient, count: int) -> list[tuple[int, str]]:
    """The next messages, by seq and text."""
    heard: list[tuple[int, str]] = []
    while len(heard) < count:
        frame = await client.recv(30)
        if frame["event"] == "message_received":
            heard.append((frame["seq"], frame["data"]["message"]["content"]))
    return heard


async def test_one_order_for_all(server: Server, crowd: list[Person]) -> None:
    """Fifty senders at once, over all transports: a reader on each hears the same contiguous order, and history has it.

    Whoever looks into the database meanwhile never sees a seq before those below it: commit order is seq order.
    """
    total = SENDERS * EACH
    room = await server.chatroom(crowd[0], *crowd[1:])
    observer = Observer()
    async with AsyncExitStack() as stack:
        readers = [await stack.enter_async_context(socket_client(server, transport)) for transport in TRANSPORTS]
        for reader, person in zip(readers, crowd, strict=True):
            await reader.authenticate(person.token)
        watching = asyncio.create_task(observer.watch(server.database_url, room))
        listeners = asyncio.gather(*(listen(reader, total) for reader in readers))
        acked = await asyncio.gather(
            *(
                send_all(server, transport, crowd[n % 6], room, f"s{n}", observer)
                for n, transport in zip(range(SENDERS), cycle(TRANSPORTS), strict=False)
            )
        )
        heard, *others = await listeners
        watching.cancel()
    assert [seq for seq, _ in heard] == list(range(2, total + 2))
    assert others == [heard] * (len(TRANSPORTS) - 1)
    assert {text: seq for seqs in acked for text, seq in seqs.items()} == {text: seq for seq, text in heard}
    assert [(m["seq"], m["content"]) for m in await server.history(crowd[2], room)] == heard
    assert [seq for look in observer.looks for seq in look] == list(range(1, total + 2))
    assert sum(bool(look) for look in observer.looks) >= BURSTS
    for n in range(SENDERS):  # what one sender sends stays in their order
        own = [text for _, text in heard if text.startswith(f"s{n}-")]
        assert own == [f"s{n}-{i}" for i in range(EACH)]


async def test_commands_of_a_session_are_taken_in_order(
    server: Server, crowd: list[Person], transport: Transport
) -> None:
    """Whatever kinds of commands a client sends at once, they take effect, and are answered, in the order sent."""
    ann, bob = crowd[:2]
    room = await server.chatroom(ann, bob)
    data: dict[str, Any] = {"chatroom_id": room}
    async with socket_client(server, transport) as client:
        await client.authenticate(ann.token)
        for n in range(0, 30, 3):
            await client.send("update_chatroom", {**data, "name": f"room {n}"}, id=f"{n}")
            await client.send("send_message", {**data, "content": f"m{n}"}, id=f"{n + 1}")
            await client.send("fetch_messages", {**data, "limit": 1}, id=f"{n + 2}")
        frames: list[dict[str, Any]] = []
        while len(frames) < 50:
            frames.append(await client.recv())
    events = [frame["event"] for frame in frames if "seq" in frame]
    assert events == ["chatroom_updated", "message_received"] * 10
    changes = [int(frame["id"]) for frame in frames if "id" in frame and int(frame["id"]) % 3 != 2]
    assert changes == sorted(changes)
