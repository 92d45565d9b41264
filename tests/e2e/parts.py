"""Uploads in parts: what a client of theirs does, step by step."""

from __future__ import annotations

from collections.abc import AsyncIterator
from io import BytesIO
from typing import Any

import aiohttp

from tests.e2e.server import Person, Server

PART = 5 * 1024 * 1024


async def begin(server: Server, person: Person, size: int) -> dict[str, Any]:
    """A new upload."""
    upload: dict[str, Any] = await server.data(
        "POST", "/files", person.token, {"filename": "film.bin", "file_size": size}
    )
    return upload


async def put(server: Server, url: str, data: bytes | AsyncIterator[bytes]) -> tuple[int, str | None]:
    """Sends a part: the status, and the code of a refusal. There is no token."""
    async with (
        aiohttp.ClientSession() as http,
        http.put(server.http + url, data=BytesIO(data) if isinstance(data, bytes) else data) as answer,
    ):
        return answer.status, None if answer.status == 204 else (await answer.json())["error"]["code"]


async def put_all(server: Server, upload: dict[str, Any], data: bytes) -> None:
    """Sends every part, the last one first."""
    for part in reversed(upload["parts"]):
        start = (part["number"] - 1) * upload["part_size"]
        assert await put(server, part["url"], data[start : start + part["size"]]) == (204, None)


async def complete(server: Server, person: Person, fid: str, sha256: str | None = None) -> tuple[int, Any]:
    """Makes a file of it."""
    return await server.call("POST", f"/files/uploads/{fid}/complete", person.token, {"sha256": sha256})
