"""Beside a node that runs a newer Parley, an older one goes on: what it does not know it passes on."""

from __future__ import annotations

import asyncio
from pathlib import Path

from msgspec import Raw

from storage import hints
from storage.hints import Committed, EventHint
from tests.e2e.node import Reader, running_node


async def test_an_unknown_event(database_url: str, tmp_path: Path) -> None:
    """An event of a kind that only a newer Parley makes reaches clients in its place, by a hint or by the sweep."""
    async with running_node(database_url, tmp_path) as node:
        actor, token = await node.user("ann")
        room = await node.room(actor)
        await node.services.room_keys.get(room)
        reader = Reader(node, token)
        await reader.open()
        async with node.write.transaction() as conn:
            await conn.execute(
                "INSERT INTO events (chatroom_id, seq, kind, data, created_at) VALUES ($1, 2, 'pinned', $2, now())",
                room,
                {"message_id": "x"},
            )
            await conn.execute("UPDATE chatrooms SET last_seq = 2 WHERE id = $1", room)
        await node.repair.sweep()
        async with asyncio.timeout(20):
            while reader.next[room] != 3:
                await asyncio.sleep(0.01)
        data = Raw(hints.encode({"message_id": "y"}))
        told = hints.events_of(Committed((EventHint(room, 3, "pinned", data),)))
        node.hub.deliver(told)
        async with asyncio.timeout(20):
            while reader.next[room] != 4:
                await asyncio.sleep(0.01)
        assert not reader.faults
