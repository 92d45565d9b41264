"""What must reach every node does so, also when a look into the control log fails."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from gateway.nodes import Nodes
from protocol.errors import ChatError
from storage.bus import LocalBus
from storage.database import Connection, Database
from storage.events import CommittedEvent
from tests.e2e.node import Reader, running_node


class DeafBus(LocalBus):
    """A bus on which everything is lost."""

    def publish(self, events: list[CommittedEvent]) -> None:
        """Nobody hears it."""


class Away:
    """A database that is away now and then."""

    def __init__(self, database: Database) -> None:
        self.away = False
        self._database = database

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[Connection]:
        """A connection, if it is there."""
        if self.away:
            raise ChatError("SERVICE_UNAVAILABLE")
        async with self._database.acquire() as conn:
            yield conn


async def test_a_look_that_failed(database_url: str, tmp_path: Path) -> None:
    """A new chatroom whose hint was lost is found, also when the database is away while it is looked for."""
    async with running_node(database_url, tmp_path, DeafBus()) as node:
        ann, _ = await node.user("ann")
        _, token = await node.user("bob")
        reader = Reader(node, token)
        await reader.open()
        (session,) = node.hub.sessions.values()
        database = Away(node.write)
        nodes = Nodes(node.hub, LocalBus(), cast("Any", database))
        await nodes.read_control()
        bob = await node.chat.authenticate(token)
        room = await node.room(ann, bob)
        await nodes.read_control()
        assert room not in session.rooms
        database.away = True
        with pytest.raises(ChatError):
            await nodes.read_control()
        database.away = False
        await nodes.read_control()
        assert room in session.rooms
