"""A client of tus 1.0 that does nothing by itself: a test says what each request has."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import aiohttp

from tests.e2e.server import Person, Server

BYTES = {"Content-Type": "application/offset+octet-stream"}


@dataclass(frozen=True, slots=True)
class TusAnswer:
    """What came back; `code` is that of a refusal's body."""

    status: int
    headers: Mapping[str, str]
    code: str | None

    @property
    def offset(self) -> int:
        """Bytes that are kept."""
        return int(self.headers["Upload-Offset"])


def metadata(**values: str) -> str:
    """Upload-Metadata of these keys."""
    return ",".join(f"{key} {b64encode(value.encode()).decode()}" for key, value in values.items())


async def tus(
    server: Server, person: Person | None, method: str, path: str, data: bytes = b"", **headers: str | None
) -> TusAnswer:
    """One request. `headers` have underscores for dashes; None takes a usual one away."""
    usual = {"Tus-Resumable": "1.0.0"} | ({"Authorization": f"Bearer {person.token}"} if person else {})
    if method == "PATCH":
        usual |= BYTES
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    sent = {name: value for name, value in (usual | given).items() if value is not None}
    body = BytesIO(data) if data else None
    async with (
        aiohttp.ClientSession() as http,
        http.request(method, server.http + path, headers=sent, data=body, skip_auto_headers=["Content-Type"]) as answer,
    ):
        told: Any = await answer.json() if await answer.read() else None
        return TusAnswer(answer.status, answer.headers, told and told["error"]["code"])


async def create(server: Server, person: Person, size: int, mount: str = "", **values: str) -> str:
    """A new upload; where it is."""
    told = metadata(**{"filename": "film.bin", **values})
    answer = await tus(server, person, "POST", f"{mount}/files/tus", Upload_Length=str(size), Upload_Metadata=told)
    assert answer.status == 201, answer
    return answer.headers["Location"]


async def append(server: Server, person: Person, path: str, offset: int, data: bytes, **headers: str) -> TusAnswer:
    """Sends bytes."""
    return await tus(server, person, "PATCH", path, data, Upload_Offset=str(offset), **headers)


async def look(server: Server, person: Person, path: str) -> TusAnswer:
    """Asks how far it is."""
    return await tus(server, person, "HEAD", path)
