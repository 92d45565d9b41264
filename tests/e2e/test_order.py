"""One order per chatroom, the same for everyone, and the database's own."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import asyncpg
import msgspec
import pytest
from websockets.typing import Subprotocol

from tests.e2e.server import Person, Server
from tests.e2e.socket_client import SocketClient, socket_client

SENDERS = 50
EACH = 40


@pytest.fixture
def server(common_server: Server) -> Server:
    """The common server; every test here makes rooms of its own."""
    return common_server


async def send_all(server: Server, person: Person, room: UUID, name: str) -> dict[str, int]:
    """Sends EACH messages as fast as they go; returns the seq of each text, as acked."""
    seqs: dict[str, int] = {}
    async with socket_client(server.ws, max_queue=None) as client:
        await client.authenticate(person.token)
        for n in range(EACH):
            await client.send("send_message", {"chatroom_id": room, "content": f"{name}-{n}"}, id=f"{n}")
        while len(seqs) < EACH:
            frame = await client.recv(30)
            if frame["event"] == "ack":
                seqs[frame["data"]["message"]["content"]] = frame["data"]["message"]["seq"]
    return seqs


async def listen_json(client: SocketClient, count: int) -> list[tuple[int, str]]:
    """The next messages, by seq and text."""
    heard: list[tuple[int, str]] = []
    while len(heard) < count:
        frame = await client.recv(30)
        if frame["event"] == "message_received":
            heard.append((frame["seq"], frame["data"]["message"]["content"]))
    return heard


async def listen_msgpack(client: SocketClient, count: int) -> list[tuple[int, str]]:
    """The same in MessagePack."""
    heard: list[tuple[int, str]] = []
    while len(heard) < count:
        frame = await unpacked(client)
        if frame["event"] == "message_received":
            heard.append((frame["seq"], frame["data"]["message"]["content"]))
    return heard


async def unpacked(client: SocketClient) -> dict[str, Any]:
    """The next frame, which is MessagePack."""
    async with asyncio.timeout(30):
        payload = await client.ws.recv()
    assert isinstance(payload, bytes)
    frame: dict[str, Any] = msgspec.msgpack.decode(payload)
    return frame


async def watch_heads(url: str, room: UUID, done: asyncio.Event) -> list[list[int]]:
    """Looks at the room's events again and again, as an outsider to the server; returns what was new each time."""
    conn = await asyncpg.connect(url)
    seen = 0
    looks: list[list[int]] = []
    while not done.is_set() or not looks:
        rows = await conn.fetch("SELECT seq FROM events WHERE chatroom_id = $1 AND seq > $2 ORDER BY seq", room, seen)
        looks.append([row["seq"] for row in rows])
        seen = max([seen, *looks[-1]])
        await asyncio.sleep(0.001)
    await conn.close()
    return looks


async def test_one_order_for_all(server: Server, crowd: list[Person]) -> None:
    """Fifty senders at once: a JSON and a MessagePack reader hear the same contiguous order, and history has it too.

    Whoever looks into the database meanwhile never sees a seq before those below it: commit order is seq order.
    """
    total = SENDERS * EACH
    room = await server.chatroom(crowd[0], *crowd[1:])
    done = asyncio.Event()
    packed = [Subprotocol("parley.v1.msgpack")]
    async with (
        socket_client(server.ws, max_queue=None) as one,
        socket_client(server.ws, max_queue=None, subprotocols=packed) as two,
    ):
        await one.authenticate(crowd[0].token)
        assert (await unpacked(two))["event"] == "hello"
        await two.ws.send(msgspec.msgpack.encode({"event": "authenticate", "data": {"token": crowd[1].token}}))
        assert (await unpacked(two))["event"] == "ready"
        observer = asyncio.create_task(watch_heads(server.database_url, room, done))
        listeners = asyncio.gather(listen_json(one, total), listen_msgpack(two, total))
        acked = await asyncio.gather(*(send_all(server, crowd[n % 6], room, f"s{n}") for n in range(SENDERS)))
        heard_one, heard_two = await listeners
        done.set()
        looks = await observer
    assert [seq for seq, _ in heard_one] == list(range(2, total + 2))
    assert heard_two == heard_one
    assert {text: seq for seqs in acked for text, seq in seqs.items()} == {text: seq for seq, text in heard_one}
    assert [(m["seq"], m["content"]) for m in await server.history(crowd[2], room)] == heard_one
    assert [seq for look in looks for seq in look] == list(range(1, total + 2))
    assert sum(bool(look) for look in looks) > 2
    for n in range(SENDERS):  # what one sender sends stays in their order
        own = [text for _, text in heard_one if text.startswith(f"s{n}-")]
        assert own == [f"s{n}-{i}" for i in range(EACH)]


async def test_commands_of_a_session_are_taken_in_order(server: Server, crowd: list[Person]) -> None:
    """Whatever kinds of commands a client sends at once, they take effect, and are answered, in the order sent."""
    ann, bob = crowd[:2]
    room = await server.chatroom(ann, bob)
    data: dict[str, Any] = {"chatroom_id": room}
    async with socket_client(server.ws) as client:
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
