"""A send with a `client_id` happens once, however often and wherever it is repeated."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from tests.e2e.conftest import StartServer
from tests.e2e.doors import DOORS, Answer, ask
from tests.e2e.lines import Transport
from tests.e2e.server import Person, Server
from tests.e2e.socket_client import socket_client

COPIES = 50


async def send(server: Server, door: str, person: Person, room: UUID, content: str = "once", **more: Any) -> Answer:
    """Sends with the client_id that all tests here share."""
    more = {"client_id": "the same", **more}
    return await ask(server, door, person, "send_message", chatroom_id=room, content=content, **more)


async def test_fifty_copies_are_one_message(common_server: Server, crowd: list[Person], transport: Transport) -> None:
    """Fifty copies at once through all doors: one row, one delivery, one id, and one answer that is no duplicate."""
    server = common_server
    ann, bob = crowd[:2]
    room = await server.chatroom(ann, bob)
    async with socket_client(server, transport) as client:
        await client.authenticate(bob.token)
        answers = await asyncio.gather(*(send(server, DOORS[n % len(DOORS)], ann, room) for n in range(COPIES)))
        await send(server, "rest", ann, room, "last", client_id="last")
        heard: list[str] = []
        while not heard or heard[-1] != "last":
            heard.append((await client.until("message_received"))["data"]["message"]["content"])
    assert heard == ["once", "last"]
    assert {answer.code for answer in answers} == {"ok"}
    assert len({answer.data["message"]["id"] for answer in answers}) == 1
    assert sum(not answer.data["duplicate"] for answer in answers) == 1
    assert [message["content"] for message in await server.history(bob, room)] == ["once", "last"]
    assert await rows(server, room) == 2


async def test_copies_on_one_socket(common_server: Server, crowd: list[Person], transport: Transport) -> None:
    """Copies that travel in one commit are one message too; each is answered, the first as new."""
    room = await common_server.chatroom(crowd[0])
    data = {"chatroom_id": room, "content": "once", "client_id": "x"}
    async with socket_client(common_server, transport) as client:
        await client.authenticate(crowd[0].token)
        for n in range(COPIES):
            await client.send("send_message", data, id=str(n))
        frames = [await client.recv() for _ in range(COPIES + 1)]
    answers = [frame for frame in frames if "id" in frame]
    assert [frame["data"]["duplicate"] for frame in answers] == [False] + [True] * (COPIES - 1)
    assert [frame["event"] for frame in frames].count("message_received") == 1


async def rows(server: Server, room: UUID) -> int:
    """How many messages the database holds of a room."""
    conn = await asyncpg.connect(server.database_url)
    count: int = await conn.fetchval("SELECT count(*) FROM messages WHERE chatroom_id = $1", room)
    await conn.close()
    return count


async def test_a_retry_after_a_restart(start_server: StartServer) -> None:
    """A retry that comes after a kill and a restart, by any door, with other words or none, gets the original."""
    server = await start_server()
    ann = await server.person()
    room = await server.chatroom(ann)
    first = await send(server, "ws-json", ann, room, "original")
    await server.kill()
    await server.start()
    for door in DOORS:
        again = await send(server, door, ann, room, "something else")
        assert again.data == {**first.data, "duplicate": True}
    assert (await send(server, "rest", ann, room)).status == 200
    assert [message["content"] for message in await server.history(ann, room)] == ["original"]


@pytest.mark.parametrize("door", DOORS)
async def test_whose_client_id_it_is(common_server: Server, crowd: list[Person], door: str) -> None:
    """Another user with the same client_id learns nothing of the first; another room is another message."""
    ann, bob, eve = crowd[:3]
    room, other = await common_server.chatroom(ann, bob), await common_server.chatroom(ann)
    first = await send(common_server, door, ann, room, "ann's")
    second = await send(common_server, door, bob, room, "bob's")
    elsewhere = await send(common_server, door, ann, other, "elsewhere")
    for answer, content in ((second, "bob's"), (elsewhere, "elsewhere")):
        assert answer.data["duplicate"] is False
        assert answer.data["message"]["content"] == content
        assert answer.data["message"]["id"] != first.data["message"]["id"]
    unknown = await send(common_server, door, eve, room)
    nowhere = await send(common_server, door, eve, UUID(int=7))
    assert (unknown.code, unknown.data) == (nowhere.code, nowhere.data)
    assert unknown.code == "CHATROOM_NOT_FOUND"


async def test_a_member_who_left_gets_nothing_by_retrying(common_server: Server, crowd: list[Person]) -> None:
    """A retry is refused when the sender may not read the room any more, and works again when they may."""
    ann, bob = crowd[:2]
    room = await common_server.chatroom(ann, bob)
    first = await send(common_server, "rest", bob, room)
    await ask(common_server, "rest", ann, "remove_member", chatroom_id=room, user_id=bob.id)
    for door in DOORS:
        assert (await send(common_server, door, bob, room)).code == "CHATROOM_NOT_FOUND"
    await ask(common_server, "rest", ann, "add_members", chatroom_id=room, user_ids=[bob.id])
    assert (await send(common_server, "rest", bob, room)).data == {**first.data, "duplicate": True}


async def test_a_refused_send_leaves_its_client_id_free(common_server: Server, crowd: list[Person]) -> None:
    """A send that was refused did not happen: the same client_id may be used for one that is right."""
    room = await common_server.chatroom(crowd[0])
    assert (await send(common_server, "rest", crowd[0], room, reply_to=str(UUID(int=3)))).code == "MESSAGE_NOT_FOUND"
    assert (await send(common_server, "rest", crowd[0], room, "right")).data["duplicate"] is False


async def test_without_a_client_id(common_server: Server, crowd: list[Person]) -> None:
    """Sends without one are each a message of their own."""
    room = await common_server.chatroom(crowd[0])
    answers = [await send(common_server, door, crowd[0], room, client_id=None) for door in DOORS * 2]
    assert len({answer.data["message"]["id"] for answer in answers}) == len(DOORS) * 2
