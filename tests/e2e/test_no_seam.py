"""Connecting, resuming and syncing in the middle of traffic: gapless, in order, once, however slow the queries are.

The readers sit where every transport ends, at the connection itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID

import pytest

from gateway.actor import Actor
from protocol.commands import AddMembers
from tests.e2e.node import DELAYS, Node, Reader, running_node

OFFSETS = 200
LONGEST = 0.3
"""Seconds that the slowest query takes."""
RATE = 500
"""Messages a second, where the machine can take them."""
UNDER_WAY = 100
"""Messages that wait for their commit at most: a slow machine gets fewer a second."""
TOGETHER = 50
"""Clients that are in the middle of it at most; a quick machine never has so many."""


@pytest.fixture
async def node(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Node]:
    """A node in this very loop. On a busy machine, its readers wait for their connections and are not sent away."""
    monkeypatch.setattr("storage.database.CONNECT_SECONDS", 60.0)
    async with running_node(database_url, tmp_path) as node:
        yield node


def delays(place: int) -> tuple[float, float]:
    """The delay of one offset: of the question, of the answer, or half of each."""
    whole = LONGEST * place / OFFSETS
    return [(whole, 0.0), (0.0, whole), (whole / 2, whole / 2)][place % 3]


@asynccontextmanager
async def traffic(node: Node, actor: Actor, room: UUID) -> AsyncIterator[None]:
    """RATE messages a second at most, for as long as the context is open."""

    async def send() -> None:
        loop = asyncio.get_running_loop()
        start, sent, done = loop.time(), 0, 0

        def settle(_: object) -> None:
            nonlocal done
            done += 1

        while True:
            while sent < (loop.time() - start) * RATE and sent - done < UNDER_WAY:
                node.send(actor, room, str(sent), settle)
                sent += 1
            await asyncio.sleep(0.008)

    task = asyncio.create_task(send())
    try:
        yield
    finally:
        task.cancel()
        await node.journal.drain()


async def life(node: Node, token: str, room: UUID, place: int, turns: asyncio.Semaphore) -> list[str]:
    """One client, when it is its turn: it connects, is cut, resumes, and syncs. Returns what was wrong."""
    await asyncio.sleep(place * 0.035)
    async with turns:
        return await live(node, token, room, place)


async def live(node: Node, token: str, room: UUID, place: int) -> list[str]:
    """What `life` is about."""
    DELAYS.set(delays(place))
    reader = Reader(node, token)
    await reader.open()
    await reader.caught_up(room)
    await asyncio.sleep(0.03)
    reader.go_deaf()
    await asyncio.sleep(0.02)
    reader.cut()
    await asyncio.sleep(0.1 * (place % 3))
    await reader.resume()
    await reader.caught_up(room)
    await reader.sync(room, back=place % 40)
    await reader.caught_up(room)
    reader.cut()
    return reader.faults


async def test_no_seam(node: Node) -> None:
    """At 200 offsets of 0 to 300 ms, with up to 500 messages a second; also where others see a commit before we do."""
    ann, token = await node.user("ann")
    room = await node.room(ann)
    await node.services.room_keys.get(room)
    node.write.late = 0.03
    steady = [Reader(node, token) for _ in range(2)]
    for reader in steady:
        await reader.open()
    turns = asyncio.Semaphore(TOGETHER)
    async with traffic(node, ann, room):
        faults = await asyncio.gather(*(life(node, token, room, place, turns) for place in range(OFFSETS)))
    assert {place: fault for place, fault in enumerate(faults) if fault} == {}
    for reader in steady:
        await reader.caught_up(room)
        assert reader.faults == []
    assert steady[0].next[room] > 1_000


async def test_joining_has_no_seam_either(node: Node) -> None:
    """Who is added to a room while a session opens hears it from `ready` on, or from their `user_joined` on."""
    ann, _ = await node.user("ann")
    bob, token = await node.user("bob")
    node.write.late = 0.03

    async def added(place: int) -> list[str]:
        room = await node.room(ann)
        await node.services.room_keys.get(room)
        reader = Reader(node, token)
        async with traffic(node, ann, room):
            DELAYS.set(delays(place * 4))
            opening = asyncio.create_task(reader.open())
            await asyncio.sleep(0.3 * (place % 7) / 7)
            DELAYS.set((0.0, 0.0))
            await node.chat.handle(ann, AddMembers(chatroom_id=room, user_ids=[bob.user.id]))
            await opening
            await asyncio.sleep(0.05)
        await reader.caught_up(room)
        reader.cut()
        return reader.faults

    for first in range(0, 50, 10):
        faults = await asyncio.gather(*(added(place) for place in range(first, first + 10)))
        assert [fault for fault in faults if fault] == []
