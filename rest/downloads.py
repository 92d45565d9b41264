"""Files on their way out: whole or in ranges, to those who may have them, and for as long as they may."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from aiohttp import web

from protocol.errors import ChatError
from rest import conditions, ranges
from rest.admission import Admission
from rest.answers import refused
from rest.conditions import Version
from rest.disposition import content_disposition
from rest.pace import Pace
from rest.ranges import Body
from rest.requests import path_id
from rest.routes import MOUNTS
from rest.settings import Chat, File, RestSettings, Variant

logger = logging.getLogger("parley.rest")

PATHS: tuple[tuple[str, Variant], ...] = (
    ("/files/{file_id}", "whole"),
    ("/f/fserv/download/{file_id}", "whole"),
    ("/files/{file_id}/thumbnail", "small"),
    ("/files/{file_id}/preview", "large"),
)

ASKED_EVERY = 1.0
"""Seconds after which it is asked again whether a download may go on."""

CONDITIONS = ("If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since", "If-Range", "Range")

HEADERS = {
    # Kept by browsers, and never shown again without asking us.
    "Cache-Control": "private, no-cache",
    "Accept-Ranges": "bytes",
    # Whatever is in a file, nothing of it runs, and nothing is loaded for it.
    "Content-Security-Policy": "default-src 'none'; sandbox",
}


class Downloads:
    """Hands out files."""

    def __init__(self, chat: Chat, admission: Admission, settings: RestSettings, variant: Variant) -> None:
        self._files = chat.files
        self._admission = admission
        self._settings = settings
        self._variant = variant

    async def download(self, request: web.Request) -> web.StreamResponse:
        """One file, or a picture of it, or of either what is asked for. Raises ChatError."""
        actor = await self._admission.reader(request)
        file = await self._files.open(actor, path_id(request, "file_id"), self._variant)
        version = Version.of(file.etag, file.created_at)
        asked = {name: ", ".join(request.headers.getall(name)) for name in CONDITIONS if name in request.headers}
        headers = self._headers(request, file, version)
        verdict = conditions.weigh(asked, version)
        if verdict == "failed":
            raise ChatError("PRECONDITION_FAILED")
        if verdict == "not modified":
            return web.Response(status=304, headers=headers)
        # Ranges are for GET alone (RFC 9110, 14.2).
        wanted = request.method == "GET" and conditions.range_holds(asked, version)
        spans = ranges.requested(asked.get("Range"), file.size) if wanted else None
        if spans == []:
            return _unsatisfiable(file.size)
        return await self._answer(request, file, headers, _body(file, spans))

    def _headers(self, request: web.Request, file: File, version: Version) -> dict[str, str]:
        # A page's picture does not say whose page it is. Those that may come in are trusted with the addresses.
        embedded = bool(self._settings.origins) and "signature" in request.query
        return HEADERS | {
            "ETag": version.tag,
            "Last-Modified": version.last_modified,
            "Content-Disposition": content_disposition(file.name, file.file_type),
            "Cross-Origin-Resource-Policy": "cross-origin" if embedded else "same-origin",
        }

    async def _answer(
        self, request: web.Request, file: File, headers: dict[str, str], body: Body
    ) -> web.StreamResponse:
        response = web.StreamResponse(status=body.status, headers=headers | body.headers)
        response.content_length = body.length
        async with aclosing(_bytes(file, body)) as pieces:
            # Opened before anything is said of it: what is damaged here has a clean answer.
            first = await anext(pieces, b"")
            if request.method == "HEAD" or not first:
                return response
            await self._stream(request, response, file, first, pieces)
        return response

    async def _stream(
        self,
        request: web.Request,
        response: web.StreamResponse,
        file: File,
        piece: bytes,
        pieces: AsyncIterator[bytes],
    ) -> None:
        """Sends what there is, or breaks the connection off: nothing that is cut looks complete."""
        pace = Pace(self._settings.slowest_transfer, self._settings.body_deadline)
        guard = asyncio.create_task(_guard(request, file))
        try:
            await response.prepare(request)
            while piece:
                pace.moved(len(piece))
                await pace.wait(response.write(piece))
                piece = await anext(pieces, b"")
        except (ChatError, TimeoutError, ConnectionError):
            _cut(request)
        except BaseException:
            _cut(request)
            raise
        finally:
            guard.cancel()


async def _guard(request: web.Request, file: File) -> None:
    """Cuts the connection once its user may have the file no more. What cannot be asked is a no."""
    allowed = True
    try:
        while allowed:
            await asyncio.sleep(ASKED_EVERY)
            allowed = await file.is_still_allowed()
    except ChatError as error:
        logger.warning("a download was cut", extra={"reason": error.code})
    _cut(request)


def _cut(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()


def _body(file: File, spans: list[ranges.Span] | None) -> Body:
    if spans is None:
        return ranges.whole(file.file_type, file.size)
    return ranges.partial(spans, file.file_type, file.size, secrets.token_hex(16))


async def _bytes(file: File, body: Body) -> AsyncGenerator[bytes]:
    for before, (start, length) in body.sections:
        async with aclosing(file.read(start, length)) as pieces:
            async for piece in pieces:
                yield before + piece if before else piece
                before = b""
    if body.end:
        yield body.end


def _unsatisfiable(size: int) -> web.Response:
    response = refused(ChatError("RANGE_NOT_SATISFIABLE", details={"size": size}))
    response.headers["Content-Range"] = ranges.content_range(None, size)
    return response


def add_downloads(app: web.Application, chat: Chat, admission: Admission, settings: RestSettings) -> None:
    """Puts the handlers into the application; HEAD comes with GET."""
    for path, variant in PATHS:
        downloads = Downloads(chat, admission, settings, variant)
        for mount in MOUNTS:
            app.router.add_get(mount + path, downloads.download)
