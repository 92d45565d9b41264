"""Files in a bucket that speaks S3: as in a directory; and where S3 fails, files wait and chat does not."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterable
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any
from uuid import UUID

import aiohttp
import asyncpg
import pytest

from tests.e2e.conftest import StartServer
from tests.e2e.parts import put
from tests.e2e.server import Person, Server
from tests.e2e.socket_client import socket_client
from tests.e2e.test_downloads import ask
from tests.e2e.test_files import signed, upload
from tests.s3 import S3, Fault

TIMEOUT = 8
"""Seconds of silence after which S3 counts as away."""


async def try_to_upload(
    server: Server, person: Person, data: bytes | AsyncIterable[bytes], name: str = "a.bin"
) -> tuple[int, Any, str | None]:
    """Status, error code and Retry-After of an upload that has to fail."""
    async with (
        aiohttp.ClientSession(headers=signed(person)) as http,
        http.post(
            f"{server.http}/upload/file",
            params={"filename": name},
            data=BytesIO(data) if isinstance(data, bytes) else data,
            headers={"Content-Type": "application/octet-stream"},
        ) as answer,
    ):
        body = await answer.json()
        return answer.status, body["error"]["code"], answer.headers.get("Retry-After")


async def parts(server: Server) -> set[UUID]:
    """The blobs that rows name."""
    connection = await asyncpg.connect(server.database_url)
    rows = await connection.fetch("SELECT blob_id FROM file_parts")
    await connection.close()
    return {row["blob_id"] for row in rows}


async def nothing_dangles(server: Server, s3: S3) -> None:
    """Every blob that a row names is there, and nothing is in the spool."""
    there = set(await s3.objects())
    assert {f"{s3.prefix}{blob_id.hex}" for blob_id in await parts(server)} <= there
    assert list((server.directory / "data" / "spool").iterdir()) == []


async def test_there_and_back(start_server: StartServer, s3: S3, tmp_path: Path) -> None:
    """Files go into the bucket, sealed, and come out whole and in ranges; one without a message goes with its blobs."""
    server = await start_server(PARLEY_BLOBS=s3.setting())
    ann, bob = await server.people(2)
    room = await server.chatroom(ann, bob)
    data = b"planted bytes" + os.urandom(3_000_000)
    file = await upload(server, ann, data)
    path = file["encrypted_url"]
    body = {"content": "look", "attachments": [{"id": file["id"]}]}
    await server.data("POST", f"/chatrooms/{room}/messages", ann.token, body)
    status, _, got = await ask(server, path, bob)
    assert (status, sha256(got).hexdigest()) == (200, file["sha256"])
    status, _, got = await ask(server, path, bob, Range="bytes=1048570-1114200")
    assert (status, got == data[1_048_570:1_114_201]) == (206, True)
    ((key, size),) = (await s3.objects()).items()
    assert key.startswith(s3.prefix)
    assert size > len(data)
    assert b"planted bytes" not in await s3.get(key)
    assert not (tmp_path / "data" / "files").exists()
    await nothing_dangles(server, s3)
    assert (await server.data("GET", "/health"))["services"]["files"] == "healthy"


async def test_s3_fails(start_server: StartServer, s3: S3) -> None:
    """Whatever S3 does, who uploads or downloads is told to come back, messages are acked, and nothing is left over."""
    server = await start_server(PARLEY_BLOBS=s3.setting(TIMEOUT))
    ann, bob = await server.people(2)
    room = await server.chatroom(ann, bob)
    data = os.urandom(100_000)
    path = (await upload(server, ann, data))["encrypted_url"]
    before = await parts(server)
    faults: list[tuple[Fault | None, bool]] = [("wrong etag", False), ("truncate", True), ("error", True), (None, True)]
    for fault, both in faults:
        if fault:
            s3.spoiler.spoil(fault, only=None if both else "PUT")
        else:
            await s3.spoiler.refuse()
        refused, (status, headers, got) = await asyncio.gather(try_to_upload(server, ann, data), ask(server, path, ann))
        assert refused == (503, "SERVICE_UNAVAILABLE", "5")
        if both:
            assert (status, headers["Retry-After"]) == (503, "5")
        else:
            assert (status, got == data) == (200, True)
        await s3.spoiler.listen()
        await nothing_dangles(server, s3)
    await _blobs_stay(server, s3, ann)
    await _silence(server, s3, ann, room, path)
    await nothing_dangles(server, s3)
    assert await parts(server) == before
    assert (await ask(server, path, ann))[2] == data
    assert (await ask(server, (await upload(server, ann, data))["encrypted_url"], ann))[2] == data
    async with asyncio.timeout(60):  # an answer of /health holds for a second
        while (await server.data("GET", "/health"))["services"]["files"] == "degraded":
            await asyncio.sleep(0.05)


async def _blobs_stay(server: Server, s3: S3, ann: Person) -> None:
    """What cannot be deleted fails nothing: it is left to the sweep."""
    before = len(await s3.objects())
    started = await server.data("POST", "/files", ann.token, {"filename": "a", "file_size": 10})
    s3.spoiler.spoil("error", only="POST")
    for _ in range(2):
        assert await put(server, started["parts"][0]["url"], b"0123456789") == (204, None)
    assert (await server.call("DELETE", f"/files/uploads/{started['fid']}", ann.token))[0] < 300
    assert len(await s3.objects()) == before + 2
    await s3.spoiler.listen()


async def _silence(server: Server, s3: S3, ann: Person, room: UUID, path: str) -> None:
    """While transfers wait for S3, messages are acked, and the server is ready."""
    s3.spoiler.spoil("hang")
    async with asyncio.TaskGroup() as group:
        going_in = group.create_task(try_to_upload(server, ann, os.urandom(2_000_000)))
        going_out = group.create_task(ask(server, path, ann, Range="bytes=0-9"))
        await s3.spoiler.hanging.wait()
        async with socket_client(server) as client:
            await client.authenticate(ann.token)
            assert (await client.say(room, "meanwhile"))["event"] == "ack"
        assert not going_in.done()
    assert going_in.result() == (503, "SERVICE_UNAVAILABLE", "5")
    assert (going_out.result()[0], going_out.result()[1]["Retry-After"]) == (503, "5")
    status, health = await server.call("GET", "/health/ready")
    assert (status, health["data"]["services"]["files"]) == (200, "degraded")
    await s3.spoiler.refuse()
    await s3.spoiler.listen()


async def test_s3_breaks_off_late(start_server: StartServer, s3: S3) -> None:
    """A download whose later ranges cannot be had breaks off, shorter than announced, and right as far as it goes."""
    server = await start_server(PARLEY_BLOBS=s3.setting())
    (ann,) = await server.people(1)
    data = os.urandom(6_000_000)
    path = (await upload(server, ann, data))["encrypted_url"]
    s3.spoiler.spoil("truncate", only="GET", skip=2)
    got = b""
    async with aiohttp.ClientSession(headers=signed(ann)) as http, http.get(server.http + path) as answer:
        assert (answer.status, answer.headers["Content-Length"]) == (200, str(len(data)))
        with pytest.raises(aiohttp.ClientError):
            async for piece in answer.content.iter_any():
                got += piece
    assert len(got) <= 2_200_000
    assert got == data[: len(got)]
