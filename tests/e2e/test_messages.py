"""Messages: what may be written, how history is read, and where a reader stands."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from tests.e2e.doors import DOORS, Answer, ask, beside
from tests.e2e.lines import Transport
from tests.e2e.server import Person, Server
from tests.e2e.socket_client import socket_client

BOTH = pytest.mark.parametrize("door", DOORS)
SEALED = {"encrypted_data": "b3BhcXVl", "iv": "aXY=", "key_version": 3}


@pytest.fixture
def server(common_server: Server) -> Server:
    """The common server; every test here makes rooms of its own."""
    return common_server


async def say(server: Server, person: Person, room: UUID, content: Any, door: str = "rest", **more: Any) -> Answer:
    """Sends a message through a door."""
    return await ask(server, door, person, "send_message", chatroom_id=room, content=content, **more)


async def fetch(server: Server, person: Person, room: UUID, door: str = "rest", **more: Any) -> Answer:
    """Reads history through a door."""
    return await ask(server, door, person, "fetch_messages", chatroom_id=room, **more)


def contents(answer: Answer) -> list[Any]:
    """The contents of a page."""
    return [message["content"] for message in answer.data["messages"]]


# --- writing ---------------------------------------------------------------------------------


@BOTH
async def test_a_message_as_it_is_sent(server: Server, crowd: list[Person], door: str) -> None:
    """The ack holds the whole message, as history and the others have it."""
    ann, bob = crowd[:2]
    room = await server.chatroom(ann, bob)
    async with socket_client(server, beside(door)) as client:
        await client.authenticate(bob.token)
        sent = await say(server, ann, room, "héllo\0 \U0001f600", door, client_id="c1", message_type="image")
        heard = await client.until("message_received")
    message = sent.data["message"]
    assert (sent.data["client_id"], sent.data["duplicate"]) == ("c1", False)
    assert message["content"] == "héllo\0 \U0001f600"
    assert (message["user_id"], message["username"], message["seq"]) == (str(ann.id), ann.username, 2)
    assert (message["message_type"], message["reply_to"], message["edited_at"]) == ("image", None, None)
    assert heard["data"]["message"] == message
    assert (await fetch(server, bob, room, door)).data["messages"] == [message]


@BOTH
async def test_a_reply(server: Server, crowd: list[Person], door: str) -> None:
    """A reply names a message of the same chatroom; one of another, or none, is refused."""
    ann = crowd[0]
    room, other = await server.chatroom(ann), await server.chatroom(ann)
    first = (await say(server, ann, room, "first")).data["message"]["id"]
    foreign = (await say(server, ann, other, "foreign")).data["message"]["id"]
    reply = await say(server, ann, room, "reply", door, reply_to=first)
    assert reply.data["message"]["reply_to"] == first
    for wrong in (foreign, str(uuid4())):
        assert (await say(server, ann, room, "reply", door, reply_to=wrong)).code == "MESSAGE_NOT_FOUND"
    assert contents(await fetch(server, ann, room)) == ["reply", "first"]


@BOTH
async def test_a_reply_in_the_same_breath(server: Server, crowd: list[Person], door: str) -> None:
    """A reply may follow its message at once: one order, one journal."""
    ann, bob = crowd[:2]
    room = await server.chatroom(ann, bob)

    async def answer(text: str) -> None:
        first = await say(server, ann, room, text, door)
        reply = await say(server, bob, room, f"re: {text}", door, reply_to=first.data["message"]["id"])
        assert reply.code == "ok"

    await asyncio.gather(*(answer(str(n)) for n in range(10)))
    seqs = {message["content"]: message["seq"] for message in await server.history(ann, room)}
    assert all(seqs[f"re: {n}"] > seqs[str(n)] for n in range(10))


@BOTH
async def test_content_that_only_members_can_open(server: Server, crowd: list[Person], door: str) -> None:
    """Encrypted content is stored and forwarded as it is; a room with encryption takes nothing else."""
    ann, bob = crowd[:2]
    plain = await server.chatroom(ann, bob)
    strict = await server.chatroom(ann, bob, encryption_enabled=True)
    async with socket_client(server, beside(door)) as client:
        await client.authenticate(bob.token)
        for room in (plain, strict):
            sent = await say(server, ann, room, SEALED, door)
            assert sent.data["message"]["content"] == SEALED
            heard = await client.until("message_received")
            assert heard["data"]["message"]["content"] == SEALED
            assert contents(await fetch(server, bob, room, door)) == [SEALED]
    assert (await say(server, ann, strict, "text", door)).code == "MESSAGE_ENCRYPTION_FAILED"
    assert (await say(server, ann, plain, {**SEALED, "key_version": 0}, door)).code == "VALIDATION_INVALID_VALUE"
    assert (await say(server, ann, plain, {**SEALED, "encrypted_data": ""}, door)).code == "VALIDATION_INVALID_VALUE"


@BOTH
async def test_how_long_a_message_may_be(server: Server, crowd: list[Person], door: str) -> None:
    """16 KiB of UTF-8 fit, in text and in encrypted content; a byte more does not, nor does nothing at all."""
    ann = crowd[0]
    room = await server.chatroom(ann)
    for fits in ("x" * 16_384, "é" * 8_192, {**SEALED, "encrypted_data": "x" * 16_384}):
        sent = await say(server, ann, room, fits, door)
        assert sent.data["message"]["content"] == fits
    for long in ("x" * 16_385, "é" * 8_192 + "x", {**SEALED, "encrypted_data": "x" * 16_385}):
        refused = await say(server, ann, room, long, door)
        assert (refused.code, refused.data["details"]) == ("MESSAGE_TOO_LONG", {"limit": 16_384})
    assert (await say(server, ann, room, "", door)).code == "VALIDATION_INVALID_VALUE"
    assert len((await fetch(server, ann, room)).data["messages"]) == 3


async def test_one_bad_send_takes_no_other_down(server: Server, crowd: list[Person], transport: Transport) -> None:
    """Sends that travel in one commit are judged one by one."""
    ann = crowd[0]
    room = await server.chatroom(ann)
    async with socket_client(server, transport) as client:
        await client.authenticate(ann.token)
        for n in range(60):
            more = {"reply_to": str(uuid4())} if n % 3 == 0 else {}
            await client.send("send_message", {"chatroom_id": room, "content": str(n), **more}, id=str(n))
        frames = [await client.recv() for _ in range(60 + 40)]
        answers = {int(frame["id"]): frame for frame in frames if "id" in frame}
    assert len(answers) == 60
    for n, frame in answers.items():
        assert frame["event"] == ("error" if n % 3 == 0 else "ack")
    assert [m["content"] for m in await server.history(ann, room)] == [str(n) for n in range(60) if n % 3]


# --- history ---------------------------------------------------------------------------------


async def twelve(server: Server, ann: Person) -> tuple[UUID, list[dict[str, Any]]]:
    """A room of twelve messages, seq 2 to 13, each in a millisecond of its own."""
    room = await server.chatroom(ann)
    sent: list[dict[str, Any]] = []
    for n in range(12):
        sent.append((await say(server, ann, room, f"m{n}")).data["message"])
        await asyncio.sleep(0.002)
    return room, sent


@BOTH
async def test_pages_of_history(server: Server, crowd: list[Person], door: str) -> None:
    """Newest first by page, until there are no more; the total is that of the room."""
    room, _ = await twelve(server, crowd[0])
    pages = [await fetch(server, crowd[0], room, door, limit=5, page=page) for page in (1, 2, 3, 4)]
    assert [contents(page) for page in pages] == [
        ["m11", "m10", "m9", "m8", "m7"],
        ["m6", "m5", "m4", "m3", "m2"],
        ["m1", "m0"],
        [],
    ]
    assert [page.data["pagination"]["has_more"] for page in pages] == [True, True, False, False]
    assert pages[0].data["pagination"] == {"page": 1, "limit": 5, "total": 12, "pages": 3, "has_more": True}


@BOTH
async def test_before_and_after(server: Server, crowd: list[Person], door: str) -> None:
    """Both borders are left out; `before` reads backward and `after` forward, by seq, by id and by time."""
    ann = crowd[0]
    room, sent = await twelve(server, ann)
    fifth = sent[5]
    for cursor in (fifth["seq"], str(fifth["seq"]), fifth["id"], fifth["created_at"]):
        before = await fetch(server, ann, room, door, before=cursor, limit=3)
        assert contents(before) == ["m4", "m3", "m2"]
        assert before.data["pagination"]["has_more"] is True
        assert contents(await fetch(server, ann, room, door, before=cursor, limit=5)) == ["m4", "m3", "m2", "m1", "m0"]
        assert contents(await fetch(server, ann, room, door, before=cursor, limit=3, page=2)) == ["m1", "m0"]
        after = await fetch(server, ann, room, door, after=cursor, limit=4)
        assert contents(after) == ["m6", "m7", "m8", "m9"]
        assert after.data["pagination"]["has_more"] is True
        last = await fetch(server, ann, room, door, after=cursor, limit=4, page=2)
        assert (contents(last), last.data["pagination"]["has_more"]) == (["m10", "m11"], False)


@BOTH
async def test_times_as_cursors(server: Server, crowd: list[Person], door: str) -> None:
    """A time may be in any zone, and lie before or after everything."""
    ann = crowd[0]
    room, sent = await twelve(server, ann)
    moment = datetime.fromisoformat(sent[5]["created_at"])
    elsewhere = (moment + timedelta(hours=2)).replace(tzinfo=None).isoformat() + "+02:00"
    naive = moment.replace(tzinfo=None).isoformat()
    for cursor in (elsewhere, naive):
        assert contents(await fetch(server, ann, room, door, after=cursor, limit=1)) == ["m6"]
        assert contents(await fetch(server, ann, room, door, before=cursor, limit=1)) == ["m4"]
    assert len(contents(await fetch(server, ann, room, door, after="1970-01-01", limit=100))) == 12
    assert len(contents(await fetch(server, ann, room, door, before="9999-12-31T23:59:59Z", limit=100))) == 12
    assert contents(await fetch(server, ann, room, door, after="9999-12-31T23:59:59Z")) == []
    assert contents(await fetch(server, ann, room, door, after="9999-12-31T23:59:59.999999Z")) == []
    assert contents(await fetch(server, ann, room, door, before="0001-01-01T00:00:00Z")) == []


@pytest.mark.parametrize(
    ("cursors", "code", "field"),
    [
        ({"before": "yesterday"}, "VALIDATION_INVALID_FORMAT", "before"),
        ({"after": "2026-13-01"}, "VALIDATION_INVALID_FORMAT", "after"),
        ({"after": ""}, "VALIDATION_INVALID_VALUE", "after"),
        ({"before": "9" * 64}, "VALIDATION_INVALID_VALUE", "before"),
        ({"before": "x" * 65}, "VALIDATION_LENGTH_EXCEEDED", "before"),
        ({"before": 2**63}, "VALIDATION_INVALID_VALUE", "before"),
        ({"before": -1}, None, "before"),
        ({"before": str(UUID(int=1))}, "MESSAGE_NOT_FOUND", "before"),
        ({"before": "0001-01-01T00:00:00+12:00"}, "VALIDATION_INVALID_FORMAT", "before"),
        ({"after": "9999-12-31T23:59:59-12:00"}, "VALIDATION_INVALID_FORMAT", "after"),
        ({"before": 5, "after": 5}, "VALIDATION_INVALID_VALUE", "after"),
        ({"limit": 0}, "VALIDATION_INVALID_VALUE", "limit"),
        ({"limit": 101}, "VALIDATION_INVALID_VALUE", "limit"),
        ({"page": 0}, "VALIDATION_INVALID_VALUE", "page"),
        ({"limit": "many"}, "VALIDATION_INVALID_FORMAT", "limit"),
    ],
)
@BOTH
async def test_wrong_cursors(
    server: Server, crowd: list[Person], door: str, cursors: dict[str, Any], code: str | None, field: str
) -> None:
    """A cursor that means nothing is refused by name."""
    room = await server.chatroom(crowd[0])
    refused = await fetch(server, crowd[0], room, door, **cursors)
    assert refused.code == code or (code is None and refused.code.startswith("VALIDATION_"))
    assert refused.data["details"]["field"] == field


# --- read positions --------------------------------------------------------------------------


@BOTH
async def test_a_read_position_only_moves_forward(server: Server, crowd: list[Person], door: str) -> None:
    """It moves by seq or by message, never back and never past the newest event; what is one's own is not unread."""
    ann, bob = crowd[:2]
    room = await server.chatroom(ann, bob)
    sent = [(await say(server, ann, room, str(n))).data["message"] for n in range(4)]
    await say(server, bob, room, "mine")

    async def read(**how: Any) -> tuple[int, int]:
        answer = await ask(server, door, bob, "message_read", chatroom_id=room, **how)
        return answer.data["last_read_seq"], answer.data["unread_count"]

    assert await read(seq=0) == (1, 4)
    assert await read(message_id=sent[1]["id"]) == (3, 2)
    assert await read(seq=2) == (3, 2)
    assert await read(seq=4) == (4, 1)
    assert await read(seq=10_000) == (6, 0)
    fetched = await ask(server, "rest", bob, "get_chatroom", chatroom_id=room)
    mine = next(member for member in fetched.data["members"] if member["user_id"] == str(bob.id))
    assert mine["last_read_seq"] == 6
    assert mine["last_read_at"] is not None
    listed = await ask(server, "rest", bob, "list_chatrooms", limit=100)
    row = next(item for item in listed.data["chatrooms"] if item["id"] == str(room))
    assert (row["unread_count"], row["last_read_seq"]) == (0, 6)
    async with socket_client(server, beside(door)) as client:
        ready = await client.authenticate(bob.token)
    assert next(state["last_read_seq"] for state in ready["chatrooms"] if state["id"] == str(room)) == 6


@BOTH
async def test_wrong_read_positions(server: Server, crowd: list[Person], door: str) -> None:
    """One of message and seq is needed, and the message has to be of this room."""
    ann = crowd[0]
    room, other = await server.chatroom(ann), await server.chatroom(ann)
    foreign = (await say(server, ann, other, "x")).data["message"]["id"]
    assert (await ask(server, door, ann, "message_read", chatroom_id=room)).code == "VALIDATION_REQUIRED_FIELD"
    for message_id in (foreign, str(uuid4())):
        answer = await ask(server, door, ann, "message_read", chatroom_id=room, message_id=message_id)
        assert answer.code == "MESSAGE_NOT_FOUND"
    assert (await ask(server, door, ann, "message_read", chatroom_id=room, seq=-1)).code == "VALIDATION_INVALID_VALUE"


async def test_a_changed_name_shows_everywhere(server: Server) -> None:
    """History, lists and new messages bear the name that the sender has now."""
    ann = await server.person()
    room = await server.chatroom(ann)
    await say(server, ann, room, "old")
    await server.data("PUT", "/users/me", ann.token, {"display_name": "Anna", "avatar_url": "https://example.com/a"})
    new = await say(server, ann, room, "new")
    assert new.data["message"]["display_name"] == "Anna"
    page = (await fetch(server, ann, room)).data["messages"]
    assert {(m["display_name"], m["avatar_url"]) for m in page} == {("Anna", "https://example.com/a")}
