"""Parts that clients send to S3 themselves."""

from __future__ import annotations

import os
from hashlib import sha256
from io import BytesIO
from typing import Any
from urllib.parse import parse_qs, urlsplit

import aiohttp
import pytest

from tests.e2e.conftest import StartServer
from tests.e2e.parts import PART, begin, complete
from tests.e2e.server import Server
from tests.e2e.test_downloads import ask
from tests.e2e.test_files_s3 import nothing_dangles
from tests.s3 import S3

SIZE = PART + 1_000


@pytest.fixture
async def server(start_server: StartServer, s3: S3) -> Server:
    """A server that hands out addresses of S3."""
    return await start_server(PARLEY_BLOBS=s3.setting(), PARLEY_BLOBS_DIRECT="yes", PARLEY_LIMIT_FILE=str(50 * PART))


async def put_all(upload: dict[str, Any], data: bytes) -> None:
    """Sends every part to where it belongs, without a token."""
    async with aiohttp.ClientSession() as http:
        for part in upload["parts"]:
            start = (part["number"] - 1) * upload["part_size"]
            body = data[start : start + part["size"]]
            async with http.put(part["url"], data=BytesIO(body)) as answer:
                assert answer.status == 200, await answer.text()


async def test_there_and_back(server: Server, s3: S3) -> None:
    """Parts go to S3 by short-lived addresses for exactly them, lie there as they were sent, and come out by us."""
    ann, bob = await server.people(2)
    room = await server.chatroom(ann, bob)
    data = b"planted bytes" + os.urandom(SIZE - 13)
    upload = await begin(server, ann, SIZE)
    for part in upload["parts"]:
        assert part["url"].startswith(s3.spoiler.url)
        query = parse_qs(urlsplit(part["url"]).query)
        assert query["X-Amz-Expires"] == ["900"]
        assert query["X-Amz-SignedHeaders"] == ["content-length;host"]
        assert query["partNumber"] == [str(part["number"])]
    await put_all(upload, data)
    state = await server.data("GET", f"/files/uploads/{upload['fid']}", ann.token)
    assert (state["received"], [part["received"] for part in state["parts"]]) == (SIZE, [True, True])
    status, answer = await complete(server, ann, upload["fid"], sha256(data).hexdigest())
    assert (status, answer["data"]["sha256"]) == (200, sha256(data).hexdigest())
    assert (await complete(server, ann, upload["fid"]))[1] == answer
    path = answer["data"]["encrypted_url"]
    assert (await ask(server, path, bob))[0] == 404
    body = {"content": "look", "attachments": [{"id": upload["fid"]}]}
    await server.data("POST", f"/chatrooms/{room}/messages", ann.token, body)
    status, _, got = await ask(server, path, bob)
    assert (status, got == data) == (200, True)
    status, _, got = await ask(server, path, bob, Range=f"bytes={PART - 70_000}-{PART + 99}")
    assert (status, got == data[PART - 70_000 : PART + 100]) == (206, True)
    ((key, size),) = (await s3.objects()).items()
    assert size == SIZE
    assert await s3.get(key) == data
    await nothing_dangles(server, s3)


async def test_many_parts(server: Server) -> None:
    """Addresses come twenty-five at a time; the others are asked for."""
    ann = await server.person()
    upload = await begin(server, ann, 30 * PART)
    assert ([part["number"] for part in upload["parts"]], upload["has_more"]) == (list(range(1, 26)), True)
    rest = await server.data("GET", f"/files/uploads/{upload['fid']}?after=25&limit=100", ann.token)
    assert ([part["number"] for part in rest["parts"]], rest["has_more"]) == (list(range(26, 31)), False)
    await server.data("DELETE", f"/files/uploads/{upload['fid']}", ann.token)


async def test_what_cannot_be_a_file(server: Server, s3: S3) -> None:
    """Parts that are missing can be sent yet; another hash than announced, and an end by the user, leave nothing."""
    ann = await server.person()
    data = os.urandom(SIZE)
    upload = await begin(server, ann, SIZE)
    await put_all({**upload, "parts": upload["parts"][1:]}, data)
    status, answer = await complete(server, ann, upload["fid"])
    assert (status, answer["error"]["details"]) == (422, {"missing": [1]})
    await put_all({**upload, "parts": upload["parts"][:1]}, data[: PART - 1] + b"!")
    status, answer = await complete(server, ann, upload["fid"], sha256(data).hexdigest())
    assert (status, answer["error"]["code"]) == (422, "FILE_UPLOAD_FAILED")
    assert (await complete(server, ann, upload["fid"]))[0] == 404
    assert (await s3.objects(), await s3.uploads()) == ({}, 0)
    other = await begin(server, ann, SIZE)
    assert await s3.uploads() == 1
    await server.data("DELETE", f"/files/uploads/{other['fid']}", ann.token)
    assert await s3.uploads() == 0
    status, answer = await server.call("POST", "/files", ann.token, {"filename": "../", "file_size": SIZE})
    assert (status, await s3.uploads()) == (422, 0)


async def test_s3_fails(server: Server, s3: S3) -> None:
    """While S3 is away there is a refusal that says to come back; an end whose answer was lost is found."""
    ann = await server.person()
    data = os.urandom(SIZE)
    upload = await begin(server, ann, SIZE)
    await put_all(upload, data)
    s3.spoiler.spoil("error")
    for answering in (
        server.call("POST", "/files", ann.token, {"filename": "a", "file_size": SIZE}),
        server.call("GET", f"/files/uploads/{upload['fid']}", ann.token),
        complete(server, ann, upload["fid"]),
    ):
        status, answer = await answering
        assert (status, answer["error"]["code"]) == (503, "SERVICE_UNAVAILABLE")
    s3.spoiler.spoil("lost answer", only="POST", times=1)
    status, answer = await complete(server, ann, upload["fid"], sha256(data).hexdigest())
    assert (status, answer["data"]["file_size"]) == (200, SIZE)
    assert (await ask(server, answer["data"]["encrypted_url"], ann))[2] == data
    await nothing_dangles(server, s3)
