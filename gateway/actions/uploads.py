"""Uploads that go on after a cut: rules first, then use-cases. How they come over HTTP (tus 1.0) is for rest."""

from __future__ import annotations

from collections.abc import AsyncIterable
from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from msgspec import structs

from gateway.actions import bots, files
from gateway.actor import Actor
from gateway.files.checksum import Algorithm, Checksum
from gateway.files.store import Upload
from gateway.services import Services
from protocol.commands import CreateUpload
from protocol.errors import ChatError
from storage import uploads
from storage.files import StoredFile, lock_usage, not_found

MOST_PARTS = 10_000
"""Parts of an upload, as S3 has it. Each request brings at least one."""


class Progress(NamedTuple):
    """How far an upload is. `length` is None while it is not known.

    `url` is that of the file that it has become, `expires_at` when it is gone if nothing more comes.
    """

    id: UUID
    offset: int
    length: int | None
    metadata: str
    expires_at: datetime | None
    url: str | None


class Announced(NamedTuple):
    """What is said of bytes before they come: where they belong, how long the upload is, and their checksum."""

    offset: int
    length: int | None = None
    checksum: tuple[Algorithm, bytes] | None = None


# --- rules -----------------------------------------------------------------------------------


def check_in_order(file: StoredFile) -> None:
    """It is an upload, or a file, whose bytes come one after the other."""
    if file.purpose != "file" or file.part_size is not None:
        raise not_found()


def check_offset(upload: Upload, offset: int) -> None:
    """Bytes go where the last ones ended."""
    if offset != upload.received:
        raise ChatError("UPLOAD_OFFSET_MISMATCH", details={"offset": upload.received})


def check_part_count(upload: Upload) -> None:
    """An upload may come in so many parts."""
    if upload.file.status == "uploading" and len(upload.parts) >= MOST_PARTS:
        message = "It came in too many pieces; begin again, with larger ones."
        raise ChatError("RESOURCE_LIMIT_EXCEEDED", message, details={"limit": MOST_PARTS})


def length_of(upload: Upload, announced: int | None) -> int | None:
    """How long it will be. What was said once stays."""
    known = upload.file.size if upload.file.size or upload.file.status != "uploading" else None
    if announced is None:
        return known
    if (known is not None and announced != known) or announced < upload.received:
        message = "The length is known, or more has come."
        raise ChatError("VALIDATION_INVALID_VALUE", message, details={"field": "Upload-Length"})
    return announced


# --- use-cases -------------------------------------------------------------------------------


async def start(
    services: Services,
    actor: Actor,
    command: CreateUpload,
    metadata: str,
    body: AsyncIterable[bytes],
    checksum: tuple[Algorithm, bytes] | None,
) -> Progress:
    """Begins an upload, with its first bytes. Its client does not know it yet: nothing is left after an error."""
    with services.metrics.files.refusals_of_uploads():
        upload = await files.begin_upload(services, actor, command, metadata=metadata)
    try:
        await _receive(services, upload, body, Announced(0, command.file_size, checksum))
        return await _settle(services, actor, upload, command.file_size)
    except BaseException:
        await services.files.drop(upload)
        raise


async def look(services: Services, actor: Actor, file_id: UUID) -> Progress:
    """How far an upload is. One that is whole is a file when this returns.

    Whoever asks has lost their line, and perhaps we have not noticed: what it brought counts.
    """
    upload = await _find(services, actor, file_id)
    if await services.files.arrivals.end_silent(file_id):
        upload = await _find(services, actor, file_id)
    return await _settle(services, actor, upload, length_of(upload, None))


async def append(
    services: Services, actor: Actor, file_id: UUID, announced: Announced, body: AsyncIterable[bytes]
) -> Progress:
    """Takes bytes; with the last one, the upload becomes a file. What came before a cut is kept.

    Raises ChatError UPLOAD_OFFSET_MISMATCH, UPLOAD_CHECKSUM_MISMATCH, FILE_TOO_LARGE and others.
    """
    upload = await _find(services, actor, file_id)
    check_offset(upload, announced.offset)
    check_part_count(upload)
    length = length_of(upload, announced.length)
    if length and upload.file.size != length:
        upload.file = await _set_length(services, actor, upload.file, length)
    await _receive(services, upload, body, announced._replace(length=length))
    if upload.received > announced.offset:
        upload.file = structs.replace(upload.file, updated_at=datetime.now(UTC))
    return await _settle(services, actor, upload, length)


async def terminate(services: Services, actor: Actor, file_id: UUID) -> None:
    """Drops an upload, or a file that it has become and that stands in no message."""
    upload = await _find(services, actor, file_id)
    await services.files.abandon([upload.file.id])
    try:
        await _find(services, actor, file_id)
    except ChatError:
        return
    raise ChatError("RESOURCE_ACCESS_DENIED", "The file stands in a message.")


async def _find(services: Services, actor: Actor, file_id: UUID) -> Upload:
    bots.check_scope(actor, CreateUpload(filename=""))
    upload = await services.files.upload_of(actor.user.id, file_id)
    check_in_order(upload.file)
    return upload


async def _set_length(services: Services, actor: Actor, file: StoredFile, length: int) -> StoredFile:
    files.check_size(length, files.most_bytes(services.config))
    async with services.database.transaction() as conn:
        files.check_quota(services.config, await lock_usage(conn, actor.user.id, file.chatroom_id, file.id), length)
        if not await uploads.set_size(conn, file.id, length):
            raise ChatError("UPLOAD_OFFSET_MISMATCH")
    return structs.replace(file, size=length)


async def _receive(services: Services, upload: Upload, body: AsyncIterable[bytes], announced: Announced) -> None:
    most = files.most_bytes(services.config) if announced.length is None else announced.length
    checksum = None if announced.checksum is None else Checksum(*announced.checksum)
    with services.files.arrivals.arriving(upload.file.id, body) as arriving:
        await services.files.receive(upload, arriving, most, resumable=True, checksum=checksum)


async def _settle(services: Services, actor: Actor, upload: Upload, length: int | None) -> Progress:
    file, url = upload.file, None
    if file.status != "uploading":
        url = files.uploaded_file(file).encrypted_url
    elif upload.received == length:
        with services.metrics.files.finishing():
            url = (await files.finish_upload(services, actor, upload)).encrypted_url
    left = timedelta(seconds=services.config.unused_files)
    expires_at = min(file.updated_at + left, file.expires_at or datetime.max.replace(tzinfo=UTC))
    return Progress(
        id=file.id,
        offset=upload.received,
        length=length,
        metadata=file.description.metadata,
        expires_at=expires_at if url is None else None,
        url=url,
    )
