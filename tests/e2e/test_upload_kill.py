"""kill -9 at random moments of uploads: no half file, no row without bytes, and what can go on goes on."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any
from uuid import UUID

import aiohttp
import asyncpg
import pytest

from crypto.file_sealing import sealed_size
from tests.e2e.conftest import StartServer
from tests.e2e.parts import begin, complete, put
from tests.e2e.program import parley
from tests.e2e.server import Person, Server
from tests.e2e.test_files import download, signed
from tests.e2e.tus import append, create, look

GONE = (aiohttp.ClientError, ConnectionError)
"""What a client sees of a server that is killed."""
LONG = pytest.param(100, marks=[pytest.mark.faults, pytest.mark.timeout(3600)])


class Uploaders:
    """Three people at once, each with a way of uploading of their own; `sent` are the digests of what they sent."""

    def __init__(self, server: Server, person: Person, dice: random.Random) -> None:
        self.server = server
        self.person = person
        self.dice = dice
        self.sent: dict[str, str] = {}
        self.done: set[str] = set()
        self.stream: tuple[str, bytes] = ("", b"")
        self.parts: tuple[dict[str, Any], bytes] = ({}, b"")

    async def until_killed(self) -> None:
        """Uploads until the server is gone."""
        async with asyncio.TaskGroup() as group:
            for way in (self._forms, self._streams, self._in_parts):
                group.create_task(self._go_on(way))

    async def _go_on(self, way: Any) -> None:
        with suppress(*GONE):
            while True:
                await way()

    async def _forms(self) -> None:
        """A file in one request."""
        data = self.dice.randbytes(self.dice.randrange(300_000))
        name = f"{len(self.sent)}.bin"
        self.sent[name] = sha256(data).hexdigest()
        form = aiohttp.FormData()
        form.add_field("file", BytesIO(data), filename=name)
        async with (
            aiohttp.ClientSession() as http,
            http.post(f"{self.server.http}/upload/file", data=form, headers=signed(self.person)) as answer,
        ):
            assert answer.status == 201
            self.done.add((await answer.json())["data"]["fid"])

    async def _streams(self) -> None:
        """A file by tus, which goes on where it was."""
        path, data = self.stream
        if not path:
            data = self.dice.randbytes(self.dice.randrange(1, 2_000_000))
            self.stream = (await create(self.server, self.person, len(data)), data)
            return
        offset = (await look(self.server, self.person, path)).offset
        if offset < len(data):
            piece = data[offset : offset + self.dice.randrange(1, 400_000)]
            assert (await append(self.server, self.person, path, offset, piece)).status in (204, 409)
            return
        await self._came_to(path.rpartition("/")[2], data)
        self.stream = ("", b"")

    async def _in_parts(self) -> None:
        """A file in parts, which come in any order."""
        upload, data = self.parts
        if not upload:
            data = self.dice.randbytes(5_500_000)
            self.parts = (await begin(self.server, self.person, len(data)), data)
            return
        path = f"/files/uploads/{upload['fid']}"
        status, answer = await self.server.call("GET", path, self.person.token)
        missing = [part for part in answer["data"]["parts"] if not part["received"]] if status == 200 else []
        if missing:
            part = self.dice.choice(missing)
            start = (part["number"] - 1) * upload["part_size"]
            assert (await put(self.server, part["url"], data[start : start + part["size"]]))[0] == 204
            return
        status, answer = await complete(self.server, self.person, upload["fid"], sha256(data).hexdigest())
        assert status == 200, answer
        await self._came_to(upload["fid"], data)
        self.parts = ({}, b"")

    async def _came_to(self, fid: str, data: bytes) -> None:
        info = await self.server.data("GET", f"/files/{fid}/info", self.person.token)
        assert info["sha256"] == sha256(data).hexdigest()
        self.done.add(fid)

    async def finish(self) -> None:
        """Brings what is under way to its end."""
        while self.stream[0]:
            await self._streams()
        while self.parts[0]:
            await self._in_parts()


def blobs(server: Server) -> dict[str, int]:
    """What is kept: ids and sizes."""
    folder: Path = server.directory / "data" / "files"
    return {path.name: path.stat().st_size for path in folder.glob("??/*")}


async def check(server: Server, uploaders: Uploaders) -> None:
    """Every row has its bytes, and every file that is there is the one that was sent."""
    conn = await asyncpg.connect(server.database_url)
    parts = await conn.fetch("SELECT blob_id, size FROM file_parts")
    ready = {row["id"] for row in await conn.fetch("SELECT id FROM files WHERE status = 'ready'")}
    await conn.close()
    kept = blobs(server)
    for part in parts:
        assert kept.get(part["blob_id"].hex) == sealed_size(part["size"])
    assert {UUID(fid) for fid in uploaders.done} <= ready
    for fid in ready:
        info = await server.data("GET", f"/files/{fid}/info", uploaders.person.token)
        status, data = await download(server, uploaders.person, f"/files/{fid}")
        assert (status, sha256(data).hexdigest()) == (200, info["sha256"])
        assert uploaders.sent.get(info["filename"], info["sha256"]) == info["sha256"]


@pytest.mark.parametrize("kills", [4, LONG])
async def test_killed_while_they_upload(start_server: StartServer, dice: random.Random, kills: int) -> None:
    """After each restart files are whole, rows have their bytes, and uploads go on; a sweep leaves nothing else."""
    server = await start_server(PARLEY_LIMIT_USER_FILES=str(10**12))
    uploaders = Uploaders(server, await server.person(), dice)
    for _ in range(kills):
        uploading = asyncio.create_task(uploaders.until_killed())
        await asyncio.sleep(dice.uniform(0.05, 0.8))
        await server.kill()
        await uploading
        await server.start()
        await check(server, uploaders)
    await uploaders.finish()
    await parley(server, "files", "sweep", "--age", "0")
    await check(server, uploaders)
    conn = await asyncpg.connect(server.database_url)
    named = {row["blob_id"].hex for row in await conn.fetch("SELECT blob_id FROM file_parts")}
    await conn.close()
    assert blobs(server).keys() == named
    assert not any((server.directory / "data" / "files" / "spool").iterdir())
    assert "Traceback" not in server.logs()
