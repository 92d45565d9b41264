"""Messages that are taken back."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from tests.e2e.bots import make_bot
from tests.e2e.doors import DOORS, ask
from tests.e2e.server import Person, Server
from tests.e2e.socket_client import socket_client
from tests.e2e.test_files import download, upload
from tests.e2e.test_state_and_events import SEALED


async def say(server: Server, person: Person, room: UUID, content: Any = "regretted", **more: Any) -> dict[str, Any]:
    """A message of theirs."""
    answer = await ask(server, "rest", person, "send_message", chatroom_id=room, content=content, **more)
    assert answer.code == "ok", answer
    message: dict[str, Any] = answer.data["message"]
    return message


@pytest.mark.parametrize("door", DOORS)
async def test_who_may(common_server: Server, crowd: list[Person], door: str) -> None:
    """The sender, owner and moderators take a message back, on every door; nobody else does."""
    owner, moderator, sender, other, outsider = crowd[:5]
    server = common_server
    room = await server.chatroom(owner, moderator, sender, other)
    await ask(server, "rest", owner, "update_member", chatroom_id=room, user_id=moderator.id, role="moderator")
    for person, code in (
        (outsider, "CHATROOM_NOT_FOUND"),
        (other, "MESSAGE_DELETE_DENIED"),
        (sender, "ok"),
        (moderator, "ok"),
        (owner, "ok"),
    ):
        message = await say(server, sender, room)
        answer = await ask(server, door, person, "recall_message", chatroom_id=room, message_id=message["id"])
        assert answer.code == code
        again = await ask(server, door, person, "recall_message", chatroom_id=room, message_id=message["id"])
        assert again.code == code
        if code == "ok":
            assert (answer.data["seq"], again.data["seq"]) == (message["seq"] + 1, 0)
    unknown = await ask(server, door, owner, "recall_message", chatroom_id=room, message_id=uuid4())
    assert unknown.code == "MESSAGE_NOT_FOUND"
    elsewhere = await server.chatroom(owner)
    message = await say(server, owner, elsewhere)
    foreign = await ask(server, door, owner, "recall_message", chatroom_id=room, message_id=message["id"])
    assert foreign.code == "MESSAGE_NOT_FOUND"


@pytest.mark.parametrize("content", ["planted-regret-1", SEALED], ids=["text", "sealed"])
async def test_nothing_is_left(common_server: Server, crowd: list[Person], content: Any) -> None:
    """History, lists, replays and repeated sends show an empty message, its row has other bytes; replies go on."""
    ann, bob = crowd[:2]
    server = common_server
    room = await server.chatroom(ann, bob)
    told = await say(server, ann, room, content, client_id="one")
    before = await row_of(server, room, told["id"])
    assert (await ask(server, "rest", ann, "recall_message", chatroom_id=room, message_id=told["id"])).code == "ok"
    after = await row_of(server, room, told["id"])
    assert (after["recalled_at"] is None, after["sealed"] == before["sealed"]) == (False, False)
    assert len(after["sealed"]) < len(before["sealed"])
    (shown,) = await server.history(bob, room)
    assert shown == {**told, "content": "", "recalled_at": shown["recalled_at"]}
    listed = (await server.data("GET", "/chatrooms?limit=100", bob.token))["chatrooms"]
    assert next(row for row in listed if row["id"] == str(room))["last_message"] == shown
    assert await say(server, ann, room, content, client_id="one") == shown
    async with socket_client(server) as client:
        await client.authenticate(bob.token)
        await client.send("sync", {"chatrooms": {str(room): told["seq"] - 1}})
        received, recalled = await client.recv(), await client.recv()
    assert (received["event"], received["data"]) == ("message_received", {"message": shown})
    assert (recalled["event"], recalled["seq"]) == ("message_recalled", told["seq"] + 1)
    assert recalled["data"] == {
        "chatroom_id": str(room),
        "message_id": told["id"],
        "recalled_by": str(ann.id),
        "recalled_at": shown["recalled_at"],
    }
    assert (await say(server, bob, room, "which one?", reply_to=told["id"]))["reply_to"] == told["id"]


async def row_of(server: Server, room: UUID, message_id: str) -> Any:
    """What the database has of a message."""
    conn = await asyncpg.connect(server.database_url)
    row = await conn.fetchrow("SELECT * FROM messages WHERE chatroom_id = $1 AND id = $2", room, UUID(message_id))
    await conn.close()
    return row


async def test_its_files_are_gone(common_server: Server, crowd: list[Person]) -> None:
    """From the ack on nobody has a file by a recalled message; by another one, or as its uploader, they do."""
    ann, bob = crowd[:2]
    server = common_server
    room = await server.chatroom(ann, bob)
    once, twice = await upload(server, ann, b"once"), await upload(server, ann, b"twice")
    told = await say(server, ann, room, attachments=[{"id": once["id"]}, {"id": twice["id"]}])
    await say(server, ann, room, attachments=[{"id": twice["id"]}])
    assert await download(server, bob, once["encrypted_url"]) == (200, b"once")
    await ask(server, "rest", ann, "recall_message", chatroom_id=room, message_id=told["id"])
    assert (await download(server, bob, once["encrypted_url"]))[0] == 404
    assert await download(server, bob, twice["encrypted_url"]) == (200, b"twice")
    assert await download(server, ann, once["encrypted_url"]) == (200, b"once")
    assert (await server.history(bob, room))[0]["attachments"] == []


async def test_a_cut_session(common_server: Server, crowd: list[Person]) -> None:
    """Who was cut when a message came and was recalled hears both, in this order."""
    ann, bob = crowd[:2]
    server = common_server
    room = await server.chatroom(ann, bob)
    async with socket_client(server) as client:
        ready = await client.authenticate(bob.token)
        received = client.received
        client.cut()
    told = await say(server, ann, room)
    await ask(server, "rest", ann, "recall_message", chatroom_id=room, message_id=told["id"])
    async with socket_client(server) as client:
        await client.until("hello")
        which = {"session_id": ready["session_id"], "resume_token": ready["resume_token"], "received": received}
        await client.send("resume", which)
        heard = [await client.recv() for _ in range(3)]
    assert [frame["event"] for frame in heard] == ["resumed", "message_received", "message_recalled"]
    assert heard[2]["data"]["message_id"] == told["id"] == heard[1]["data"]["message"]["id"]


@pytest.mark.parametrize(("scope", "code"), [("read", "RESOURCE_ACCESS_DENIED"), ("write", "MESSAGE_NOT_FOUND")])
async def test_scopes(common_server: Server, crowd: list[Person], scope: str, code: str) -> None:
    """A bot needs `write`."""
    bot = await make_bot(common_server, crowd[0], scope)
    room = await common_server.chatroom(crowd[0], bot)
    answer = await ask(common_server, "rest", bot, "recall_message", chatroom_id=room, message_id=uuid4())
    assert answer.code == code
