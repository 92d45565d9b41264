"""Uploads in parts that come in any order, each to an address of its own: rules first, then use-cases."""

from __future__ import annotations

import time
from collections.abc import AsyncIterable, Mapping, Sequence
from datetime import UTC, datetime
from uuid import UUID

from gateway.actions import bots, direct_uploads, files
from gateway.actions.downloads import holder
from gateway.actions.uploads import MOST_PARTS
from gateway.actor import Actor
from gateway.files.grants import PartGrant
from gateway.files.store import Upload
from gateway.services import Services
from protocol.commands import AbortUpload, CompleteUpload, CreateUpload, GetUpload
from protocol.errors import ChatError
from protocol.events import UploadStarted
from protocol.models import UploadedFile, UploadPart
from storage.files import StoredFile, not_found

PART_SIZE = 5 * 1024 * 1024
"""Bytes in each part but the last, where MOST_PARTS of them are enough; S3 takes no smaller ones."""

URL_LIFE = 3_600
"""Seconds that a part's address is good for."""

PAGE = 100
"""Addresses that the beginning of an upload tells, and parts that an error names."""

# --- rules -----------------------------------------------------------------------------------


def part_size_for(size: int) -> int:
    """Bytes in each part but the last, of a file of so many."""
    return max(PART_SIZE, -(-size // MOST_PARTS))


def part_count(file: StoredFile) -> int:
    """How many parts an upload has. They are numbered from 1."""
    assert file.part_size is not None
    return -(-file.size // file.part_size)


def size_of_part(file: StoredFile, number: int) -> int:
    """Bytes in a part. Raises ChatError FILE_NOT_FOUND where there is none of this number."""
    if file.part_size is None or not 0 < number <= part_count(file):
        raise not_found()
    return min(file.part_size, file.size - (number - 1) * file.part_size)


def check_announced(announced: int | None, size: int) -> None:
    """A part that says how long it is has the right length."""
    if announced is not None and announced != size:
        raise ChatError("FILE_UPLOAD_FAILED", f"This part has {size} bytes.", details={"size": size})


def check_parts(file: StoredFile, there: Mapping[int, int]) -> None:
    """Every part has come, and has its size."""
    missing = [number for number in range(1, part_count(file) + 1) if there.get(number) != size_of_part(file, number)]
    if missing:
        raise ChatError("FILE_UPLOAD_FAILED", "Parts are missing.", details={"missing": missing[:PAGE]})


# --- use-cases -------------------------------------------------------------------------------


async def create_upload(services: Services, actor: Actor, command: CreateUpload) -> UploadStarted:
    """Begins an upload, and says where its parts go."""
    if command.file_size is None:
        raise ChatError("VALIDATION_REQUIRED_FIELD", "file_size is missing.", details={"field": "file_size"})
    with services.metrics.files.refusals_of_uploads():
        part_size = part_size_for(command.file_size)
        if command.file_size and services.files.blobs.multipart is not None:
            upload = await direct_uploads.begin(services, actor, command, part_size)
        else:
            upload = await files.begin_upload(services, actor, command, part_size=part_size)
    return await _told(services, actor, upload, 0, PAGE)


async def get_upload(services: Services, actor: Actor, command: GetUpload) -> UploadStarted:
    """Which parts are there, and where they go, from now on."""
    upload = await _find(services, actor, command.file_id)
    if upload.file.status != "uploading":
        raise not_found()
    return await _told(services, actor, upload, command.after, command.limit)


async def complete_upload(services: Services, actor: Actor, command: CompleteUpload) -> UploadedFile:
    """Makes a file of the parts; once more is the same file. Parts that are missing or wrong may still be sent."""
    upload = await _find(services, actor, command.file_id)
    if upload.file.status != "uploading":
        return files.uploaded_file(upload.file)
    if upload.file.description.direct is None:
        check_parts(upload.file, _there(upload))
    else:
        await _join(services, upload)
    sha256 = None if command.sha256 is None else bytes.fromhex(command.sha256)
    with services.metrics.files.finishing():
        return await files.finish_upload(services, actor, upload, sha256=sha256)


async def _join(services: Services, upload: Upload) -> None:
    """Makes one blob of parts that are in S3, unless a request before this one has."""
    if (sent := await direct_uploads.sent(services, upload)) is not None:
        check_parts(upload.file, {part.number: part.size for part in sent})
        await direct_uploads.join(services, upload, sent)
    await direct_uploads.check_there(services, upload)


async def abort_upload(services: Services, actor: Actor, command: AbortUpload) -> None:
    """Drops an upload and its parts."""
    upload = await _find(services, actor, command.file_id)
    if upload.file.status != "uploading":
        raise not_found()
    await services.files.drop(upload)


async def _find(services: Services, actor: Actor, file_id: UUID) -> Upload:
    upload = await services.files.upload_of(actor.user.id, file_id)
    if upload.file.part_size is None:
        raise not_found()
    return upload


async def _told(services: Services, actor: Actor, upload: Upload, after: int, limit: int) -> UploadStarted:
    file = upload.file
    assert file.part_size is not None
    there = await _received(services, upload)
    count, life = part_count(file), URL_LIFE
    if file.description.direct is not None:
        limit, life = min(limit, direct_uploads.MOST_URLS), direct_uploads.URL_LIFE
    numbers = range(after + 1, min(after + limit, count) + 1)
    expires_at = int(time.time()) + life
    urls = await part_urls(services, actor, file, numbers, expires_at)
    return UploadStarted(
        fid=file.id,
        file_size=file.size,
        part_size=file.part_size,
        part_count=count,
        received=sum(there.values()),
        expires_at=datetime.fromtimestamp(expires_at, UTC),
        parts=tuple(
            UploadPart(number=number, size=size_of_part(file, number), url=url, received=number in there)
            for number, url in zip(numbers, urls, strict=True)
        ),
        has_more=numbers.stop <= count,
    )


async def _received(services: Services, upload: Upload) -> dict[int, int]:
    """The sizes of the parts that are there, by their numbers."""
    if upload.file.description.direct is None:
        return _there(upload)
    sent = await direct_uploads.sent(services, upload)
    if sent is None:
        return {number: size_of_part(upload.file, number) for number in range(1, part_count(upload.file) + 1)}
    return {part.number: part.size for part in sent}


def _there(upload: Upload) -> dict[int, int]:
    return {part.number: part.size for part in upload.parts}


# --- addresses of parts ----------------------------------------------------------------------


async def part_urls(
    services: Services, actor: Actor, file: StoredFile, numbers: Sequence[int], expires_at: int
) -> list[str]:
    """Where parts are to be sent: the one place that decides it."""
    if file.description.direct is not None:
        return await direct_uploads.urls(services, file, {number: size_of_part(file, number) for number in numbers})

    def url(number: int) -> str:
        grant = PartGrant(
            expires_at=expires_at,
            user_id=actor.user.id,
            sign_in_id=actor.sign_in_id,
            file_id=file.id,
            number=number,
        )
        return f"/files/uploads/{file.id}/parts/{number}?signature={services.part_grants.issue(grant)}"

    return [url(number) for number in numbers]


async def redeem(services: Services, file_id: UUID, number: int, signature: str) -> Actor:
    """Who sends a part to such an address. Raises ChatError FILE_NOT_FOUND, whatever is wrong with it."""
    grant = services.part_grants.check(signature)
    if grant is None or (grant.file_id, grant.number) != (file_id, number):
        raise not_found()
    return await holder(services, grant, "write")


async def put_part(
    services: Services, actor: Actor, file_id: UUID, number: int, announced: int | None, body: AsyncIterable[bytes]
) -> None:
    """Takes a part, in place of one that was sent before. One that breaks off leaves things as they were."""
    bots.check_scope(actor, CreateUpload(filename=""))
    upload = await _find(services, actor, file_id)
    size = size_of_part(upload.file, number)
    check_announced(announced, size)
    await services.files.put_part(upload.file, number, size, body)
