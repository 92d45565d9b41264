"""Who is online, who is typing, who has read: told once, to those who have the room open."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from uuid import UUID

import asyncpg
import pytest
import pytest_asyncio

from tests.e2e.conftest import server_of_its_own
from tests.e2e.lines import Transport
from tests.e2e.server import Person, Server
from tests.e2e.socket_client import SocketClient, on_all_transports, socket_client

GRACE = 0.6


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def module_server(server_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    """One server for these tests, on which users are offline soon after their last socket."""
    async with server_of_its_own(server_url, tmp_path_factory, "presence", PARLEY_PRESENCE_GRACE=str(GRACE)) as server:
        yield server


@pytest.fixture
def server(module_server: Server, transport: Transport) -> Server:
    """The server of this module, over each transport in turn."""
    return module_server.over(transport)


class Party:
    """Clients of one test, each with its session open."""

    def __init__(self, server: Server, stack: AsyncExitStack) -> None:
        self._server = server
        self._stack = stack

    async def connect(self, person: Person, *rooms: UUID) -> SocketClient:
        """A client that has these rooms open."""
        client = await self._stack.enter_async_context(socket_client(self._server))
        await client.authenticate(person.token)
        for room in rooms:
            assert (await client.ask("join_chatroom", {"chatroom_id": room}))["event"] == "ack"
        return client


@asynccontextmanager
async def gathering(server: Server) -> AsyncIterator[Party]:
    """A maker of clients, for as long as the context is open."""
    async with AsyncExitStack() as stack:
        yield Party(server, stack)


@pytest.fixture
async def party(server: Server) -> AsyncIterator[Party]:
    """A maker of clients."""
    async with gathering(server) as party:
        yield party


async def told(client: SocketClient, seconds: float = 0.0) -> list[dict[str, Any]]:
    """What a client is told within these seconds."""
    await asyncio.sleep(seconds)
    await client.send("ping", id="now")
    frames = []
    while (frame := await client.recv()).get("id") != "now":
        frames.append(frame)
    return frames


def presence(frames: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Who came and went."""
    return [(f["event"], f["data"]["user_id"]) for f in frames if f["event"] in ("user_online", "user_offline")]


# --- online and offline ----------------------------------------------------------------------


async def test_coming_and_going(module_server: Server) -> None:
    """The first session and the end of the last make an event each, whatever lies between."""
    await on_all_transports(module_server, _coming_and_going)


async def _coming_and_going(server: Server) -> None:
    async with gathering(server) as party:
        ann, bob = await server.people(2)
        room = await server.chatroom(ann, bob)
        watcher = await party.connect(ann, room)
        first = await party.connect(bob)
        second = await party.connect(bob)
        frames = await told(watcher)
        assert presence(frames) == [("user_online", str(bob.id))]
        assert frames[0]["data"] == {"user_id": str(bob.id), "username": bob.username}
        await first.goodbye()
        assert presence(await told(watcher, GRACE + 0.4)) == []
        await second.goodbye()
        assert presence(await told(watcher, GRACE / 3)) == []
        assert presence(await told(watcher, GRACE + 0.4)) == [("user_offline", str(bob.id))]


async def test_a_reconnect_within_the_grace(module_server: Server) -> None:
    """Who comes back in time, by a resume or by a new session, was never away."""
    await on_all_transports(module_server, _a_reconnect_within_the_grace)


async def _a_reconnect_within_the_grace(server: Server) -> None:
    async with gathering(server) as party:
        ann, bob = await server.people(2)
        room = await server.chatroom(ann, bob)
        watcher = await party.connect(ann, room)
        client = await party.connect(bob)
        assert presence(await told(watcher)) == [("user_online", str(bob.id))]
        client.cut()
        again = await party.connect(bob)
        assert presence(await told(watcher, GRACE + 0.4)) == []
        await again.goodbye()
        later = await party.connect(bob)
        assert presence(await told(watcher, GRACE + 0.4)) == []
        later.cut()
        assert presence(await told(watcher, GRACE + 0.4)) == [("user_offline", str(bob.id))]


async def test_only_to_those_who_have_the_room_open(server: Server, party: Party) -> None:
    """Members who have not opened the room, have closed it, or are of other rooms, are not told."""
    ann, bob, cat, eve = await server.people(4)
    room, other = await server.chatroom(ann, bob, cat), await server.chatroom(ann, eve)
    opened = await party.connect(ann, room)
    closed = await party.connect(ann, room)
    await closed.ask("leave_chatroom", {"chatroom_id": room})
    never = await party.connect(cat)
    elsewhere = await party.connect(eve, other)
    await told(opened, 0.1)
    bobs = await party.connect(bob, room)
    await bobs.ask("typing_start", {"chatroom_id": room})
    await bobs.ask("message_read", {"chatroom_id": room, "seq": 1})
    heard = [frame["event"] for frame in await told(opened)]
    assert heard == ["user_online", "typing_indicator"]
    for client in (closed, never, elsewhere):
        assert await told(client) == []


async def test_who_is_online(server: Server, party: Party) -> None:
    """Opening a room tells who of its members is there; the list of members says it too."""
    ann, bob, cat = await server.people(3)
    room = await server.chatroom(ann, bob, cat)
    client = await party.connect(ann)
    await party.connect(bob)
    answer = await client.ask("join_chatroom", {"chatroom_id": room})
    assert answer["data"] == {
        "chatroom_id": str(room),
        "seq": 1,
        "online_count": 2,
        "online": sorted([str(ann.id), str(bob.id)]),
    }
    fetched = await server.data("GET", f"/chatrooms/{room}", ann.token)
    online = {member["user_id"] for member in fetched["members"] if member["is_online"]}
    assert online == {str(ann.id), str(bob.id)}


async def test_a_syncing_member_is_online(server: Server, party: Party) -> None:
    """A member counts as online while one of their sessions syncs."""
    ann, bob = await server.people(2)
    room = await server.chatroom(ann, bob)
    client = await party.connect(ann)
    other = await party.connect(bob)
    for n in range(30):
        await other.send("sync", {"chatrooms": {str(room): 0}}, id=str(n))
        answer = await client.ask("join_chatroom", {"chatroom_id": room})
        assert answer["data"]["online_count"] == 2


async def test_a_large_room_is_counted(module_server: Server) -> None:
    """Above 200 members there are numbers, not names; many changes in a second make one event."""
    await on_all_transports(module_server, _a_large_room_is_counted)


async def _a_large_room_is_counted(server: Server) -> None:
    async with gathering(server) as party:
        ann, *others = await server.people(12)
        room = await server.chatroom(ann, *others)
        await fill(server, room, 201)
        watcher = await party.connect(ann)
        answer = await watcher.ask("join_chatroom", {"chatroom_id": room})
        assert answer["data"]["online_count"] == 1
        assert answer["data"].get("online") is None
        clients = await asyncio.gather(*(party.connect(person) for person in others))
        frames = await told(watcher, 1.5)
        assert {frame["event"] for frame in frames} == {"presence_count"}
        assert len(frames) <= 3
        assert frames[-1]["data"] == {"chatroom_id": str(room), "online_count": 12}
        for client in clients[:5]:
            await client.goodbye()
        frames = await told(watcher, GRACE + 2)
        assert frames[-1]["data"] == {"chatroom_id": str(room), "online_count": 7}


async def fill(server: Server, room: UUID, members: int) -> None:
    """Adds members who never sign in."""
    conn = await asyncpg.connect(server.database_url)
    await conn.execute(
        """WITH u AS (
               INSERT INTO users (id, username, username_key, email, email_key, display_name, password_hash,
                                  created_at, updated_at)
               SELECT gen_random_uuid(), 'extra-' || n, $1 || n, 'x', $1 || 'm' || n, 'Extra', 'x', now(), now()
               FROM generate_series(1, $3) n RETURNING id
           ), m AS (
               INSERT INTO members (chatroom_id, user_id, role, joined_at) SELECT $2, id, 'member', now() FROM u
           )
           UPDATE chatrooms SET member_count = member_count + $3, max_members = 10000 WHERE id = $2""",
        str(room),
        room,
        members,
    )
    await conn.close()


# --- typing and reading ----------------------------------------------------------------------


async def test_typing(server: Server, party: Party) -> None:
    """Starting and stopping are told to the others, on all their sessions, and never to the one who types."""
    ann, bob = await server.people(2)
    room = await server.chatroom(ann, bob)
    mine, mine_too = await party.connect(ann, room), await party.connect(ann, room)
    other = await party.connect(bob, room)
    await told(mine)
    await told(mine_too)
    for event, is_typing in (("typing_start", True), ("typing_stop", False)):
        assert (await mine.ask(event, {"chatroom_id": room}))["event"] == "ack"
        heard = await other.until("typing_indicator")
        assert heard["data"] == {
            "chatroom_id": str(room),
            "user_id": str(ann.id),
            "username": ann.username,
            "is_typing": is_typing,
        }
        assert "seq" not in heard
    assert await told(mine) == await told(mine_too) == []


async def test_read_receipts(server: Server, party: Party) -> None:
    """A position that moves is told to all who have the room open, the reader's other sessions too; once."""
    ann, bob = await server.people(2)
    room = await server.chatroom(ann, bob)
    watcher, mine = await party.connect(ann, room), await party.connect(bob, room)
    await told(watcher)
    await server.data("POST", f"/chatrooms/{room}/messages", ann.token, {"content": "x"})
    for seq in (2, 2, 1):
        await server.data("POST", f"/chatrooms/{room}/read", bob.token, {"seq": seq})
    for client in (watcher, mine):
        receipts = [frame for frame in await told(client) if frame["event"] == "read_receipt"]
        assert [frame["data"]["seq"] for frame in receipts] == [2]
        assert receipts[0]["data"]["user_id"] == str(bob.id)


async def test_ephemeral_events_are_not_replayed(server: Server, party: Party) -> None:
    """Typing during a cut is not told on resume; the room stays open over it."""
    ann, bob = await server.people(2)
    room = await server.chatroom(ann, bob)
    other = await party.connect(bob, room)
    async with socket_client(server) as client:
        ready = await client.authenticate(ann.token)
        await client.ask("join_chatroom", {"chatroom_id": room})
        received = client.received
        client.cut()
    await asyncio.sleep(0.1)
    await other.ask("typing_start", {"chatroom_id": room})
    async with socket_client(server) as client:
        await client.until("hello")
        session = {name: ready[name] for name in ("session_id", "resume_token")}
        await client.send("resume", {**session, "received": received})
        assert (await client.recv())["data"]["missed"] == 0
        await other.ask("typing_stop", {"chatroom_id": room})
        assert (await client.until("typing_indicator"))["data"]["is_typing"] is False
