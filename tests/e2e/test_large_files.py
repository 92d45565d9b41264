"""Large files, and many at once: they pass through the server and do not stay in its memory, and chat goes on."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from uuid import UUID

import aiohttp
import psutil  # type: ignore[import-untyped]
import pytest

from bench.validity import percentile
from gateway.client import Client, connect
from tests.e2e.conftest import StartServer
from tests.e2e.server import Person, Server
from tests.e2e.test_files import signed

MB = 10**6
LIMIT = str(2**40)
LARGE = {f"PARLEY_LIMIT_{name}": LIMIT for name in ("FILE", "IMAGE", "MEDIA", "USER_FILES", "CHATROOM_FILES")}

GROWTH = 20 * MB
"""Bytes that a file of any size may add to the server's memory."""

TOGETHER = 200
"""Uploads that run at once beside chat."""


COMING, SENDING, PIECES = 3.0, 4.0, 10
"""Seconds in which they begin, seconds that each takes, and its pieces. So there are moments in which all are there."""


class Pattern:
    """A file that is made as it is sent: pieces of a megabyte, each with its number. `digest` is its SHA-256 so far."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.digest = sha256()

    async def sent(self) -> AsyncIterator[bytes]:
        """Its bytes."""
        filling = bytes(range(256)) * 4096
        for number in range(-(-self.size // len(filling))):
            piece = (number.to_bytes(8, "big") + filling)[: min(len(filling), self.size - number * len(filling))]
            await asyncio.to_thread(self.digest.update, piece)
            yield piece


class Slowly(Pattern):
    """As a phone sends: a piece now and then, for some seconds, after a while."""

    def __init__(self, size: int, wait: float) -> None:
        super().__init__(size)
        self._wait = wait

    async def sent(self) -> AsyncIterator[bytes]:
        """Its bytes."""
        await asyncio.sleep(self._wait)
        for number in range(PIECES):
            piece = number.to_bytes(8, "big") * (self.size // 8 // PIECES)
            self.digest.update(piece)
            yield piece
            await asyncio.sleep(SENDING / PIECES)


async def upload(http: aiohttp.ClientSession, server: Server, person: Person, file: Pattern) -> str:
    """Sends it in one request. Its id."""
    headers = {**signed(person), "Content-Type": "application/octet-stream", "Content-Length": str(file.size)}
    url = f"{server.http}/upload/file?filename=large"
    async with http.post(url, data=file.sent(), headers=headers) as answer:
        body = await answer.json()
        assert answer.status == 201, body
    assert body["data"]["file"]["sha256"] == file.digest.hexdigest()
    return str(body["data"]["fid"])


async def download(http: aiohttp.ClientSession, server: Server, person: Person, id: str) -> str:
    """The SHA-256 of what comes."""
    digest = sha256()
    async with http.get(f"{server.http}/files/{id}", headers=signed(person)) as answer:
        assert answer.status == 200
        async for piece in answer.content.iter_chunked(MB):
            await asyncio.to_thread(digest.update, piece)
    return digest.hexdigest()


@asynccontextmanager
async def memory_of(server: Server) -> AsyncIterator[list[int]]:
    """The server's resident bytes: at the beginning, and the most that it had since."""
    process = psutil.Process(server.pid)
    seen = [process.memory_info().rss] * 2

    async def look() -> None:
        while True:
            seen[1] = max(seen[1], process.memory_info().rss)
            await asyncio.sleep(0.02)

    watch = asyncio.create_task(look())
    try:
        yield seen
    finally:
        watch.cancel()


async def test_a_gigabyte(start_server: StartServer, tmp_path: Path) -> None:
    """1 GB goes in and comes back byte for byte, and the server's memory grows by less than 20 MB meanwhile."""
    size = 1000 * MB if shutil.disk_usage(tmp_path).free > 3000 * MB else 100 * MB
    server: Server = await start_server(**LARGE)
    ann = await server.person()
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)) as http:
        small = Pattern(5 * MB)  # what the first file of all loads is there from now on
        assert await download(http, server, ann, await upload(http, server, ann, small)) == small.digest.hexdigest()
        async with memory_of(server) as seen:
            file = Pattern(size)
            id = await upload(http, server, ann, file)
            assert await download(http, server, ann, id) == file.digest.hexdigest()
        async with http.delete(f"{server.http}/files/{id}", headers=signed(ann)) as answer:
            assert answer.status in (200, 204)
    assert seen[1] - seen[0] < GROWTH


async def chat(client: Client, room: UUID, enough: asyncio.Event) -> list[float]:
    """What acks took, one message after the other, until it is enough; not fewer than fifty."""
    took: list[float] = []
    while len(took) < 50 or not enough.is_set():
        began = time.perf_counter()
        await client.send_message(room, "still here?")
        took.append(time.perf_counter() - began)
        await asyncio.sleep(0.01)
    return took


@pytest.mark.alone
async def test_chat_beside_uploads(start_server: StartServer, record_property: Callable[[str, object], None]) -> None:
    """200 uploads run, and chat goes on: half of all messages are acked within 100 ms, and 99 of 100 within 2 s, or
    what this machine needs for that without any upload, times a few. On two quiet cores 99 of 100 take under 100 ms.
    """
    server: Server = await start_server(**LARGE)
    ann = await server.person()
    room = await server.chatroom(ann)
    connector = aiohttp.TCPConnector(limit=0)
    async with (
        connect(server.ws, ann.token) as client,
        aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None)) as http,
    ):
        done = asyncio.Event()
        done.set()
        alone = await chat(client, room, done)
        done.clear()
        chatting = asyncio.create_task(chat(client, room, done))
        files = [Slowly(400_000, COMING * number / TOGETHER) for number in range(TOGETHER)]
        ids = await asyncio.gather(*(upload(http, server, ann, file) for file in files))
        done.set()
        beside = await chatting
    assert len(set(ids)) == TOGETHER
    for share, bound, times in ((0.5, 0.1, 5), (0.99, 2.0, 20)):
        usual, now = percentile(Counter(alone), share), percentile(Counter(beside), share)
        assert usual is not None
        assert now is not None
        record_property(f"p{share * 100:g}_ms", (usual * 1000, now * 1000))
        assert now < max(bound, times * usual)
