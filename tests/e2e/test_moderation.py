"""Muted members and banned users: what they may no longer do, from when on, and until when."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from tests.e2e.doors import DOORS, ask, beside
from tests.e2e.lines import Transport
from tests.e2e.server import Person, Server
from tests.e2e.socket_client import SocketClient, on_all_transports, socket_client

BOTH = pytest.mark.parametrize("door", DOORS)
MUTED, BANNED, GONE = "MEMBER_MUTED", "MEMBER_BANNED", "CHATROOM_NOT_FOUND"
FOREVER = "9999-01-01T00:00:00Z"


@pytest.fixture
def server(common_server: Server) -> Server:
    """The common server; every test here makes rooms of its own."""
    return common_server


async def heard(client: SocketClient, room: UUID) -> list[dict[str, Any]]:
    """The durable events of a room that a socket has heard and not yet read, up to now."""
    await client.send("ping", id="now")
    frames = []
    while (frame := await client.recv()).get("id") != "now":
        if frame.get("chatroom_id") == str(room):
            frames.append(frame)
    return frames


async def member_of(server: Server, asker: Person, room: UUID, person: Person) -> dict[str, Any]:
    """How a member is shown in the room."""
    fetched = await ask(server, "rest", asker, "get_chatroom", chatroom_id=room)
    shown: dict[str, Any]
    (shown,) = (member for member in fetched.data["members"] if member["user_id"] == str(person.id))
    return shown


async def resumed(client: SocketClient, ready: dict[str, Any]) -> list[dict[str, Any]]:
    """Takes up a session that heard nothing; returns what was lost."""
    await client.until("hello")
    asked = {"session_id": ready["session_id"], "resume_token": ready["resume_token"], "received": 0}
    await client.send("resume", asked)
    missed = (await client.until("resumed"))["data"]["missed"]
    return [await client.recv() for _ in range(missed)]


# --- muted -----------------------------------------------------------------------------------


@BOTH
async def test_a_muted_member_reads_and_does_not_write(server: Server, crowd: list[Person], door: str) -> None:
    """From the ack of the mute on, sends and typing are refused through every door; all else goes on."""
    ann, bob, cat = crowd[:3]
    room = await server.chatroom(ann, bob, cat)
    async with socket_client(server, beside(door)) as client, socket_client(server, beside(door)) as ears:
        await client.authenticate(bob.token)
        await ears.authenticate(bob.token)
        first = await client.say(room, "before", client_id="1")
        muted = await ask(server, door, ann, "mute_member", chatroom_id=room, user_id=bob.id, duration_seconds=60)
        assert muted.code == "ok"
        answers = [await client.say(room, "no"), await client.ask("typing_start", {"chatroom_id": str(room)})]
        by_door = await ask(server, door, bob, "send_message", chatroom_id=room, content="no")
        for refusal in (*(answer["data"] for answer in answers), by_door.data):
            assert refusal["code"] == MUTED
            assert 0 < refusal["retry_after"] <= 60
        assert (await client.ask("typing_stop", {"chatroom_id": str(room)}))["event"] == "ack"
        again = await client.say(room, "before", client_id="1")
        assert (again["data"]["message"], again["data"]["duplicate"]) == (first["data"]["message"], True)
        read = await ask(server, door, bob, "fetch_messages", chatroom_id=room)
        assert [message["content"] for message in read.data["messages"]] == ["before"]
        assert (await ask(server, door, cat, "send_message", chatroom_id=room, content="ours")).code == "ok"
        ended = await ask(server, door, ann, "unmute_member", chatroom_id=room, user_id=bob.id)
        assert (await client.say(room, "after"))["event"] == "ack"
        first_event, told, ours, unmuted, after = await heard(ears, room)
    assert (told["event"], told["seq"]) == ("member_muted", muted.data["seq"])
    until = told["data"].pop("muted_until")
    assert told["data"] == {"chatroom_id": str(room), "user_id": str(bob.id), "muted_by": str(ann.id)}
    assert until == answers[0]["data"]["details"]["muted_until"] == by_door.data["details"]["muted_until"]
    assert (unmuted["seq"], unmuted["data"]["muted_until"]) == (ended.data["seq"], None)
    assert [frame["event"] for frame in (first_event, ours, after)] == ["message_received"] * 3


async def test_a_mute_ends_by_itself(server: Server, crowd: list[Person]) -> None:
    """Who waits as long as the refusal says may write, not before the time it names."""
    ann, bob = crowd[:2]

    async def case(server: Server) -> None:
        room = await server.chatroom(ann, bob)
        async with socket_client(server) as client:
            await client.authenticate(bob.token)
            await ask(server, "rest", ann, "mute_member", chatroom_id=room, user_id=bob.id, duration_seconds=2)
            until = datetime.fromisoformat((await member_of(server, ann, room, bob))["muted_until"])
            refusals = 0
            while (answer := await client.say(room, "at last"))["event"] == "error":
                assert answer["data"]["code"] == MUTED
                assert refusals < 5
                refusals += 1
                await asyncio.sleep(answer["data"]["retry_after"])
        assert refusals > 0
        written = datetime.fromisoformat(answer["data"]["message"]["created_at"])
        assert written >= until - timedelta(milliseconds=1)  # a message's time is cut to milliseconds

    await on_all_transports(server, case)


async def test_muted_without_an_end(server: Server, crowd: list[Person]) -> None:
    """There is nothing to wait for; a later mute with an end takes its place; members see it."""
    ann, bob = crowd[:2]
    room = await server.chatroom(ann, bob)
    for duration, until in ((None, FOREVER), (60, None)):
        await ask(server, "rest", ann, "mute_member", chatroom_id=room, user_id=bob.id, duration_seconds=duration)
        refused = await ask(server, "rest", bob, "send_message", chatroom_id=room, content="no")
        shown = (await member_of(server, bob, room, bob))["muted_until"]
        assert (refused.code, refused.status) == (MUTED, 403)
        assert refused.data["details"] == {"muted_until": shown}
        assert ("retry_after" in refused.data, shown == until) == ((False, True) if until else (True, False))
    assert (await member_of(server, bob, room, ann))["muted_until"] is None


@BOTH
async def test_how_long(server: Server, crowd: list[Person], door: str) -> None:
    """A mute says how long it is: a second to a year, or null."""
    ann, bob = crowd[:2]
    room = await server.chatroom(ann, bob)
    named = {"chatroom_id": room, "user_id": bob.id}
    for duration, code in (
        (0, "VALIDATION_INVALID_VALUE"),
        (31_536_001, "VALIDATION_INVALID_VALUE"),
        (31_536_000, "ok"),
    ):
        assert (await ask(server, door, ann, "mute_member", **named, duration_seconds=duration)).code == code
    forgotten = await ask(server, door, ann, "mute_member", **named)
    assert (forgotten.code, forgotten.data["details"]) == ("VALIDATION_REQUIRED_FIELD", {"field": "duration_seconds"})


async def test_no_message_behind_the_mute(server: Server, crowd: list[Person], transport: Transport) -> None:
    """Whatever races with a mute: no message of the muted has a `seq` above it, and none that was taken is lost."""
    ann, bob = crowd[:2]
    room = await server.chatroom(ann, bob)
    async with socket_client(server, transport) as writer, socket_client(server) as listener:
        await writer.authenticate(bob.token)
        await listener.authenticate(ann.token)
        mute = {"chatroom_id": room, "user_id": bob.id, "duration_seconds": None}
        muting = asyncio.create_task(ask(server, "rest", ann, "mute_member", **mute))
        taken = await write_until_refused(writer, room)
        await muting
        kinds = [frame["event"] for frame in await heard(listener, room)]
    assert kinds == ["message_received"] * taken + ["member_muted"]


async def write_until_refused(client: SocketClient, room: UUID) -> int:
    """How many messages were taken; ten at a time, until all of ten are refused."""
    taken = 0
    while taken < 20_000:
        for n in range(10):
            await client.send("send_message", {"chatroom_id": str(room), "content": "x"}, id=f"m{n}")
        answers: list[dict[str, Any]] = []
        while len(answers) < 10:
            frame = await client.recv()
            if frame.get("id") is not None:
                answers.append(frame)
        taken += sum(1 for frame in answers if frame["event"] == "ack")
        refused = [frame["data"]["code"] for frame in answers if frame["event"] == "error"]
        assert set(refused) <= {MUTED}
        if len(refused) == 10:
            return taken
    raise AssertionError("nothing is refused")


async def test_muted_while_cut(server: Server, crowd: list[Person], transport: Transport) -> None:
    """A resumed session learns of the mute, and cannot write either."""
    ann, bob = crowd[:2]
    room = await server.chatroom(ann, bob)
    async with socket_client(server, transport) as client:
        ready = await client.authenticate(bob.token)
        client.cut()
    await ask(server, "rest", ann, "mute_member", chatroom_id=room, user_id=bob.id, duration_seconds=60)
    async with socket_client(server, transport) as client:
        assert [frame["event"] for frame in await resumed(client, ready)] == ["member_muted"]
        assert (await client.say(room, "no"))["data"]["code"] == MUTED


async def test_typing_of_the_muted_is_not_heard(server: Server, crowd: list[Person], transport: Transport) -> None:
    """Others who have the room open see nothing of it."""
    ann, bob = crowd[:2]
    room = await server.chatroom(ann, bob)
    async with socket_client(server, transport) as client, socket_client(server, transport) as listener:
        await client.authenticate(bob.token)
        await listener.authenticate(ann.token)
        await listener.ask("join_chatroom", {"chatroom_id": str(room)})
        await ask(server, "rest", ann, "mute_member", chatroom_id=room, user_id=bob.id, duration_seconds=60)
        await client.ask("typing_start", {"chatroom_id": str(room)})
        await ask(server, "rest", ann, "unmute_member", chatroom_id=room, user_id=bob.id)
        assert (await client.ask("typing_start", {"chatroom_id": str(room)}))["event"] == "ack"
        events: list[str] = []
        while "typing_indicator" not in events:
            events.append((await listener.recv())["event"])
        assert events == ["member_muted", "member_muted", "typing_indicator"]


# --- banned ----------------------------------------------------------------------------------


@BOTH
async def test_a_banned_user_is_out(server: Server, crowd: list[Person], door: str) -> None:
    """`user_left` is the last they hear, also by a resumed session; to them the room is like none from the ack on."""
    ann, bob, cat = crowd[:3]
    room = await server.chatroom(ann, bob, cat)
    async with socket_client(server, beside(door)) as cut:
        ready = await cut.authenticate(bob.token)
        cut.cut()
    async with socket_client(server, beside(door)) as client, socket_client(server, beside(door)) as ears:
        await client.authenticate(bob.token)
        await ears.authenticate(bob.token)
        banned = await ask(server, door, ann, "ban_member", chatroom_id=room, user_id=bob.id, reason="spam")
        assert banned.code == "ok"
        assert (await client.say(room, "no"))["data"]["code"] == GONE
        await ask(server, "rest", cat, "send_message", chatroom_id=room, content="secret")
        (left,) = await heard(ears, room)
        assert (left["event"], left["seq"]) == ("user_left", banned.data["seq"])
        assert left["data"] == {"chatroom_id": str(room), "user_id": str(bob.id), "removed_by": str(ann.id)}
        async with socket_client(server, beside(door)) as again:
            missed = await resumed(again, ready)
            assert [frame["event"] for frame in missed if frame.get("chatroom_id") == str(room)] == ["user_left"]
            assert (await again.say(room, "no"))["data"]["code"] == GONE
            synced = await again.ask("sync", {"chatrooms": {str(room): 1}})
            assert synced["data"]["chatrooms"][str(room)]["verdict"] == "not_member"
    for command in ("get_chatroom", "fetch_messages", "list_bans"):
        assert (await ask(server, door, bob, command, chatroom_id=room)).code == GONE


@BOTH
async def test_a_banned_user_is_not_added(server: Server, crowd: list[Person], door: str) -> None:
    """No moderator can add who is banned, nor anyone along with them, until somebody unbans them."""
    ann, bob, cat, dan, eve = crowd[:5]
    room = await server.chatroom(ann, bob, cat)
    await ask(server, "rest", ann, "update_member", chatroom_id=room, user_id=cat.id, role="moderator")
    for person in (bob, dan):  # a member, and one who is not there
        assert (await ask(server, door, cat, "ban_member", chatroom_id=room, user_id=person.id)).code == "ok"
    ids = [eve.id, bob.id, dan.id]
    refused = await ask(server, door, ann, "add_members", chatroom_id=room, user_ids=ids)
    assert refused.code == BANNED
    listed = sorted(str(person.id) for person in (bob, dan))
    assert refused.data["details"] == {"field": "user_ids", "banned": listed}
    members = (await ask(server, "rest", ann, "get_chatroom", chatroom_id=room)).data["members"]
    assert {member["user_id"] for member in members} == {str(ann.id), str(cat.id)}
    for person in (bob, dan):
        assert (await ask(server, door, cat, "unban_member", chatroom_id=room, user_id=person.id)).code == "ok"
    again = await ask(server, door, cat, "unban_member", chatroom_id=room, user_id=bob.id)
    assert again.code == "RESOURCE_NOT_FOUND"
    added = await ask(server, door, ann, "add_members", chatroom_id=room, user_ids=ids)
    assert {member["user_id"] for member in added.data["added"]} == {str(id) for id in ids}
    assert (await ask(server, door, bob, "send_message", chatroom_id=room, content="back")).code == "ok"


@BOTH
async def test_the_list_of_bans(server: Server, crowd: list[Person], door: str) -> None:
    """The newest ban first, page by page, with who banned whom and why; banning again changes the reason."""
    ann, bob, cat, dan = crowd[:4]
    room = await server.chatroom(ann, bob, cat)
    other = await server.chatroom(ann, bob)
    for person, reason in ((bob, "spam"), (cat, None), (dan, "x" * 500), (bob, "more spam")):
        named = {"chatroom_id": room, "user_id": person.id}
        assert (await ask(server, door, ann, "ban_member", **named, reason=reason)).code == "ok"
    pages = [await ask(server, door, ann, "list_bans", chatroom_id=room, page=page, limit=2) for page in (1, 2)]
    bans = [ban for page in pages for ban in page.data["bans"]]
    assert [(ban["user_id"], ban["username"], ban["reason"]) for ban in bans] == [
        (str(bob.id), bob.username, "more spam"),
        (str(dan.id), dan.username, "x" * 500),
        (str(cat.id), cat.username, None),
    ]
    assert {ban["banned_by"] for ban in bans} == {str(ann.id)}
    assert pages[0].data["pagination"] == {"page": 1, "limit": 2, "total": 3, "pages": 2, "has_more": True}
    assert (await ask(server, door, ann, "list_bans", chatroom_id=other)).data["bans"] == []
    nobody = await ask(server, door, ann, "ban_member", chatroom_id=room, user_id=UUID(int=5))
    assert nobody.code == "AUTH_USER_NOT_FOUND"


async def test_bans_and_adds_at_once(server: Server, crowd: list[Person]) -> None:
    """However a ban and an add race, nobody is both banned and a member in the end."""
    ann, bob = crowd[:2]
    named: dict[str, Any]
    for _ in range(5):
        room = await server.chatroom(ann)
        named = {"chatroom_id": room}
        ban = ask(server, "rest", ann, "ban_member", **named, user_id=bob.id)
        add = ask(server, "rest", ann, "add_members", **named, user_ids=[bob.id])
        answers = await asyncio.gather(add, ban)
        assert answers[1].code == "ok"
        assert answers[0].code in ("ok", BANNED)
        members = (await ask(server, "rest", ann, "get_chatroom", chatroom_id=room)).data["members"]
        assert [member["user_id"] for member in members] == [str(ann.id)]
