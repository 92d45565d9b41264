"""Uploads whose parts clients send to S3 themselves. What comes so is not sealed: PARLEY_BLOBS_DIRECT says so."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from uuid_utils.compat import uuid4

from gateway.actions import files
from gateway.actor import Actor
from gateway.files.store import Upload
from gateway.services import Services
from protocol.commands import CreateUpload
from protocol.errors import ChatError
from storage import uploads
from storage.blobs import BlobMissing
from storage.files import Direct, Part, StoredFile, not_found

if TYPE_CHECKING:  # it brings botocore, which who has no bucket does without
    from storage.s3_multipart import Multipart, SentPart

URL_LIFE = 900
"""Seconds that a part's address is good for; S3 takes it whether its user is still signed in or not."""

MOST_URLS = 25
"""Addresses that are made for one request: each takes 2 ms of the event loop."""


async def begin(services: Services, actor: Actor, command: CreateUpload, part_size: int) -> Upload:
    """Begins an upload here and there. Raises what files.begin_upload raises."""
    multipart, blob_id = _multipart(services), uuid4()
    upload_id = await multipart.begin(blob_id)
    try:
        direct = Direct(blob_id, upload_id)
        return await files.begin_upload(services, actor, command, part_size=part_size, direct=direct)
    except BaseException:
        with suppress(ChatError):  # the collector does it later
            await multipart.abort(blob_id, upload_id)
        raise


async def urls(services: Services, file: StoredFile, sizes: dict[int, int]) -> list[str]:
    """Where parts are to be sent, each of which has so many bytes."""
    multipart, direct = _multipart(services), _direct(file)
    made = []
    for number, size in sizes.items():
        made.append(await multipart.url(direct.blob_id, direct.upload_id, number, size, URL_LIFE))
        await asyncio.sleep(0)  # others have their turn: nothing is waited for in there
    return made


async def sent(services: Services, upload: Upload) -> list[SentPart] | None:
    """The parts that S3 has; None when they are one blob already. Raises ChatError FILE_NOT_FOUND."""
    direct = _direct(upload.file)
    parts = await _multipart(services).parts(direct.blob_id, direct.upload_id)
    if parts is None and not upload.parts:
        raise not_found()
    return parts


async def join(services: Services, upload: Upload, parts: Sequence[SentPart]) -> None:
    """Makes one blob of the parts."""
    direct = _direct(upload.file)
    whole = Part(1, direct.blob_id, upload.file.size)
    # Named before it is there: S3 dates it by the upload's beginning, so that a sweep would take it as an old one.
    async with services.database.transaction() as conn:
        await uploads.put_part(conn, upload.file.id, whole)
    upload.parts = [whole]
    await _multipart(services).complete(direct.blob_id, direct.upload_id, parts)


async def check_there(services: Services, upload: Upload) -> None:
    """The blob is there. Raises ChatError FILE_UPLOAD_FAILED, and drops the upload, where it is not."""
    try:
        await services.files.blobs.read(_direct(upload.file).blob_id, upload.file.size - 1, 1, len)
    except BlobMissing:
        await services.files.drop(upload)
        raise ChatError("FILE_UPLOAD_FAILED", "S3 has the parts no more.") from None


def _direct(file: StoredFile) -> Direct:
    assert file.description.direct is not None
    return file.description.direct


def _multipart(services: Services) -> Multipart:
    """Raises ChatError FILE_NOT_FOUND for an upload that was begun before the setting was taken back."""
    if services.files.blobs.multipart is None:
        raise not_found()
    return services.files.blobs.multipart
