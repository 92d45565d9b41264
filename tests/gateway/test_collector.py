"""What nobody needs goes, what somebody needs stays: also while it is being sent, and after crashes."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from gateway.actor import Actor
from gateway.files import collector as module
from gateway.files.collector import Collector, Swept
from protocol.commands import CreateUpload, DeleteChatroom, SendMessage
from protocol.errors import ChatError
from protocol.models import FileReference
from storage import files, files_clearing
from storage.blobs import Directory
from storage.database import Database
from tests.e2e.node import Node, running_node

DAY = 86_400.0
HOUR = timedelta(hours=1)


class World:
    """A node, two people in a chatroom, and the collector."""

    def __init__(self, node: Node, db: Database) -> None:
        self.node = node
        self.db = db
        self.blobs = node.services.files.blobs
        self.collector = Collector(db, self.blobs, DAY, node.services.metrics.files)

    async def enter(self) -> None:
        """Makes the people."""
        self.ann, _ = await self.node.user("ann")
        self.bob, _ = await self.node.user("bob")
        self.room = await self.node.room(self.ann, self.bob)

    async def upload(self, data: bytes = b"some bytes", days: float = 0, **command: Any) -> UUID:
        """A file of Ann's that was uploaded so many days ago."""
        upload = await self.node.chat.files.begin(self.ann, CreateUpload(filename="notes.txt", **command))
        await self.node.chat.files.receive(upload, _body(data))
        file = await self.node.chat.files.finish(self.ann, upload)
        await self.age(file.id, days)
        return file.id

    async def age(self, file_id: UUID, days: float) -> None:
        """Nobody has touched it for so long."""
        async with self.db.acquire() as conn:
            past = "updated_at = now() - $2::interval"
            await conn.execute(f"UPDATE files SET {past} WHERE id = $1", file_id, timedelta(days=days))

    async def send(self, *file_ids: UUID) -> None:
        """Ann's message with these files. Raises ChatError."""
        references = [FileReference(id=id) for id in file_ids]
        command = SendMessage(chatroom_id=self.room, content="look", attachments=references)
        await self.node.chat.handle(self.ann, command)

    async def read(self, reader: Actor, file_id: UUID) -> bytes:
        """What is in a file. Raises ChatError."""
        file = await self.node.chat.files.open(reader, file_id, "whole")
        return b"".join([piece async for piece in file.read(0, file.size)])

    async def kept(self) -> set[UUID]:
        """The blobs that are there."""
        return {blob_id async for page in self.blobs.listed(-DAY) for blob_id in page}

    async def rows(self) -> set[UUID]:
        """The files that have rows."""
        async with self.db.acquire() as conn:
            return {row["id"] for row in await conn.fetch("SELECT id FROM files")}


async def _body(data: bytes) -> AsyncIterator[bytes]:
    yield data


@pytest.fixture
async def world(database_url: str, db: Database, tmp_path: Path) -> AsyncIterator[World]:
    """A world of the test's own."""
    async with running_node(database_url, tmp_path) as node:
        world = World(node, db)
        await world.enter()
        yield world


async def test_what_goes_and_what_stays(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unused files and half uploads go after their time with their blobs; what is sent stays, however old it is."""
    monkeypatch.setattr(module, "ROWS", 2)
    monkeypatch.setattr(module, "BATCH", 1)
    old = [await world.upload(days=2) for _ in range(5)]
    young, sent = await world.upload(), await world.upload()
    await world.send(sent)
    await world.age(sent, 400)
    half = await world.node.chat.files.begin(world.ann, CreateUpload(filename="half"))
    await world.age(half.file.id, 2)
    fresh_half = await world.node.chat.files.begin(world.ann, CreateUpload(filename="half"))
    assert await world.collector.sweep(3600) == Swept(unused=6, expired=0, blobs=0, spooled=0)
    assert await world.rows() == {young, sent, fresh_half.file.id}
    assert len(await world.kept()) == 2
    assert await world.read(world.bob, sent) == b"some bytes"
    with pytest.raises(ChatError, match="FILE_NOT_FOUND"):
        await world.send(old[0])


async def test_a_deleted_chatroom(world: World) -> None:
    """What was sent only to a chatroom that is deleted is unused; what was sent elsewhere too is not."""
    file_id, other = await world.upload(), await world.upload()
    await world.send(file_id, other)
    deleted, world.room = world.room, await world.node.room(world.ann, world.bob)
    await world.send(other)
    for each in (file_id, other):
        await world.age(each, 2)
    await world.node.chat.handle(world.ann, DeleteChatroom(chatroom_id=deleted))
    assert await world.collector.collect() == 1
    assert await world.rows() == {other}
    assert await world.read(world.bob, other) == b"some bytes"


async def test_expired(world: World) -> None:
    """A file's time is over: it is gone for everyone at once, and then its bytes, though the message stays."""
    file_id, other = await world.upload(expires_in=1000), await world.upload(expires_in=2000)
    await world.send(file_id, other)
    async with world.db.acquire() as conn:
        await conn.execute("UPDATE files SET expires_at = now() - interval '1 s' WHERE id = $1", file_id)
    for reader in (world.ann, world.bob):
        with pytest.raises(ChatError, match="FILE_NOT_FOUND"):
            await world.read(reader, file_id)
    assert (len(await world.kept()), await world.collector.expire()) == (2, 1)
    assert await world.rows() == {other}
    assert len(await world.kept()) == 1
    assert await world.read(world.bob, other) == b"some bytes"
    async with world.db.acquire() as conn:
        assert await conn.fetchval("SELECT count(*) FROM messages") == 1


async def test_leftovers_of_crashes(world: World) -> None:
    """A blob without a row, and a file in the spool, go when they are old, and not before; what has a row stays."""
    file_id = await world.upload()
    stray, fresh = uuid4(), uuid4()
    for blob_id in (stray, fresh):
        path = world.blobs.spool()
        path.write_bytes(b"left")
        await world.blobs.keep(blob_id, path)
    old_spool, new_spool = world.blobs.spool(), world.blobs.spool()
    for path in (old_spool, new_spool):
        path.write_bytes(b"half")
    before = time.time() - 7200
    assert isinstance(world.blobs, Directory)
    os.utime(old_spool, (before, before))
    for blob_id in await world.kept() - {fresh}:
        os.utime(_path(world.node.config.data / "files", blob_id), (before, before))
    (world.node.config.data / "files" / "00").mkdir(exist_ok=True)
    foreign = world.node.config.data / "files" / "00" / "README"
    foreign.write_text("not ours")
    os.utime(foreign, (before, before))
    assert await world.collector.sweep(3600) == Swept(unused=0, expired=0, blobs=1, spooled=1)
    assert stray not in await world.kept()
    assert fresh in await world.kept()
    assert (old_spool.exists(), new_spool.exists(), foreign.exists()) == (False, True, True)
    assert await world.read(world.ann, file_id) == b"some bytes"


def _path(root: Path, blob_id: UUID) -> Path:
    (found,) = root.glob(f"*/{blob_id.hex}")
    return found


async def test_sent_while_it_is_looked_at(world: World) -> None:
    """What was unused when it was found, and is in a message when it is removed, stays."""
    file_id = await world.upload(days=2)
    async with world.db.acquire() as conn:
        page = await files_clearing.look_for_unused(conn, UUID(int=0), HOUR, 100)
    assert page.file_ids == [file_id]
    await world.send(file_id)
    async with world.db.transaction() as conn:
        assert (await files_clearing.remove_unused(conn, page.file_ids, HOUR)).file_ids == []


async def test_a_send_comes_first(world: World) -> None:
    """While a send holds a file, the collector neither takes it nor waits."""
    file_id = await world.upload(days=2)
    async with world.db.transaction() as conn:
        sendable = await files.lock_sendable(conn, [world.ann.user.id], [file_id])
        assert sendable == {(world.ann.user.id, file_id): "ready"}
        async with asyncio.timeout(30):
            assert await world.collector.collect() == 0
    assert await world.collector.collect() == 1


async def test_abandoned_while_it_is_sent(world: World) -> None:
    """Who drops a file that is just being sent waits for the outcome: it is in the message, and stays."""
    file_id = await world.upload()
    await world.node.services.files.remember([file_id])
    async with world.db.transaction() as conn:
        await conn.execute("LOCK TABLE message_files IN SHARE MODE")
        sending = asyncio.create_task(world.send(file_id))
        await until_waiting(world.db, 1)
        abandoning = asyncio.create_task(world.node.services.files.abandon([file_id]))
        await until_waiting(world.db, 2)
    await asyncio.gather(sending, abandoning)
    assert await world.read(world.bob, file_id) == b"some bytes"


async def test_the_collector_comes_first(world: World) -> None:
    """A send that meets a file which is being removed waits for the outcome: the file is not found."""
    file_id = await world.upload(days=2)
    await world.node.services.files.remember([file_id])
    async with world.db.transaction() as conn:
        await files_clearing.remove_unused(conn, [file_id], HOUR)
        sending = asyncio.create_task(world.send(file_id))
        await until_waiting(world.db, 1)
    with pytest.raises(ChatError, match="FILE_NOT_FOUND"):
        await sending


async def until_waiting(db: Database, count: int) -> None:
    """Until so many wait for locks."""
    async with asyncio.timeout(60):
        while True:
            async with db.acquire() as conn:
                if await conn.fetchval("SELECT count(DISTINCT pid) FROM pg_locks WHERE NOT granted") >= count:
                    return
            await asyncio.sleep(0.01)


async def test_two_collectors_and_many_sends(world: World) -> None:
    """Whatever the order: a file is in a message and can be read, or it was not found, and is gone."""
    file_ids = [await world.upload(os.urandom(20), days=2) for _ in range(40)]
    await world.node.services.files.remember(file_ids)

    async def outcome(file_id: UUID) -> str:
        try:
            await world.send(file_id)
        except ChatError as error:
            return error.code
        return "sent"

    sends = [asyncio.create_task(outcome(file_id)) for file_id in file_ids]
    await asyncio.gather(*(world.collector.collect() for _ in range(2)))
    outcomes = dict(zip(file_ids, await asyncio.gather(*sends), strict=True))
    assert set(outcomes.values()) <= {"sent", "FILE_NOT_FOUND"}
    sent = {file_id for file_id, code in outcomes.items() if code == "sent"}
    assert await world.rows() == sent
    assert len(await world.kept()) == len(sent)
    for file_id in sent:
        assert len(await world.read(world.bob, file_id)) == 20


async def test_the_upload_goes_on(world: World) -> None:
    """An upload that was found standing still and then went on is not removed; one that was removed cannot go on."""
    alive = await world.node.chat.files.begin(world.ann, CreateUpload(filename="half"))
    dead = await world.node.chat.files.begin(world.ann, CreateUpload(filename="half"))
    for upload in (alive, dead):
        await world.age(upload.file.id, 2)
    await world.node.chat.files.receive(alive, _body(b"more"))
    assert await world.collector.collect() == 1
    assert (await world.node.chat.files.finish(world.ann, alive)).file_size == 4
    with pytest.raises(ChatError, match="UPLOAD_OFFSET_MISMATCH"):
        await world.node.chat.files.receive(dead, _body(b"more"))
    assert len(await world.kept()) == 1
