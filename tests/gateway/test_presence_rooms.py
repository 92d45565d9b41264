"""Who of a chatroom is online on other nodes, as the database says whose chatrooms are whose."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast
from uuid import UUID

import pytest

from gateway.presence import COUNT_INTERVAL
from gateway.presence_rooms import Online, RoomPresence
from protocol.errors import ChatError
from storage.database import Connection, Database
from tests.gateway.hub_world import ROOM, names
from tests.gateway.presence_world import Cluster, Node, user
from tests.storage.rows import add_chatroom, add_user

ANN, BOB, CAT = user("ann"), user("bob"), user("cat")


class CountedDatabase:
    """A database that counts how often it is asked, and that may be away."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.asked = 0
        self.away = False

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[Connection]:
        """A connection."""
        self.asked += 1
        if self.away:
            raise ChatError("SERVICE_UNAVAILABLE")
        async with self._database.acquire() as conn:
            yield conn


class Rooms:
    """Two nodes, of which the first has the presence of rooms: of ROOM, with ann, bob and cat."""

    def __init__(self, database: Database) -> None:
        self.cluster = Cluster(2)
        self.here, self.there = cast("tuple[Node, Node]", self.cluster.nodes.values())
        self.database = CountedDatabase(database)
        self.presence = RoomPresence(self.here.hub, self.here.presence, cast("Any", self.database))


@pytest.fixture
async def rooms(db: Database) -> Rooms:
    """The room is in the database."""
    async with db.transaction() as conn:
        for person in (ANN, BOB, CAT):
            await add_user(conn, person)
        await add_chatroom(conn, ANN.id, BOB.id, CAT.id, chatroom_id=ROOM)
    return Rooms(db)


def found(*people: UUID) -> Online:
    """These, by name."""
    return Online(len(people), tuple(sorted(people)))


async def test_alone_the_database_is_not_asked(rooms: Rooms) -> None:
    """Nobody is on another node: the hub knows all."""
    rooms.here.watches(ANN)
    session = rooms.here.joins(BOB)
    room = rooms.here.hub.rooms[ROOM]
    rooms.here.presence.came(next(iter(rooms.here.hub.users[ANN.id])))
    assert await rooms.presence.open(session, room) == found(ANN.id, BOB.id)
    assert rooms.database.asked == 0


async def test_members_on_other_nodes_are_online(rooms: Rooms) -> None:
    """They are told of in the answer, and in events from then on; in a session that hears the room no more, neither."""
    rooms.there.comes(BOB)
    rooms.there.comes(user("stranger"))
    rooms.cluster.run(1)
    rooms.here.waits()
    session = rooms.here.joins(ANN)
    room = rooms.here.hub.rooms[ROOM]
    room.member_count = 3
    assert await rooms.presence.open(session, room) == found(ANN.id, BOB.id)
    assert session in room.openers
    rooms.here.hub.forget(session)
    assert await rooms.presence.open(session, room) is None


async def test_changes_wait_for_the_database(rooms: Rooms) -> None:
    """Nobody is forgotten while it is away; then all are told of in one question."""
    link = rooms.here.watches(ANN)
    for person in (BOB, CAT):
        rooms.there.comes(person)
    rooms.cluster.run(1)
    rooms.database.away = True
    with pytest.raises(ChatError):
        await rooms.presence.tell()
    assert rooms.here.presence.waiting == {BOB.id, CAT.id}
    rooms.database.away = False
    rooms.database.asked = 0
    await rooms.presence.tell()
    rooms.here.flush()
    assert names(link) == ["user_online"] * 2
    assert rooms.database.asked == 1
    assert rooms.here.waits() == set()


async def test_a_room_of_unknown_size_is_measured(rooms: Rooms) -> None:
    """Before anybody is named in it."""
    link = rooms.here.watches(ANN)
    room = rooms.here.hub.rooms[ROOM]
    room.member_count = 0
    rooms.here.joins(CAT)
    rooms.here.flush()
    assert names(link) == []
    await rooms.presence.tell()
    rooms.here.flush()
    assert names(link) == ["user_online"]
    assert room.member_count == 3


async def test_a_large_room_that_many_open_is_counted_once(rooms: Rooms) -> None:
    """Its members are read once a second; should the count be old by then, an event follows."""
    rooms.there.comes(BOB)
    rooms.cluster.run(1)
    rooms.here.waits()
    session = rooms.here.joins(ANN)
    room = rooms.here.hub.rooms[ROOM]
    room.member_count = 1_000
    answers = await asyncio.gather(*(rooms.presence.open(session, room) for _ in range(50)))
    assert set(answers) == {Online(2, None)}
    assert rooms.database.asked == 1
    link = cast("Any", rooms.here.hub.links[session])
    for count in (1, 2):
        rooms.cluster.clock.advance(COUNT_INTERVAL)
        await rooms.presence.tell()
        rooms.here.flush()
        assert names(link) == ["presence_count"] * count
        rooms.there.comes(CAT)
        rooms.cluster.run(1)
        await rooms.presence.tell()
