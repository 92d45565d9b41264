"""Coming into a chatroom and going out of it, as those see it who are connected."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from tests.e2e.doors import ask
from tests.e2e.lines import Transport
from tests.e2e.server import Person, Server
from tests.e2e.socket_client import SocketClient, socket_client

GONE = "CHATROOM_NOT_FOUND"


@pytest.fixture
def server(common_server: Server) -> Server:
    """The common server; every test here makes rooms of its own."""
    return common_server


async def test_an_added_member_hears_from_their_join_on(
    server: Server, crowd: list[Person], transport: Transport
) -> None:
    """A newcomer's first event is their own `user_joined`; what follows comes by itself."""
    ann, bob = crowd[:2]
    room = await server.chatroom(ann)
    async with socket_client(server, transport) as client:
        await client.authenticate(bob.token)
        for text in ("one", "two"):
            await ask(server, "rest", ann, "send_message", chatroom_id=room, content=text)
        await ask(server, "rest", ann, "add_members", chatroom_id=room, user_ids=[bob.id])
        await ask(server, "rest", ann, "send_message", chatroom_id=room, content="three")
        joined = await room_event(client, room)
        assert (joined["event"], joined["seq"]) == ("user_joined", 4)
        assert joined["data"]["member"]["user_id"] == str(bob.id)
        assert joined["data"]["chatroom"]["id"] == str(room)
        assert (await room_event(client, room))["data"]["message"]["content"] == "three"


async def test_a_removed_member_hears_that_and_no_more(
    server: Server, crowd: list[Person], transport: Transport
) -> None:
    """`user_left` is the last event; sending, reading, syncing and typing are refused; others hear on."""
    ann, bob, cat = crowd[:3]
    room = await server.chatroom(ann, bob, cat)
    async with socket_client(server, transport) as client, socket_client(server, transport) as other:
        await client.authenticate(bob.token)
        await other.authenticate(cat.token)
        await ask(server, "rest", ann, "remove_member", chatroom_id=room, user_id=bob.id)
        await ask(server, "rest", ann, "send_message", chatroom_id=room, content="secret")
        left = await room_event(client, room)
        assert (left["event"], left["seq"]) == ("user_left", 2)
        assert left["data"] == {"chatroom_id": str(room), "user_id": str(bob.id), "removed_by": str(ann.id)}
        commands: dict[str, dict[str, Any]] = {
            "send_message": {"content": "x"},
            "fetch_messages": {},
            "message_read": {"seq": 1},
            "typing_start": {},
            "join_chatroom": {},
        }
        for event, data in commands.items():
            refused = await client.ask(event, {"chatroom_id": room, **data})
            assert refused["data"]["code"] == GONE
        synced = await client.ask("sync", {"chatrooms": {str(room): 1}})
        assert synced["data"]["chatrooms"][str(room)]["verdict"] == "not_member"
        assert (await room_event(other, room))["event"] == "user_left"
        assert (await room_event(other, room))["data"]["message"]["content"] == "secret"


async def test_a_resume_brings_back_no_removed_member(
    server: Server, crowd: list[Person], transport: Transport
) -> None:
    """A member removed while cut off learns of it on resume, and of nothing that came after."""
    ann, bob = crowd[:2]
    room = await server.chatroom(ann, bob)
    async with socket_client(server, transport) as client:
        ready = await client.authenticate(bob.token)
        client.cut()
    await ask(server, "rest", ann, "send_message", chatroom_id=room, content="before")
    await ask(server, "rest", ann, "remove_member", chatroom_id=room, user_id=bob.id)
    await ask(server, "rest", ann, "send_message", chatroom_id=room, content="after")
    async with socket_client(server, transport) as client:
        session = {name: ready[name] for name in ("session_id", "resume_token")}
        await client.until("hello")
        await client.send("resume", {**session, "received": 0})
        resumed = await client.until("resumed")
        missed = [await client.recv() for _ in range(resumed["data"]["missed"])]
        assert [frame["event"] for frame in missed if frame.get("chatroom_id") == str(room)] == ["user_left"]
        await ask(server, "rest", ann, "send_message", chatroom_id=room, content="later")
        assert (await client.ask("typing_start", {"chatroom_id": room}))["data"]["code"] == GONE


async def room_event(client: SocketClient, room: UUID) -> dict[str, Any]:
    """The next durable event of this room."""
    while True:
        frame: dict[str, Any] = await client.recv()
        if frame.get("chatroom_id") == str(room):
            return frame
