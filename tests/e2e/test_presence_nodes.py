"""Who is online where there are two nodes: told as if there were one, whatever happens to them or to Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any
from uuid import UUID

import asyncpg
import pytest
import pytest_asyncio

from tests.e2e.server import Person, Server
from tests.e2e.socket_client import SocketClient, socket_client
from tests.e2e.test_presence import Party, fill, presence, told
from tests.valkey import Valkey

pytestmark = pytest.mark.asyncio(loop_scope="module")

GRACE = 2.0
PATIENCE = 20.0
"""Seconds for what takes one at most on a machine that has nothing else to do."""
LIMIT = 4
"""Connections a user."""


class Pair:
    """Two nodes, and clients of theirs."""

    def __init__(self, here: Server, there: Server, stack: AsyncExitStack) -> None:
        self.here, self.there = here, there
        self._parties = {id(node): Party(node, stack) for node in (here, there)}

    async def connect(self, node: Server, person: Person, *rooms: UUID) -> SocketClient:
        """A client of this node that has these rooms open."""
        return await self._parties[id(node)].connect(person, *rooms)

    async def watch(self, person: Person, room: UUID) -> tuple[SocketClient, SocketClient]:
        """A client of each node that has a room open, once both nodes know of it."""
        watchers = await self.connect(self.here, person, room), await self.connect(self.there, person, room)
        for node in (self.here, self.there):
            await online(node, person, room, {person.id})
        return watchers

    async def told(self, source: Server, goal: Server) -> None:
        """Waits until one node knows all that has happened on the other: it hears that in order."""
        marker = await source.person()
        room = await source.chatroom(marker)
        await self.connect(source, marker)
        await online(goal, marker, room, {marker.id})


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def nodes(
    server_url: str, tmp_path_factory: pytest.TempPathFactory, one_valkey: Valkey
) -> AsyncIterator[list[Server]]:
    """Two nodes that share a database, keys and a Valkey."""
    one_valkey.renew()
    admin = await asyncpg.connect(server_url, database="postgres")
    await admin.execute("CREATE DATABASE presence_nodes TEMPLATE parley")
    directory = tmp_path_factory.mktemp("presence-nodes")
    settings = {
        "REDIS_URL": one_valkey.url,
        "PARLEY_DATA": str(directory / "data"),
        "PARLEY_PRESENCE_GRACE": str(GRACE),
        "PARLEY_LIMIT_CONNECTIONS": str(LIMIT),
    }
    started = []
    for number in range(2):
        (directory / f"node-{number}").mkdir()
        node = Server(directory / f"node-{number}", server_url.replace("/parley?", "/presence_nodes?"), settings)
        await node.start()
        started.append(node)
    yield started
    for node in started:
        await node.stop()
    await admin.execute("DROP DATABASE presence_nodes WITH (FORCE)")
    await admin.close()
    assert not any("Traceback" in node.logs() for node in started)


@pytest_asyncio.fixture(loop_scope="module")
async def pair(nodes: list[Server]) -> AsyncIterator[Pair]:
    """The nodes, and clients that are closed after the test."""
    async with AsyncExitStack() as stack:
        yield Pair(nodes[0], nodes[1], stack)


async def online(node: Server, person: Person, room: UUID, expected: set[UUID]) -> None:
    """Waits until a node says that just these members of a chatroom are online."""
    found: set[UUID] = set()
    try:
        async with asyncio.timeout(PATIENCE):
            while found != expected:
                fetched = await node.data("GET", f"/chatrooms/{room}", person.token)
                found = {UUID(member["user_id"]) for member in fetched["members"] if member["is_online"]}
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"{found} instead of {expected}") from None


async def hears(client: SocketClient, event: str, person: Person) -> None:
    """The next news of presence that a client hears is this."""
    frame = await client.until(event, timeout=PATIENCE)
    assert frame["data"] == {"user_id": str(person.id), "username": person.username}


async def news(*clients: SocketClient) -> list[Any]:
    """Who came and went, as each of them was told until now."""
    return [presence(await told(client)) for client in clients]


async def test_coming_and_going(pair: Pair) -> None:
    """The first session anywhere and the end of the last are told on both nodes, once, whatever lies between."""
    here, there = pair.here, pair.there
    ann, bob = await here.people(2)
    room = await here.chatroom(ann, bob)
    watchers = await pair.watch(ann, room)
    first = await pair.connect(here, bob)
    for watcher in watchers:
        await hears(watcher, "user_online", bob)
    await online(there, ann, room, {ann.id, bob.id})
    answer = await watchers[1].ask("join_chatroom", {"chatroom_id": room})
    assert answer["data"]["online"] == sorted([str(ann.id), str(bob.id)])
    assert answer["data"]["online_count"] == 2
    second = await pair.connect(there, bob)
    await pair.told(there, here)
    await first.goodbye()
    await asyncio.sleep(GRACE + 1)
    third = await pair.connect(here, bob)
    await pair.told(here, there)
    second.cut()
    await asyncio.sleep(GRACE + 1)
    assert await news(*watchers) == [[], []]
    await third.goodbye()
    for watcher in watchers:
        await hears(watcher, "user_offline", bob)
    await online(there, ann, room, {ann.id})
    assert await news(*watchers) == [[], []]


async def test_redis_forgets_and_goes(pair: Pair, one_valkey: Valkey) -> None:
    """FLUSHALL and a restart of Redis are not noticed; what changed meanwhile is told afterwards."""
    here = pair.here
    ann, bob, cat = await here.people(3)
    room = await here.chatroom(ann, bob, cat)
    watchers = await pair.watch(ann, room)
    bobs = await pair.connect(here, bob)
    for watcher in watchers:
        await hears(watcher, "user_online", bob)
    one_valkey.flush()
    await asyncio.sleep(GRACE + 2)
    assert await news(*watchers) == [[], []]
    one_valkey.kill()
    await pair.connect(here, cat)
    await hears(watchers[0], "user_online", cat)
    await bobs.goodbye()
    await hears(watchers[0], "user_offline", bob)
    assert presence(await told(watchers[1])) == []
    one_valkey.start()
    heard = [await watchers[1].recv(PATIENCE) for _ in range(2)]
    assert sorted(presence(heard)) == sorted([("user_online", str(cat.id)), ("user_offline", str(bob.id))])
    await asyncio.sleep(1)
    assert await news(*watchers) == [[], []]


async def test_a_large_room_is_counted(pair: Pair) -> None:
    """Above 200 members both nodes tell how many are online on both, exactly."""
    here, there = pair.here, pair.there
    ann, *others = await here.people(6)
    room = await here.chatroom(ann, *others)
    await fill(here, room, 201)
    watchers = await pair.watch(ann, room)
    clients = [await pair.connect(node, person) for person, node in zip(others, [here, there] * 3, strict=False)]
    await pair.connect(there, others[0])
    for watcher in watchers:
        await counted(watcher, 6)
    answer = await (await pair.connect(there, others[1])).ask("join_chatroom", {"chatroom_id": room})
    assert (answer["data"]["online_count"], answer["data"].get("online")) == (6, None)
    for client in clients:  # two of the others have another connection
        await client.goodbye()
    for watcher in watchers:
        await counted(watcher, 3)


async def counted(client: SocketClient, count: int) -> None:
    """Waits until a client is told of this count, and of no user by name before."""
    frame = await client.recv(PATIENCE)
    while frame["event"] != "presence_count" or frame["data"]["online_count"] != count:
        assert frame["event"] == "presence_count", frame
        frame = await client.recv(PATIENCE)


async def test_connections_are_limited_on_all_nodes(pair: Pair) -> None:
    """A user may have so many in all; one that ends makes place, at once and everywhere."""
    here, there = pair.here, pair.there
    (ann,) = await here.people(1)
    clients = [await pair.connect(node, ann) for node in [here, there] * (LIMIT // 2)]
    for node in (here, there):
        assert await refused(node, ann)
    await clients[0].goodbye()
    await pair.connect(there, ann)


async def refused(node: Server, person: Person) -> bool:
    """Waits until one more connection is refused: nodes know of each other's a moment later."""
    async with asyncio.timeout(PATIENCE):
        while True:
            async with socket_client(node) as client:
                await client.until("hello")
                await client.send("authenticate", {"token": person.token})
                if (frame := await client.recv())["event"] == "error":
                    assert frame["data"]["code"] == "CONNECTION_LIMIT_EXCEEDED"
                    return True


async def test_a_node_dies(pair: Pair) -> None:
    """Its users are offline when its lease and the grace are over, except those who are on the other by then.

    Connections that it had do not count any more, not even while its lease lasts.
    """
    here, there = pair.here, pair.there
    ann, bob, cat = await here.people(3)
    room = await here.chatroom(ann, bob, cat)
    _, watcher = await pair.watch(ann, room)
    for _ in range(LIMIT):
        await pair.connect(here, bob)
    await pair.connect(here, cat)
    for _ in range(2):
        await watcher.until("user_online", timeout=PATIENCE)
    assert await refused(there, bob)
    await here.kill()
    for _ in range(LIMIT):
        await pair.connect(there, bob)
    assert presence(await told(watcher)) == []
    await hears(watcher, "user_offline", cat)
    await here.start()
    await online(here, ann, room, {ann.id, bob.id})
    assert await news(watcher) == [[]]
