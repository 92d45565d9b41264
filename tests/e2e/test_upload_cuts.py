"""Uploads over lines that break: what has come stays, and the file is the same in the end."""

from __future__ import annotations

import asyncio
import os
import random
import re
import shutil
import socket
import struct
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from bench.faults.addresses import Tcp
from bench.faults.proxy import Proxy
from tests.e2e.server import Person, Server
from tests.e2e.test_files import download
from tests.e2e.tus import TusAnswer, append, create, look

CUTS = 50
PATIENCE = 60
"""Seconds for what a busy machine may take its time with."""
TUS_JS = "tus-js-client@4.3.1"
LINES = 25
"""Connections that are cut before the line is good."""


async def bytes_heard(server: Server) -> int:
    """How many bytes of files the server has read, since it began."""
    async with aiohttp.ClientSession() as http, http.get(f"{server.http}/metrics") as answer:
        found = re.search(r'^parley_file_bytes_total{direction="in"} (\S+)$', await answer.text(), re.MULTILINE)
    return int(float(found[1])) if found else 0


async def heard(server: Server, count: int) -> None:
    """Waits until the server has read so many."""
    async with asyncio.timeout(PATIENCE):
        while await bytes_heard(server) < count:
            await asyncio.sleep(0.005)


async def begin_patch(
    server: Server, person: Person, path: str, offset: int, length: int
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A PATCH whose body has yet to be sent."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    head = (
        f"PATCH {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {person.token}\r\nTus-Resumable: 1.0.0\r\n"
        f"Content-Type: application/offset+octet-stream\r\nUpload-Offset: {offset}\r\nContent-Length: {length}\r\n\r\n"
    )
    writer.write(head.encode())
    return reader, writer


def cut(writer: asyncio.StreamWriter, how: str) -> None:
    """Ends a connection: as a program does that ends, or with RST."""
    if how == "reset":
        linger = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()
    writer.close()


async def settled(server: Server, person: Person, path: str, offset: int) -> TusAnswer:
    """Waits until the upload is there."""
    async with asyncio.timeout(PATIENCE):
        while (answer := await look(server, person, path)).offset != offset:
            await asyncio.sleep(0.005)
    return answer


async def came_to(server: Server, person: Person, path: str, data: bytes) -> None:
    """Checks that an upload has become this file."""
    file_id = path.rpartition("/")[2]
    info = await server.data("GET", f"/files/{file_id}/info", person.token)
    status, got = await download(server, person, f"/files/{file_id}")
    assert (info["file_size"], info["sha256"]) == (len(data), sha256(data).hexdigest())
    assert (status, sha256(got).hexdigest()) == (200, info["sha256"])


async def test_what_has_come_stays(common_server: Server, crowd: list[Person], dice: random.Random) -> None:
    """A line is cut fifty times, at any byte, as soon as the server has read up to there: not one byte comes twice."""
    ann, data = crowd[0], dice.randbytes(6_000_000)
    path = await create(common_server, ann, len(data))
    at = 0
    for _ in range(CUTS):
        size = dice.choice([1, 65_536, 65_537, dice.randrange(1, 110_000), dice.randrange(1, 110_000)])
        before = await bytes_heard(common_server)
        _, writer = await begin_patch(common_server, ann, path, at, len(data) - at)
        writer.write(data[at : at + size])
        await heard(common_server, before + size)
        cut(writer, dice.choice(["close", "reset"]))
        at += size
        await settled(common_server, ann, path, at)
    assert (await append(common_server, ann, path, at, data[at:])).status == 204
    await came_to(common_server, ann, path, data)


async def test_cut_at_any_moment(common_server: Server, crowd: list[Person], dice: random.Random) -> None:
    """A line is cut fifty times whatever the server has read, also between request and answer: the file is the same."""
    ann, data = crowd[0], dice.randbytes(6_000_000)
    path = await create(common_server, ann, len(data))
    at = 0
    for _ in range(CUTS):
        answer = await look(common_server, ann, path)
        assert answer.offset >= at
        at = answer.offset
        size = dice.randrange(0, 110_000)
        told = size if dice.random() < 0.3 else len(data) - at
        _, writer = await begin_patch(common_server, ann, path, at, told)
        for start in range(at, at + size, 20_000):
            writer.write(data[start : min(start + 20_000, at + size)])
            await asyncio.sleep(dice.choice([0, 0, 0.002]))
        cut(writer, dice.choice(["close", "reset"]))
    async with asyncio.timeout(PATIENCE):
        while (answer := await append(common_server, ann, path, at, data[at:])).status != 204:
            assert answer.code == "UPLOAD_OFFSET_MISMATCH"
            at = (await look(common_server, ann, path)).offset
    await came_to(common_server, ann, path, data)


async def test_a_line_that_goes_silent(common_server: Server, crowd: list[Person]) -> None:
    """A line that is dead without a word takes nothing along: who asks how far it is hears of all it has brought."""
    ann, data = crowd[0], os.urandom(3_500_000)
    path = await create(common_server, ann, len(data))
    # What comes quickly earns a line minutes of silence: it would not be cut for that while this test waits.
    before = await bytes_heard(common_server)
    reader, writer = await begin_patch(common_server, ann, path, 0, len(data))
    writer.write(data[:3_000_000])
    await heard(common_server, before + 3_000_000)
    assert (await look(common_server, ann, path)).offset in (0, 3_000_000)
    await settled(common_server, ann, path, 3_000_000)
    assert (await append(common_server, ann, path, 3_000_000, data[3_000_000:])).status == 204
    await came_to(common_server, ann, path, data)
    assert (await reader.readline()).split()[1] == b"408"
    writer.close()


# --- the client that others wrote ------------------------------------------------------------


@pytest.fixture(scope="session")
def tus_js(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which node finds tus-js-client. Where there is no node, or no way to it, there is no test."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        pytest.skip("node and npm are not here")
    folder = tmp_path_factory.mktemp("tus-js")
    install = [npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", "--fetch-retries=0", TUS_JS]
    try:
        done = subprocess.run(install, cwd=folder, capture_output=True, timeout=60, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip(f"{TUS_JS} did not come from npm in time")
    if done.returncode != 0:
        pytest.skip(f"{TUS_JS} cannot be had from npm")
    shutil.copy(Path(__file__).with_name("tus_client.mjs"), folder)
    return folder


@asynccontextmanager
async def bad_line(server: Server, dice: random.Random, lines: int) -> AsyncIterator[Proxy]:
    """A way to the server whose first lines break, each after so many bytes; later ones are good."""
    async with Proxy(Tcp("127.0.0.1", server.port), dice=dice) as proxy:
        spoiling = asyncio.create_task(spoil(proxy, dice, lines))
        try:
            yield proxy
        finally:
            spoiling.cancel()
            with suppress(asyncio.CancelledError):
                await spoiling


async def spoil(proxy: Proxy, dice: random.Random, lines: int) -> None:
    """Cuts lines at one place after the other."""
    while proxy.accepted < lines:
        proxy.faults.cut = ("up", dice.randrange(500, 700_000))
        await asyncio.sleep(0.003)
    proxy.faults.cut = None


async def run_tus_js(folder: Path, port: int, person: Person, file: Path, **options: Any) -> Any:
    """What the client says at its end."""
    told = {"endpoint": f"http://127.0.0.1:{port}/files/tus", "token": person.token, "file": str(file), **options}
    process = await asyncio.create_subprocess_exec(
        *("node", "tus_client.mjs", msgspec.json.encode(told).decode()),
        cwd=folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(PATIENCE):
        output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    return msgspec.json.decode(output)


@pytest.mark.parametrize(
    ("lines", "options"),
    [
        (LINES, {}),
        (LINES, {"chunkSize": 300_000}),
        (LINES, {"uploadDataDuringCreation": True, "chunkSize": 200_000}),
        (0, {"uploadLengthDeferred": True, "chunkSize": 900_000}),  # its streams cannot go back
    ],
    ids=str,
)
async def test_tus_js_client(
    common_server: Server,
    crowd: list[Person],
    tus_js: Path,
    dice: random.Random,
    tmp_path: Path,
    lines: int,
    options: dict[str, Any],
) -> None:
    """tus-js-client, cut again and again, brings its file whole, and is told where it is."""
    ann, data = crowd[0], dice.randbytes(5_000_000)
    file = tmp_path / "film.bin"
    file.write_bytes(data)
    async with bad_line(common_server, dice, lines) as proxy:
        said = await run_tus_js(tus_js, proxy.port, ann, file, **options)
        assert proxy.accepted > 5 or lines == 0
    assert said["file"] == f"/files/{said['url'].rpartition('/')[2]}"
    await came_to(common_server, ann, said["url"], data)


async def test_tus_js_client_thinks_better_of_it(
    common_server: Server, crowd: list[Person], tus_js: Path, tmp_path: Path
) -> None:
    """What tus-js-client terminates is gone."""
    file = tmp_path / "film.bin"
    file.write_bytes(os.urandom(2_000_000))
    said = await run_tus_js(tus_js, common_server.port, crowd[0], file, chunkSize=200_000, abortAt=600_000)
    answer = await look(common_server, crowd[0], "/files/tus/" + said["url"].rpartition("/")[2])
    assert answer.status == 404
