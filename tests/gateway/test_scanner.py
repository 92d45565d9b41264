"""What is told of a file that was scanned, whoever sends it meanwhile, and whatever broke before it was told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import pytest

from gateway.files.clamd import Clamd, ClamdAddress
from gateway.files.scanner import Scanner
from protocol.commands import DeleteChatroom, FetchMessages, RecallMessage
from protocol.errors import ChatError
from storage import events, scans
from storage.database import Database
from tests.clamd import EICAR, FakeClamd, running_clamd
from tests.e2e.node import running_node
from tests.gateway.test_collector import World, until_waiting


class ScannedWorld(World):
    """A world whose files are scanned."""

    clamd: FakeClamd
    scanner: Scanner

    async def statuses(self) -> list[list[str]]:
        """Of each message, oldest first, the status of its attachments."""
        command = FetchMessages(chatroom_id=self.room, after=0)
        fetched: Any = await self.node.chat.handle(self.bob, command)
        return [[attachment.status for attachment in message.attachments] for message in fetched.messages]

    async def told(self) -> list[tuple[UUID, str]]:
        """What the chatroom's events say of files."""
        found = await events.read_after(self.db, self.node.services.room_keys, {self.room: 0}, 1_000)
        updates = [cast("Any", e.data) for e in found[self.room] if e.kind == "attachment_updated"]
        return [(data.file_id, data.status) for data in updates]


@pytest.fixture
async def world(database_url: str, db: Database, tmp_path: Path) -> AsyncIterator[ScannedWorld]:
    """A world of the test's own; its scanner works when a test asks it to."""
    async with running_node(database_url, tmp_path) as node, running_clamd() as (clamd, port):
        services, metrics = node.services, node.services.metrics.files
        client = Clamd(ClamdAddress(None, "127.0.0.1", port))
        scanner = Scanner(client, db, services.files, services.journal, services.room_keys, metrics)
        node.chat.files._services = node.chat._services = replace(services, scanner=scanner)
        world = ScannedWorld(node, db)
        world.clamd, world.scanner = clamd, scanner
        await world.enter()
        yield world


async def test_verdicts(world: ScannedWorld) -> None:
    """Messages show what became of their files, each told once; bytes of what is harmful are gone."""
    clean, bad, large = await world.upload(), await world.upload(EICAR), await world.upload(bytes(2_000_000))
    world.clamd.limit = 1_000_000
    await world.send(clean, bad)
    await world.send(large)
    assert await world.statuses() == [["scanning", "scanning"], ["scanning"]]
    with pytest.raises(ChatError, match="FILE_NOT_READY"):
        await world.read(world.bob, clean)
    for _ in range(2):
        await world.scanner.scan_all()
    assert await world.statuses() == [["ready", "rejected"], ["rejected"]]
    assert sorted(await world.told()) == sorted([(clean, "ready"), (bad, "rejected"), (large, "rejected")])
    assert await world.read(world.bob, clean) == b"some bytes"
    for reader, file_id in ((world.ann, bad), (world.bob, bad), (world.ann, large)):
        with pytest.raises(ChatError, match="FILE_REJECTED"):
            await world.read(reader, file_id)
    assert len(await world.kept()) == 1
    with pytest.raises(ChatError, match="FILE_REJECTED"):
        await world.send(bad)


async def test_a_file_that_is_said_to_be_sealed(world: ScannedWorld) -> None:
    """It is scanned like any other: whether it is sealed is only what its sender says."""
    file_id = await world.upload(EICAR, encrypted=True)
    await world.scanner.scan_all()
    with pytest.raises(ChatError, match="FILE_REJECTED"):
        await world.read(world.ann, file_id)


async def test_settled_and_not_told(world: ScannedWorld) -> None:
    """A process that ended between the verdict and the news leaves that to whoever looks next, and to one of them."""
    file_id = await world.upload()
    await world.send(file_id)
    await world.send(file_id)
    await world.node.services.files.settle_scan(file_id, "ready")
    assert await world.statuses() == [["scanning"], ["scanning"]]
    await asyncio.gather(world.scanner.scan_all(), world.scanner.scan_all())
    assert await world.statuses() == [["ready"], ["ready"]]
    assert await world.told() == [(file_id, "ready")] * 2


async def test_places_that_are_gone(world: ScannedWorld) -> None:
    """A message that was recalled and a chatroom that was deleted are told nothing, and hold nothing up."""
    file_id = await world.upload()
    deleted, world.room = world.room, await world.node.room(world.ann, world.bob)
    kept = world.room
    world.room = deleted
    await world.send(file_id)
    world.room = kept
    for _ in range(2):
        await world.send(file_id)
    fetched: Any = await world.node.chat.handle(world.ann, FetchMessages(chatroom_id=kept, after=0))
    recalled = RecallMessage(chatroom_id=kept, message_id=fetched.messages[0].id)
    await world.node.chat.handle(world.ann, recalled)
    await world.node.services.files.settle_scan(file_id, "ready")
    await world.node.chat.handle(world.ann, DeleteChatroom(chatroom_id=deleted))
    await world.scanner.scan_all()
    assert await world.statuses() == [[], ["ready"]]
    assert await world.told() == [(file_id, "ready")]
    async with world.db.acquire() as conn:
        assert await scans.outdated(conn, 10) == []


async def test_sent_while_it_is_settled(world: ScannedWorld) -> None:
    """A message that is written with a file as it was before the verdict hears of the verdict."""
    file_id = await world.upload()
    await world.node.services.files.remember([file_id])
    async with world.db.transaction() as conn:
        await conn.execute("LOCK TABLE message_files IN SHARE MODE")
        sending = asyncio.create_task(world.send(file_id))
        await until_waiting(world.db, 1)
        settling = asyncio.create_task(world.node.services.files.settle_scan(file_id, "ready"))
        await until_waiting(world.db, 2)
    await asyncio.gather(sending, settling)
    assert await world.statuses() == [["scanning"]]
    await world.scanner.scan_all()
    assert await world.statuses() == [["ready"]]
    assert await world.told() == [(file_id, "ready")]


async def test_settled_while_it_is_sent(world: ScannedWorld) -> None:
    """A send that waits for the verdict shows it."""
    file_id = await world.upload()
    await world.node.services.files.remember([file_id])
    async with world.db.transaction() as conn:
        await scans.settle(conn, file_id, "ready")
        sending = asyncio.create_task(world.send(file_id))
        await until_waiting(world.db, 1)
    await sending
    assert await world.statuses() == [["ready"]]
    await world.scanner.scan_all()
    assert await world.told() == []


async def test_claims(world: ScannedWorld) -> None:
    """One node scans a file; another does when the first has not said for a while that it still does."""
    file_id = await world.upload()
    store = world.node.services.files
    first = await store.claim_scan(timedelta(hours=1))
    assert first is not None
    assert first.id == file_id
    assert await store.claim_scan(timedelta(hours=1)) is None
    await store.keep_scan(file_id, timedelta(seconds=-1))
    again = await store.claim_scan(timedelta(hours=1))
    assert again is not None


async def test_clamd_away(world: ScannedWorld) -> None:
    """A file that cannot be scanned is kept from everyone until it can, and others know that clamd is away."""
    file_id = await world.upload()
    world.clamd.mode = "cut"
    await world.scanner.scan_all()
    assert world.scanner.is_away
    with pytest.raises(ChatError, match="FILE_NOT_READY"):
        await world.read(world.ann, file_id)
    world.clamd.mode = "answer"
    await world.node.services.files.keep_scan(file_id, timedelta(seconds=-1))
    await world.scanner.scan_all()
    assert not world.scanner.is_away
    assert await world.read(world.ann, file_id) == b"some bytes"
