"""What becomes of files when the disk they are on is full, or PostgreSQL is away while they come in."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from bench.faults.addresses import server_of, through
from bench.faults.proxy import Proxy
from tests.e2e.conftest import StartServer
from tests.e2e.socket_client import socket_client
from tests.e2e.test_downloads import ask
from tests.e2e.test_files import upload
from tests.e2e.test_files_s3 import try_to_upload
from tests.e2e.tus import append, create, look
from tests.faults.disks import fill

pytestmark = pytest.mark.timeout(240)


def _files(root: Path) -> dict[Path, int]:
    """All files below a directory, and their sizes."""
    return {path: path.stat().st_size for path in root.rglob("*") if path.is_file()}


async def _rows(url: str) -> int:
    connection = await asyncpg.connect(url)
    count: int = await connection.fetchval("SELECT count(*) FROM files")
    await connection.close()
    return count


async def test_no_room(start_server: StartServer, small_disk: Path) -> None:
    """An upload for which there is no room is told to come back and leaves nothing; all else goes on, then it does."""
    place = small_disk / "blobs"
    server = await start_server(PARLEY_BLOBS=f"file:{place}")
    (ann,) = await server.people(1)
    room = await server.chatroom(ann)
    data = os.urandom(900_000)
    path = (await upload(server, ann, data))["encrypted_url"]
    there, rows = _files(place), await _rows(server.database_url)
    ballast = fill(small_disk)
    for room_for in (0, 400_000):  # none at all, and enough for the beginning
        os.truncate(ballast, ballast.stat().st_size - room_for)
        assert await try_to_upload(server, ann, data) == (503, "SERVICE_UNAVAILABLE", "5")
        assert (_files(place), await _rows(server.database_url)) == (there, rows)
    assert (await ask(server, path, ann))[2] == data
    async with socket_client(server) as client:
        await client.authenticate(ann.token)
        assert (await client.say(room, "meanwhile"))["event"] == "ack"
    resumed = await create(server, ann, len(data))
    assert (await append(server, ann, resumed, 0, data)).status == 503
    ballast.unlink()
    at = (await look(server, ann, resumed)).offset
    assert (await append(server, ann, resumed, at, data[at:])).offset == len(data)
    assert (await ask(server, (await upload(server, ann, data))["encrypted_url"], ann))[2] == data
    assert list((place / "spool").iterdir()) == []


async def test_the_database_goes_meanwhile(start_server: StartServer, database_url: str) -> None:
    """An upload that is under way when PostgreSQL goes is told to come back; nothing half is left of it."""
    async with Proxy(server_of(database_url)) as way:
        server = await start_server(DATABASE_URL=through(database_url, way.address))
        (ann,) = await server.people(1)
        data = os.urandom(500_000)
        path = (await upload(server, ann, data))["encrypted_url"]
        spool = server.directory / "data" / "files" / "spool"

        async def body() -> AsyncIterator[bytes]:
            yield data[:300_000]
            while not list(spool.iterdir()):
                await asyncio.sleep(0.01)
            way.refuse()
            way.reset_lines()
            yield data[300_000:]

        assert await try_to_upload(server, ann, body()) == (503, "SERVICE_UNAVAILABLE", "1")
        assert list(spool.iterdir()) == []
        await way.heal()
        while (await server.call("GET", "/health/ready"))[0] != 200:
            await asyncio.sleep(0.05)
        assert (await ask(server, path, ann))[2] == data
        assert (await ask(server, (await upload(server, ann, data))["encrypted_url"], ann))[2] == data
        connection = await asyncpg.connect(database_url)
        named = {row["blob_id"].hex for row in await connection.fetch("SELECT blob_id FROM file_parts")}
        await connection.close()
        assert named <= {found.name for found in _files(server.directory / "data" / "files")}
        assert len(named) == 2
