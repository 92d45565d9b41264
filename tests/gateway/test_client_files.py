"""The client's transfers, with a server that does not do as it should."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from uuid import UUID

import pytest
from aiohttp import web

from gateway.client_files import TRIES, Files
from gateway.client_sealing import PlainFile, Target, destination
from protocol.errors import ChatError
from tests.ports import free_port

FILE = UUID(int=7)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses between attempts are short."""
    monkeypatch.setattr("gateway.client_commands.RETRY_BASE", 0.001)


@asynccontextmanager
async def serving(*routes: tuple[str, str, Handler]) -> AsyncIterator[Files]:
    """A client of a server that answers so."""
    app = web.Application()
    for method, path, handler in routes:
        app.router.add_route(method, path, handler)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    files = Files(f"http://127.0.0.1:{port}", None, lambda: asyncio.sleep(0, "token"))
    try:
        yield files
    finally:
        await files.close()
        await runner.cleanup()


def names(folder: Path) -> list[str]:
    """What is in a folder."""
    return [path.name for path in folder.iterdir()]


async def refused(doing: Awaitable[object]) -> ChatError:
    """What it was refused with."""
    with pytest.raises(ChatError) as caught:
        await doing
    return caught.value


def answer(body: dict[str, object]) -> web.Response:
    """An answer in its envelope."""
    return web.json_response({"success": True, "data": body})


class Uploads:
    """Takes uploads as tus has it, and notes what was asked. It says that the file has the SHA-256 `says`."""

    def __init__(self, says: bytes = b"") -> None:
        self.held = b""
        self.asked: list[str] = []
        self.says = says
        self.offset: int | None = None

    def routes(self) -> list[tuple[str, str, Handler]]:
        """Where it is."""
        one = f"/files/tus/{FILE}"
        routes = [("POST", "/files/tus", self.create), ("HEAD", one, self.look), ("PATCH", one, self.take)]
        return [*routes, ("DELETE", one, self.drop), ("GET", f"/files/{FILE}/info", self.info)]

    async def create(self, request: web.Request) -> web.Response:
        """Begins."""
        self.asked.append("create")
        return web.Response(status=201, headers={"Location": f"https://elsewhere.example/files/tus/{FILE}"})

    async def look(self, request: web.Request) -> web.Response:
        """How far it is."""
        self.asked.append("look")
        return web.Response(headers={"Upload-Offset": str(len(self.held) if self.offset is None else self.offset)})

    async def take(self, request: web.Request) -> web.Response:
        """The rest."""
        self.asked.append("take")
        self.held = self.held[: int(request.headers["Upload-Offset"])] + await request.read()
        return web.Response(status=204)

    async def drop(self, request: web.Request) -> web.Response:
        """Forgets it."""
        self.asked.append("drop")
        return web.Response(status=204)

    async def info(self, request: web.Request) -> web.Response:
        """What it is."""
        file = {"id": str(FILE), "filename": "a", "file_type": "text/plain", "file_size": len(self.held)}
        more = {"encrypted_url": "", "upload_date": "2026-01-01T00:00:00Z"}
        return answer(file | more | {"sha256": (self.says or sha256(self.held).digest()).hex()})


def source(folder: Path, data: bytes = b"some bytes") -> PlainFile:
    """A file to send."""
    (folder / "a").write_bytes(data)
    return PlainFile(folder / "a")


async def test_a_server_that_took_something_else(tmp_path: Path) -> None:
    """The SHA-256 of what was sent is compared; an upload that cannot be is taken back."""
    uploads = Uploads(b"\0" * 32)
    async with serving(*uploads.routes()) as files:
        error = await refused(files.upload(source(tmp_path), "a", {}))
    assert error.code == "FILE_UPLOAD_FAILED"
    assert uploads.asked == ["create", "take"]


async def test_an_answer_that_is_lost(tmp_path: Path) -> None:
    """What was taken is not sent again: the client looks, and goes on behind it, here with nothing."""
    uploads = Uploads()
    take = uploads.take

    async def silent(request: web.Request) -> web.Response:
        taken = await take(request)
        if len(uploads.asked) < 3:
            assert request.transport is not None
            request.transport.abort()
        return taken

    uploads.take = silent  # type: ignore[method-assign]
    async with serving(*uploads.routes()) as files:
        file = await files.upload(source(tmp_path), "a", {})
    assert uploads.asked == ["create", "take", "look", "take"]
    assert (uploads.held, file.sha256) == (b"some bytes", sha256(b"some bytes").hexdigest())


async def refuse(request: web.Request) -> web.Response:
    """Takes everything, and keeps nothing of it."""
    await request.read()
    return web.Response(status=503)


@pytest.mark.parametrize(
    ("offset", "code", "looks"), [(50, "FILE_UPLOAD_FAILED", 1), (0, "SERVICE_UNAVAILABLE", TRIES - 1)]
)
async def test_offsets_that_lead_nowhere(tmp_path: Path, offset: int, code: str, looks: int) -> None:
    """A server that has more than was sent is not believed, and one that never has any more is given up."""
    uploads = Uploads()
    uploads.offset = offset
    routes = [(method, path, refuse if method == "PATCH" else take) for method, path, take in uploads.routes()]
    async with serving(*routes) as files:
        error = await refused(files.upload(source(tmp_path), "a", {}))
    assert error.code == code
    assert uploads.asked == ["create", *["look"] * looks, "drop"]


async def test_a_server_that_stays_away(tmp_path: Path) -> None:
    """After so many attempts without a byte it is an error, with the reason that was given."""
    asked = 0

    async def away(request: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        error = {"code": "SERVICE_UNAVAILABLE", "message": "There is no room for files.", "details": {}}
        return web.json_response({"success": False, "error": error}, status=503)

    async with serving(("POST", "/files/tus", away)) as files:
        error = await refused(files.upload(source(tmp_path), "a", {}))
    assert (asked, error.message) == (TRIES, "There is no room for files.")


async def test_nobody_there(tmp_path: Path) -> None:
    """No connection at all is SERVICE_UNAVAILABLE, and nothing is left of a download."""
    files = Files(f"http://127.0.0.1:{free_port()}", None, lambda: asyncio.sleep(0, "token"))
    error = await refused(files.download(FILE, 3, Target(destination(tmp_path / "out", "")), None))
    await files.close()
    assert error.code == "SERVICE_UNAVAILABLE"
    assert names(tmp_path) == []


async def test_silence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that says nothing more is given up, and asked again."""
    monkeypatch.setattr("gateway.client_files.STALL", 0.2)
    asked = 0

    async def slow(request: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        if asked == 1:
            await asyncio.sleep(60)
        return web.Response(body=b"all")

    async with serving(("GET", f"/files/{FILE}", slow)) as files:
        await files.download(FILE, 3, Target(destination(tmp_path / "out", "")), None)
    assert (tmp_path / "out").read_bytes() == b"all"


async def test_a_file_that_is_another_now(tmp_path: Path) -> None:
    """A download goes on only with the file that it began with; else it begins anew, and nothing is mixed."""
    asked: list[tuple[str, str]] = []

    async def changing(request: web.Request) -> web.StreamResponse:
        asked.append((request.headers.get("Range", ""), request.headers.get("If-Range", "")))
        response = web.StreamResponse(headers={"ETag": f'"{len(asked)}"'})
        response.content_length = 6
        await response.prepare(request)
        await response.write(b"old" if len(asked) == 1 else b"newnew")
        if len(asked) == 1:
            await asyncio.sleep(0.05)
            assert request.transport is not None
            request.transport.close()
        return response

    async with serving(("GET", f"/files/{FILE}", changing)) as files:
        await files.download(FILE, 6, Target(destination(tmp_path / "out", "")), None)
    assert (tmp_path / "out").read_bytes() == b"newnew"
    assert asked == [("", ""), ("bytes=3-", '"1"')]


@pytest.mark.parametrize("body", [b"fewer", b"many more than there are"])
async def test_another_size(tmp_path: Path, body: bytes) -> None:
    """A file that is not as long as the message says is an error, and is not saved."""

    async def whole(request: web.Request) -> web.Response:
        return web.Response(body=body)

    async with serving(("GET", f"/files/{FILE}", whole)) as files:
        error = await refused(files.download(FILE, 10, Target(destination(tmp_path / "out", "")), None))
    assert error.code == "FILE_DAMAGED"
    assert names(tmp_path) == []
