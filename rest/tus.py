"""Uploads that go on after a cut: tus 1.0.0 (https://tus.io/protocols/resumable-upload), at `/files/tus`."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from email.utils import format_datetime
from typing import get_args
from urllib.parse import urlsplit

from aiohttp import web

from protocol.commands import CreateUpload
from protocol.errors import ChatError
from rest.admission import Admission
from rest.middleware import EXTRA
from rest.pace import paced
from rest.requests import convert, path_id
from rest.routes import MOUNTS
from rest.settings import Chat, ChecksumAlgorithm, Progress, RestSettings
from rest.tus_headers import checksum, fields, missing, number

VERSION = "1.0.0"
EXTENSIONS = "checksum,creation,creation-defer-length,creation-with-upload,expiration,termination"
BYTES_TYPE = "application/offset+octet-stream"
Handler = Callable[[web.Request], Awaitable[web.Response]]


class Tus:
    """Takes files in as many requests as it needs."""

    def __init__(self, chat: Chat, admission: Admission, settings: RestSettings) -> None:
        self._files = chat.files
        self._admission = admission
        self._settings = settings
        self._prefix = urlsplit(settings.public_url).path.rstrip("/")

    async def options(self, request: web.Request) -> web.Response:
        """What is spoken here."""
        await self._admission.unsigned(request)
        headers = {
            "Tus-Resumable": VERSION,
            "Tus-Version": VERSION,
            "Tus-Extension": EXTENSIONS,
            "Tus-Max-Size": str(self._files.largest),
            "Tus-Checksum-Algorithm": ",".join(get_args(ChecksumAlgorithm)),
        }
        return web.Response(status=204, headers=headers)

    async def create(self, request: web.Request) -> web.Response:
        """Begins an upload, perhaps with its first bytes. Raises ChatError."""
        _check_version(request)
        actor = await self._admission.uploader(request)
        metadata = request.headers.get("Upload-Metadata", "")
        length = number(request.headers, "Upload-Length")
        if length is None and request.headers.get("Upload-Defer-Length") != "1":
            raise missing("Upload-Length")
        values = fields(metadata) | ({} if length is None else {"file_size": length})
        command = convert(values, CreateUpload, strict=False)
        if request.body_exists or "Content-Type" in request.headers:
            _check_type(request)
        _check_room(request, 0, length)
        progress = await self._files.start(actor, command, metadata, self._body(request), checksum(request.headers))
        where = f"{self._prefix}{request.path.rstrip('/')}/{progress.id}"
        return web.Response(status=201, headers=_headers(progress) | {"Location": where})

    async def look(self, request: web.Request) -> web.Response:
        """How far an upload is. Raises ChatError."""
        _check_version(request)
        actor = await self._admission.signed(request)
        progress = await self._files.look(actor, path_id(request, "file_id"))
        length = {"Upload-Defer-Length": "1"} if progress.length is None else {"Upload-Length": str(progress.length)}
        metadata = {"Upload-Metadata": progress.metadata} if progress.metadata else {}
        return web.Response(headers=_headers(progress) | length | metadata)

    async def append(self, request: web.Request) -> web.Response:
        """Takes bytes behind those that are there. Raises ChatError."""
        _check_version(request)
        actor = await self._admission.signed(request)
        _check_type(request)
        offset, length = number(request.headers, "Upload-Offset"), number(request.headers, "Upload-Length")
        if offset is None:
            raise missing("Upload-Offset")
        _check_room(request, offset, length)
        progress = await self._files.append(
            actor, path_id(request, "file_id"), self._body(request), offset, length, checksum(request.headers)
        )
        return web.Response(status=204, headers=_headers(progress))

    async def terminate(self, request: web.Request) -> web.Response:
        """Drops an upload. Raises ChatError."""
        _check_version(request)
        actor = await self._admission.signed(request)
        await self._files.terminate(actor, path_id(request, "file_id"))
        return web.Response(status=204)

    async def override(self, request: web.Request) -> web.Response:
        """A request of a client that can send only GET and POST: X-HTTP-Method-Override says what it is."""
        handlers: dict[str, Handler] = {"HEAD": self.look, "PATCH": self.append, "DELETE": self.terminate}
        handler = handlers.get(request.headers.get("X-HTTP-Method-Override", ""))
        if handler is None:
            raise web.HTTPMethodNotAllowed("POST", ("DELETE", "HEAD", "OPTIONS", "PATCH"))
        return await handler(request)

    def _body(self, request: web.Request) -> AsyncIterable[bytes]:
        return paced(request.content.iter_any(), self._settings) if request.body_exists else _nothing()


async def _nothing() -> AsyncIterator[bytes]:
    return
    yield b""


def _headers(progress: Progress) -> dict[str, str]:
    headers = {"Upload-Offset": str(progress.offset)}
    if progress.expires_at is not None:
        headers["Upload-Expires"] = format_datetime(progress.expires_at, usegmt=True)
    if progress.url is not None:
        headers["Parley-File"] = progress.url
    return headers


def _check_version(request: web.Request) -> None:
    request[EXTRA] = {"Tus-Resumable": VERSION}
    if request.headers.get("Tus-Resumable") != VERSION:
        request[EXTRA]["Tus-Version"] = VERSION
        raise ChatError("UPLOAD_VERSION_UNSUPPORTED")


def _check_type(request: web.Request) -> None:
    if request.content_type != BYTES_TYPE:
        raise ChatError("FILE_TYPE_NOT_ALLOWED", f"The body has to be {BYTES_TYPE}.")


def _check_room(request: web.Request, offset: int, length: int | None) -> None:
    """What is announced to be too much is refused before it comes."""
    if length is not None and request.content_length and offset + request.content_length > length:
        raise ChatError("FILE_TOO_LARGE", details={"limit": length})


def add_tus(app: web.Application, chat: Chat, admission: Admission, settings: RestSettings) -> None:
    """Puts the handlers into the application."""
    tus = Tus(chat, admission, settings)
    for mount in MOUNTS:
        for path in (f"{mount}/files/tus", f"{mount}/files/tus/"):
            app.router.add_route("OPTIONS", path, tus.options)
            app.router.add_post(path, tus.create)
        path = f"{mount}/files/tus/{{file_id}}"
        app.router.add_route("OPTIONS", path, tus.options)
        app.router.add_route("HEAD", path, tus.look)
        app.router.add_patch(path, tus.append)
        app.router.add_delete(path, tus.terminate)
        app.router.add_post(path, tus.override)
