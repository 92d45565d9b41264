"""Files on their way in, in one request: a form as the reference API has it, or the bare bytes."""

from __future__ import annotations

from collections.abc import AsyncIterable
from typing import Any
from uuid import UUID

from aiohttp import BodyPartReader, web
from aiohttp.multipart import content_disposition_filename, parse_content_disposition
from msgspec import Struct

from protocol.commands import CreateUpload
from protocol.errors import ChatError
from protocol.models import UploadedFile
from rest.admission import Admission
from rest.answers import succeeded
from rest.forms import FIELDS, bad_form, multipart, next_part, pieces, text
from rest.pace import paced
from rest.requests import convert
from rest.routes import MOUNTS
from rest.settings import Actor, Chat, RestSettings


class FileUploaded(Struct, frozen=True, kw_only=True):
    """A file that has arrived. `fid` is its id."""

    fid: UUID
    file: UploadedFile


class Uploads:
    """Takes files."""

    def __init__(self, chat: Chat, admission: Admission, settings: RestSettings) -> None:
        self._files = chat.files
        self._admission = admission
        self._settings = settings

    async def upload(self, request: web.Request) -> web.Response:
        """One file. Raises ChatError."""
        actor = await self._admission.uploader(request)
        if request.content_type == "multipart/form-data":
            file = await self._take_form(actor, request)
        elif request.content_type == "application/octet-stream":
            file = await self._take_bytes(actor, request)
        else:
            raise ChatError("VALIDATION_INVALID_FORMAT", "Send multipart/form-data or application/octet-stream.")
        return succeeded(FileUploaded(fid=file.id, file=file), status=201)

    async def _take_bytes(self, actor: Actor, request: web.Request) -> UploadedFile:
        _, parameters = parse_content_disposition(request.headers.get("Content-Disposition"))
        values = {"filename": content_disposition_filename(parameters), **request.query}
        command = convert(
            {k: v for k, v in values.items() if v is not None} | _size(request), CreateUpload, strict=False
        )
        upload = await self._receive(actor, command, request.content.iter_any())
        return await self._files.finish(actor, upload)

    async def _take_form(self, actor: Actor, request: web.Request) -> UploadedFile:
        """`chatroom_id` may stand before the file or behind it. Nothing is left of a form that goes wrong behind it."""
        reader = await multipart(request)
        upload = None
        fields: dict[str, str] = {}
        try:
            for _ in range(FIELDS + 1):
                part = await next_part(reader)
                if part is None:
                    break
                if not isinstance(part, BodyPartReader):
                    raise bad_form()
                if part.name == "file" and upload is None:
                    command = convert({"filename": part.filename or "", **fields}, CreateUpload, strict=False)
                    upload = await self._receive(actor, command, pieces(part))
                else:
                    _check_in_time(part.name, behind=upload is not None)
                    fields[part.name or ""] = await text(part)
            chatroom_id = convert(fields | {"filename": "-"}, CreateUpload, strict=False).chatroom_id
        except BaseException:
            if upload is not None:
                await self._files.drop(upload)
            raise
        if upload is None:
            raise ChatError("VALIDATION_REQUIRED_FIELD", "The form has no file.", details={"field": "file"})
        return await self._files.finish(actor, upload, chatroom_id=chatroom_id)

    async def _receive(self, actor: Actor, command: CreateUpload, body: AsyncIterable[bytes]) -> Any:
        upload = await self._files.begin(actor, command)
        await self._files.receive(upload, paced(body, self._settings))
        return upload


def _check_in_time(field: str | None, *, behind: bool) -> None:
    """What decides how a file is kept has to be known before its bytes come."""
    if behind and field in ("encrypted", "expires_in"):
        raise ChatError("VALIDATION_INVALID_VALUE", f"{field} has to stand before the file.", details={"field": field})


def _size(request: web.Request) -> dict[str, int]:
    return {} if request.content_length is None else {"file_size": request.content_length}


def add_uploads(app: web.Application, chat: Chat, admission: Admission, settings: RestSettings) -> None:
    """Puts the handlers into the application."""
    uploads = Uploads(chat, admission, settings)
    for mount in MOUNTS:
        app.router.add_post(f"{mount}/upload/file", uploads.upload)
