"""The keys of many files are wrapped anew, some at a time, while files are sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from crypto.sealing import MasterKeyMissing, MasterKeys
from gateway.files import store as module
from storage import files
from storage.database import Database
from tests.e2e.node import running_node
from tests.gateway.test_collector import World

OLD, NEW = ("old", bytes(range(32))), ("new", bytes(range(32, 64)))


@pytest.fixture
async def world(database_url: str, db: Database, tmp_path: Path) -> AsyncIterator[World]:
    """A world whose files' keys are wrapped under the old master key."""
    async with running_node(database_url, tmp_path) as node:
        node.services.files.replace(MasterKeys([OLD]))
        world = World(node, db)
        await world.enter()
        yield world


async def test_rewrapping(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """All files open without the old key afterwards; one that is being sent in the meantime holds nothing up."""
    monkeypatch.setattr(module, "REWRAPPED", 2)
    store = world.node.services.files
    file_ids = [await world.upload(bytes([number])) for number in range(5)]
    store.replace(MasterKeys([NEW, OLD]))
    async with world.db.transaction() as conn:
        await files.lock_sendable(conn, [world.ann.user.id], file_ids[:1])
        async with asyncio.timeout(30):
            assert await store.rewrap() == 5
    assert await store.rewrap() == 0
    store.replace(MasterKeys([NEW]))
    for number, file_id in enumerate(file_ids):
        assert await world.read(world.ann, file_id) == bytes([number])
    async with world.db.acquire() as conn:
        await files.check_master_keys(conn, MasterKeys([NEW]))
        with pytest.raises(MasterKeyMissing, match="new"):
            await files.check_master_keys(conn, MasterKeys([OLD]))
