"""What becomes of files: what an operator removes and sees."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path
from uuid import UUID, uuid4

import aiohttp
import asyncpg

from tests.e2e.program import parley
from tests.e2e.server import Server
from tests.e2e.test_files import download, signed, upload
from tests.e2e.test_migration import metrics


async def age(server: Server, file_id: str) -> None:
    """Nobody has touched this file for two days."""
    conn = await asyncpg.connect(server.database_url)
    await conn.execute("UPDATE files SET updated_at = now() - $2::interval WHERE id = $1", UUID(file_id), DAYS)
    await conn.close()


DAYS = timedelta(days=2)


def kept(server: Server) -> set[Path]:
    """The blobs of a server."""
    return {path for path in (server.directory / "data" / "files").glob("??/*") if path.is_file()}


async def test_the_sweep_of_an_operator(common_server: Server) -> None:
    """`parley files sweep` removes what nobody needs beside the running server, says how much, and nothing else."""
    server = common_server
    ann, bob = await server.people(2)
    room = await server.chatroom(ann, bob)
    await parley(server, "files", "sweep", "--age", "0")  # what other tests have left
    others = kept(server)
    unused, sent = await upload(server, ann, b"unused"), await upload(server, ann, b"sent")
    body = {"content": "look", "attachments": [{"id": sent["id"]}]}
    await server.data("POST", f"/chatrooms/{room}/messages", ann.token, body)
    for file in (unused, sent):
        await age(server, file["id"])
    stray = server.directory / "data" / "files" / "ab" / f"{uuid4().hex[:-2]}ab"
    stray.parent.mkdir(exist_ok=True)
    stray.write_bytes(b"left by a crash")
    swept = await parley(server, "files", "sweep")
    assert swept.splitlines()[-4:] == ["1 unused", "0 expired", "0 blobs without a file", "0 left in the spool"]
    assert stray.exists()
    swept = await parley(server, "files", "sweep", "--age", "0")
    assert swept.splitlines()[-4:] == ["0 unused", "0 expired", "1 blobs without a file", "0 left in the spool"]
    assert len(kept(server) - others) == 1
    assert (await download(server, ann, unused["encrypted_url"]))[0] == 404
    assert await download(server, bob, sent["encrypted_url"]) == (200, b"sent")


async def test_what_an_operator_sees(common_server: Server) -> None:
    """Uploads, downloads and their bytes are counted by outcome; so is a file that is not as it was written."""
    server = common_server
    (ann,) = await server.people(1)

    async def count(name: str, labels: str = "") -> float:
        return (await metrics(server, name)).get(labels, 0.0)

    names = {
        ("parley_uploads_total", '{outcome="ok"}'): 2,
        ("parley_uploads_total", '{outcome="CHATROOM_NOT_FOUND"}'): 1,
        ("parley_file_bytes_total", '{direction="in"}'): 200_000,
        ("parley_file_bytes_total", '{direction="out"}'): 100_000,
        ("parley_downloads_total", '{outcome="ok"}'): 2,
        ("parley_downloads_total", '{outcome="FILE_NOT_FOUND"}'): 1,
        ("parley_files_damaged_total", ""): 1,
        ("parley_upload_finish_seconds_count", ""): 2,
    }
    before = {key: await count(*key) for key in names}
    others = kept(server)
    file = await upload(server, ann, bytes(100_000))
    assert (await download(server, ann, file["encrypted_url"]))[0] == 200
    await download(server, ann, f"/files/{uuid4()}")
    (blob,) = kept(server) - others
    await _refused(server, signed(ann))
    damaged = await upload(server, ann, bytes(100_000))
    (blob,) = kept(server) - others - {blob}
    blob.write_bytes(bytes(blob.stat().st_size))
    async with (
        aiohttp.ClientSession() as http,
        http.get(server.http + damaged["encrypted_url"], headers=signed(ann)),
        asyncio.timeout(30),
    ):
        while await count("parley_files_damaged_total") == before["parley_files_damaged_total", ""]:
            await asyncio.sleep(0.01)
    assert {key: await count(*key) - before[key] for key in names} == names


async def _refused(server: Server, headers: dict[str, str]) -> None:
    query = {"filename": "lost", "chatroom_id": str(uuid4())}
    octets = {"Content-Type": "application/octet-stream"}
    async with (
        aiohttp.ClientSession() as http,
        http.post(f"{server.http}/upload/file", params=query, data=b"lost", headers=headers | octets) as answer,
    ):
        assert answer.status == 404
