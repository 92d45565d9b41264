"""Files on their way out."""

from __future__ import annotations

from uuid import UUID

from aiohttp import web

from protocol.errors import ChatError
from rest.admission import Admission
from rest.pace import Pace
from rest.routes import MOUNTS
from rest.settings import Chat, File, RestSettings, Variant

PATHS: tuple[tuple[str, Variant], ...] = (
    ("/files/{file_id}", "whole"),
    ("/f/fserv/download/{file_id}", "whole"),
    ("/files/{file_id}/thumbnail", "small"),
    ("/files/{file_id}/preview", "large"),
)


class Downloads:
    """Hands out files."""

    def __init__(self, chat: Chat, admission: Admission, settings: RestSettings, variant: Variant) -> None:
        self._files = chat.files
        self._admission = admission
        self._slowest = settings.slowest_transfer
        self._variant = variant

    async def download(self, request: web.Request) -> web.StreamResponse:
        """One file, or a picture of it. Raises ChatError."""
        actor = await self._admission.signed(request)
        file = await self._files.open(actor, _file_id(request), self._variant)
        response = web.StreamResponse(headers={"Content-Type": file.file_type, "ETag": f'"{file.etag}"'})
        response.content_length = file.size
        await response.prepare(request)
        await self._send(response, file)
        return response

    async def _send(self, response: web.StreamResponse, file: File) -> None:
        pace = Pace(self._slowest)
        async for piece in file.read(0, file.size):
            await pace.wait(response.write(piece))
            pace.moved(len(piece))


def _file_id(request: web.Request) -> UUID:
    try:
        return UUID(request.match_info["file_id"])
    except ValueError:
        raise ChatError("FILE_NOT_FOUND") from None


def add_downloads(app: web.Application, chat: Chat, admission: Admission, settings: RestSettings) -> None:
    """Puts the handlers into the application; HEAD comes with GET."""
    for path, variant in PATHS:
        downloads = Downloads(chat, admission, settings, variant)
        for mount in MOUNTS:
            app.router.add_get(mount + path, downloads.download)
