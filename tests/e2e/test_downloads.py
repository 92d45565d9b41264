"""Having files: all of one, some of it, and none of it once it may not be had."""

from __future__ import annotations

import os
import random
from typing import Any

import aiohttp

from tests.e2e.server import Person, Server
from tests.e2e.test_files import signed, upload


async def ask(server: Server, path: str, person: Person | None = None, method: str = "GET", **headers: str) -> Any:
    """Status, headers and body. `If_Range` stands for If-Range."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with (
        aiohttp.ClientSession(headers=signed(person) if person else {}) as http,
        http.request(method, server.http + path, headers=named) as answer,
    ):
        return answer.status, answer.headers, await answer.read()


async def test_ranges(common_server: Server, crowd: list[Person]) -> None:
    """Any range of a file is those bytes of it, and several are each; HEAD says how many there are."""
    ann, data = crowd[0], os.urandom(3_000_001)
    path = (await upload(common_server, ann, data))["encrypted_url"]
    status, headers, body = await ask(common_server, path, ann, "HEAD")
    assert (status, headers["Content-Length"], body) == (200, str(len(data)), b"")
    seed = random.randrange(2**32)
    dice = random.Random(seed)
    edges = [0, 65_535, 65_536, 65_537, 1_048_575, 1_048_576, len(data) - 1]
    for _ in range(40):
        first, last = sorted(dice.choice([dice.randrange(len(data)), dice.choice(edges)]) for _ in range(2))
        status, headers, body = await ask(common_server, path, ann, Range=f"bytes={first}-{last}")
        assert (status, headers["Content-Range"]) == (206, f"bytes {first}-{last}/{len(data)}"), seed
        assert len(body) == last + 1 - first
        assert body == data[first : last + 1], seed
    status, headers, body = await ask(common_server, path, ann, Range="bytes=2999999-,65535-65536")
    boundary = headers["Content-Type"].partition("boundary=")[2].encode()
    parts = [part.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n") for part in body.split(b"--" + boundary)[1:-1]]
    assert (status, parts) == (206, [data[2_999_999:], data[65_535:65_537]])


async def test_asked_again(common_server: Server, crowd: list[Person]) -> None:
    """Who has a file already is told so, as long as they may have it; the tag is of what is in it."""
    ann, bob = crowd[:2]
    data = os.urandom(100)
    (path, again), other = (
        [(await upload(common_server, ann, data))["encrypted_url"] for _ in range(2)],
        (await upload(common_server, ann, os.urandom(100)))["encrypted_url"],
    )
    _, headers, _ = await ask(common_server, path, ann)
    tag = headers["ETag"]
    assert (await ask(common_server, again, ann))[1]["ETag"] == tag
    assert (await ask(common_server, other, ann))[1]["ETag"] != tag
    status, headers, body = await ask(common_server, path, ann, If_None_Match=tag)
    assert (status, headers["ETag"], body) == (304, tag, b"")
    assert (await ask(common_server, path, ann, If_Modified_Since=headers["Last-Modified"]))[0] == 304
    assert (await ask(common_server, path, bob, If_None_Match=tag))[0] == 404
