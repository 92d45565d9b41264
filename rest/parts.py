"""Parts of files on their way in, each to a signed address of its own."""

from __future__ import annotations

from aiohttp import web

from protocol.errors import ChatError
from rest.admission import Admission
from rest.pace import paced
from rest.requests import path_id
from rest.routes import MOUNTS
from rest.settings import Chat, RestSettings


class Parts:
    """Takes parts."""

    def __init__(self, chat: Chat, admission: Admission, settings: RestSettings) -> None:
        self._files = chat.files
        self._admission = admission
        self._settings = settings

    async def put(self, request: web.Request) -> web.Response:
        """One part; the address alone says whose. Raises ChatError."""
        number = _number(request)
        actor = await self._admission.part_sender(request, number)
        body = paced(request.content.iter_any(), self._settings)
        await self._files.put_part(actor, path_id(request, "file_id"), number, request.content_length, body)
        return web.Response(status=204)


def _number(request: web.Request) -> int:
    try:
        return int(request.match_info["number"])
    except ValueError:  # more digits than Python reads
        raise ChatError("FILE_NOT_FOUND") from None


def add_parts(app: web.Application, chat: Chat, admission: Admission, settings: RestSettings) -> None:
    """Puts the handler into the application."""
    parts = Parts(chat, admission, settings)
    for mount in MOUNTS:
        app.router.add_put(f"{mount}/files/uploads/{{file_id}}/parts/{{number:[0-9]+}}", parts.put)
