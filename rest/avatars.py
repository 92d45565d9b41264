"""Pictures of users and chatrooms: in as a form with one file, out to anyone who knows where they are."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import UUID

from aiohttp import BodyPartReader, web

from protocol.errors import ChatError
from rest.admission import Admission
from rest.answers import succeeded
from rest.forms import FIELDS, bad_form, multipart, next_part, pieces, text
from rest.pace import paced
from rest.routes import MOUNTS
from rest.settings import Chat, RestSettings

HEADERS = {
    # Another picture has another address.
    "Cache-Control": "public, max-age=31536000, immutable",
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "Cross-Origin-Resource-Policy": "cross-origin",
}


class Avatars:
    """Takes pictures and hands them out."""

    def __init__(self, chat: Chat, admission: Admission, settings: RestSettings) -> None:
        self._files = chat.files
        self._admission = admission
        self._settings = settings

    async def set_own(self, request: web.Request) -> web.Response:
        """Of the user who asks. Raises ChatError."""
        actor = await self._admission.uploader(request)
        return succeeded(await self._files.set_avatar(actor, paced(_file_of(request), self._settings)))

    async def set_chatrooms(self, request: web.Request) -> web.Response:
        """Of a chatroom. Raises ChatError."""
        actor = await self._admission.uploader(request)
        chatroom_id = _id(request, "chatroom_id", "CHATROOM_NOT_FOUND")
        body = paced(_file_of(request), self._settings)
        return succeeded(await self._files.set_chatroom_avatar(actor, chatroom_id, body))

    async def get(self, request: web.Request) -> web.Response:
        """One of them, without a token. Raises ChatError."""
        try:
            avatar = await self._files.avatar(_id(request, "file_id", "FILE_NOT_FOUND"))
        except ChatError:
            # Pages show many of them, so only guessing is counted.
            await self._admission.unsigned(request)
            raise
        headers = HEADERS | {"ETag": f'"{avatar.etag}"'}
        if any(tag.value in ("*", avatar.etag) for tag in request.if_none_match or ()):
            return web.Response(status=304, headers=headers)
        return web.Response(body=avatar.data, content_type=avatar.file_type, headers=headers)


async def _file_of(request: web.Request) -> AsyncIterator[bytes]:
    """The bytes of the form's file. Raises ChatError where it has none."""
    reader = await multipart(request)
    for _ in range(FIELDS + 1):
        part = await next_part(reader)
        if part is None:
            break
        if not isinstance(part, BodyPartReader):
            raise bad_form()
        if part.name == "file":
            async for piece in pieces(part):
                yield piece
            return
        await text(part)
    raise ChatError("VALIDATION_REQUIRED_FIELD", "The form has no file.", details={"field": "file"})


def _id(request: web.Request, name: str, code: str) -> UUID:
    try:
        return UUID(request.match_info[name])
    except ValueError:
        raise ChatError(code) from None


def add_avatars(app: web.Application, chat: Chat, admission: Admission, settings: RestSettings) -> None:
    """Puts the handlers into the application; HEAD comes with GET."""
    avatars = Avatars(chat, admission, settings)
    for mount in MOUNTS:
        app.router.add_post(f"{mount}/users/me/avatar", avatars.set_own)
        app.router.add_post(f"{mount}/chatrooms/{{chatroom_id}}/avatar", avatars.set_chatrooms)
        app.router.add_get(f"{mount}/avatars/{{file_id}}", avatars.get)
