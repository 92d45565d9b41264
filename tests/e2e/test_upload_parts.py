"""Uploads in parts, each to a signed address of its own."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from gateway.actions.part_uploads import PART_SIZE, part_size_for
from gateway.actions.uploads import MOST_PARTS
from tests.e2e.bots import make_bot
from tests.e2e.parts import PART, begin, complete, put, put_all
from tests.e2e.program import parley
from tests.e2e.server import PASSWORD, Person, Server
from tests.e2e.test_files import download
from tests.e2e.test_key_rotation import rotate
from tests.e2e.tus import append, create, look

SIZE = PART + 1_000


def blobs(server: Server) -> set[Path]:
    """What is kept."""
    return {path for path in (server.directory / "data" / "files").rglob("*") if path.is_file()}


async def state(server: Server, person: Person, fid: str, query: str = "") -> Any:
    """How far it is."""
    return await server.data("GET", f"/files/uploads/{fid}{query}", person.token)


@pytest.mark.parametrize("mount", ["", "/api/v1"])
async def test_in_any_order(common_server: Server, crowd: list[Person], mount: str) -> None:
    """Parts come in any order, and again: the last one counts, and nothing is left of those before."""
    ann, data = crowd[0], os.urandom(SIZE)
    upload = await begin(common_server, ann, SIZE)
    assert (upload["part_size"], upload["part_count"], upload["file_size"]) == (PART, 2, SIZE)
    assert [(part["number"], part["size"]) for part in upload["parts"]] == [(1, PART), (2, 1_000)]
    first, second = (mount + part["url"] for part in upload["parts"])
    assert await put(common_server, second, os.urandom(1_000)) == (204, None)
    kept = blobs(common_server)
    assert await put(common_server, second, data[PART:]) == (204, None)
    assert len(blobs(common_server)) == len(kept)
    half = await state(common_server, ann, upload["fid"])
    assert (half["received"], [part["received"] for part in half["parts"]]) == (1_000, [False, True])
    assert await put(common_server, first, data[:PART]) == (204, None)
    status, answer = await complete(common_server, ann, upload["fid"], sha256(data).hexdigest())
    assert (status, answer["data"]["sha256"]) == (200, sha256(data).hexdigest())
    assert (await complete(common_server, ann, upload["fid"]))[1] == answer
    status, got = await download(common_server, ann, answer["data"]["encrypted_url"])
    assert (status, sha256(got).hexdigest()) == (200, sha256(data).hexdigest())


@pytest.mark.parametrize("size", [0, 1])
async def test_small_ones(common_server: Server, crowd: list[Person], size: int) -> None:
    """A file may have one part, and an empty one has none."""
    upload = await begin(common_server, crowd[0], size)
    assert (upload["part_count"], len(upload["parts"]), upload["has_more"]) == (size, size, False)
    await put_all(common_server, upload, b"x" * size)
    status, answer = await complete(common_server, crowd[0], upload["fid"])
    assert (status, answer["data"]["file_size"]) == (200, size)


async def in_pieces(data: bytes) -> AsyncIterator[bytes]:
    """A body that does not say how long it is."""
    yield data


async def test_parts_that_are_not_right(common_server: Server, crowd: list[Person]) -> None:
    """A part of another length, announced or not, is refused, and what was there before stays."""
    upload = await begin(common_server, crowd[0], SIZE)
    url = upload["parts"][1]["url"]
    assert await put(common_server, url, bytes(1_000)) == (204, None)
    kept = blobs(common_server)
    for body in (b"", bytes(999), bytes(1_001), in_pieces(bytes(999))):
        assert await put(common_server, url, body) == (422, "FILE_UPLOAD_FAILED")
    assert await put(common_server, url, in_pieces(bytes(1_001))) == (413, "FILE_TOO_LARGE")
    assert (await state(common_server, crowd[0], upload["fid"]))["received"] == 1_000
    assert blobs(common_server) == kept


async def test_addresses_that_were_not_given(common_server: Server, crowd: list[Person]) -> None:
    """A signature is good for one part of one upload; any other address is like none, whatever is wrong with it."""
    upload, other = [await begin(common_server, crowd[0], SIZE) for _ in range(2)]
    path, _, signature = upload["parts"][1]["url"].partition("?signature=")
    elsewhere = other["parts"][1]["url"].partition("?")[2]
    for url in (
        path,
        f"{path}?signature=",
        f"{path}?signature={signature[:-2]}",
        f"{path}?signature=A{signature}",
        f"{path}?{elsewhere}",
        f"{path[:-1]}1?signature={signature}",
        f"{path[:-1]}0?signature={signature}",
        f"{path[:-1]}{'9' * 5_000}?signature={signature}",
        f"/files/uploads/{uuid4()}/parts/2?signature={signature}",
        f"/files/uploads/x/parts/2?signature={signature}",
    ):
        assert await put(common_server, url, bytes(1_000)) == (404, "FILE_NOT_FOUND")
    assert (await state(common_server, crowd[0], upload["fid"]))["received"] == 0


async def test_who_may_send(common_server: Server) -> None:
    """An address is good as long as whoever asked for it is signed in, and while the upload is one."""
    ann = await common_server.person()
    bot = await make_bot(common_server, ann)
    credentials = {"username": ann.username, "password": PASSWORD}
    again = Person(ann.id, ann.username, "", "")
    again.token = (await common_server.data("POST", "/auth/login", body=credentials))["access_token"]
    uploads = {who.token: await begin(common_server, who, SIZE) for who in (ann, again, bot)}
    urls = {token: upload["parts"][1]["url"] for token, upload in uploads.items()}
    for url in urls.values():
        assert (await put(common_server, url, bytes(1_000)))[0] == 204
    await common_server.call("POST", "/auth/logout", ann.token)
    await common_server.data("POST", f"/bots/{bot.id}/rotate", again.token)
    for token, status in ((ann.token, 404), (bot.token, 404), (again.token, 204)):
        assert (await put(common_server, urls[token], bytes(1_000)))[0] == status
    await common_server.call("DELETE", f"/files/uploads/{uploads[again.token]['fid']}", again.token)
    assert (await put(common_server, urls[again.token], bytes(1_000)))[0] == 404


async def test_accounts_that_are_taken_out_of_use(server: Server) -> None:
    """Addresses outlive a rotation of keys, and not the account."""
    ann = await server.person()
    before = (await begin(server, ann, SIZE))["parts"][1]["url"]
    await rotate(server)
    after = (await begin(server, ann, SIZE))["parts"][1]["url"]
    for url in (before, after):
        assert await put(server, url, bytes(1_000)) == (204, None)
    await parley(server, "users", "deactivate", ann.username)
    for url in (before, after):
        assert await put(server, url, bytes(1_000)) == (404, "FILE_NOT_FOUND")


async def test_completing(common_server: Server, crowd: list[Person]) -> None:
    """Parts that are missing are named, a wrong hash is an error, and nothing is lost by either."""
    ann, data = crowd[0], os.urandom(SIZE)
    upload = await begin(common_server, ann, SIZE)
    status, answer = await complete(common_server, ann, upload["fid"])
    assert (status, answer["error"]["details"]) == (422, {"missing": [1, 2]})
    await put_all(common_server, upload, data[:-1] + b"?")
    status, answer = await complete(common_server, ann, upload["fid"], sha256(data).hexdigest())
    assert (status, answer["error"]["code"]) == (422, "FILE_UPLOAD_FAILED")
    fresh = (await state(common_server, ann, upload["fid"], "?after=1"))["parts"]
    assert await put(common_server, fresh[0]["url"], data[PART:]) == (204, None)
    digest = sha256(data).hexdigest()
    answers = await asyncio.gather(*(complete(common_server, ann, upload["fid"], digest) for _ in range(4)))
    assert {status for status, _ in answers} == {200}
    assert {answer["data"]["sha256"] for _, answer in answers} == {digest}


async def test_completed_while_a_part_comes(common_server: Server, crowd: list[Person]) -> None:
    """Whatever comes at the same moment: what the file is said to be is what it is."""
    ann = crowd[0]
    for _ in range(5):
        upload = await begin(common_server, ann, 200_000)
        await put_all(common_server, upload, bytes(200_000))
        sending = put(common_server, upload["parts"][0]["url"], b"1" * 200_000)
        _, (status, answer) = await asyncio.gather(sending, complete(common_server, ann, upload["fid"]))
        if status == 409:
            assert answer["error"]["code"] == "UPLOAD_OFFSET_MISMATCH"
            status, answer = await complete(common_server, ann, upload["fid"])
        assert status == 200
        got = (await download(common_server, ann, answer["data"]["encrypted_url"]))[1]
        assert sha256(got).hexdigest() == answer["data"]["sha256"]


async def test_page_by_page(common_server: Server, crowd: list[Person]) -> None:
    """Addresses come in pages, and an upload is never in more parts than there may be."""
    upload = await begin(common_server, crowd[0], 2 * PART)
    for after, numbers, more in ((0, [1], True), (1, [2], False), (2, [], False)):
        page = await state(common_server, crowd[0], upload["fid"], f"?after={after}&limit=1")
        assert ([part["number"] for part in page["parts"]], page["has_more"]) == (numbers, more)
    for size in (0, 1, PART_SIZE * MOST_PARTS, PART_SIZE * MOST_PARTS + 1, 2**53):
        assert part_size_for(size) >= PART_SIZE
        assert part_size_for(size) * MOST_PARTS >= size


async def test_what_is_not_for_all(common_server: Server, crowd: list[Person]) -> None:
    """Somebody else's upload is like none; one that was dropped is none; its blobs are gone."""
    ann, eve = crowd[:2]
    before = blobs(common_server)
    upload = await begin(common_server, ann, 1_000)
    await put_all(common_server, upload, bytes(1_000))
    path = f"/files/uploads/{upload['fid']}"
    steps = (("GET", path), ("POST", f"{path}/complete"), ("DELETE", path))
    for method, where in steps:
        assert (await common_server.call(method, where, eve.token))[0] == 404
    assert (await common_server.call("DELETE", path, ann.token))[0] == 200
    for method, where in steps:
        assert (await common_server.call(method, where, ann.token))[0] == 404
    assert blobs(common_server) == before


async def test_the_two_ways_are_apart(common_server: Server, crowd: list[Person]) -> None:
    """An upload in parts takes nothing by tus, and the other way round."""
    ann = crowd[0]
    upload = await begin(common_server, ann, 10)
    path = f"/files/tus/{upload['fid']}"
    assert (await look(common_server, ann, path)).status == 404
    assert (await append(common_server, ann, path, 0, bytes(10))).code == "FILE_NOT_FOUND"
    fid = (await create(common_server, ann, 10)).rpartition("/")[2]
    assert (await common_server.call("GET", f"/files/uploads/{fid}", ann.token))[0] == 404
    assert (await complete(common_server, ann, fid))[0] == 404


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"filename": "a"}, "VALIDATION_REQUIRED_FIELD"),
        ({"filename": "a", "file_size": 10_485_761}, "FILE_TOO_LARGE"),
        ({"filename": "a", "file_size": -1}, "VALIDATION_INVALID_VALUE"),
        ({"filename": "../", "file_size": 1}, "VALIDATION_INVALID_VALUE"),
        ({"filename": "a", "file_size": 1, "chatroom_id": str(uuid4())}, "CHATROOM_NOT_FOUND"),
    ],
)
async def test_what_is_not_begun(common_server: Server, crowd: list[Person], body: Any, code: str) -> None:
    """An upload without a length, that is too large, or that is for nowhere."""
    _, answer = await common_server.call("POST", "/files", crowd[0].token, body)
    assert answer["error"]["code"] == code
