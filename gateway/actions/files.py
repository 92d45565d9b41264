"""Uploading files and sending them: rules first, then use-cases. Having them is in gateway.actions.downloads."""

from __future__ import annotations

import hmac
import logging
import re
import unicodedata
from collections.abc import AsyncIterable
from datetime import UTC, datetime, timedelta
from functools import partial
from uuid import UUID

from msgspec import structs
from uuid_utils.compat import uuid4

from crypto.sealing import SealBroken, new_key
from gateway.actions import bots
from gateway.actions.previews import add_previews, drop_previews, name_previews
from gateway.actor import Actor
from gateway.config import Config
from gateway.files.store import Upload
from gateway.files.types import HEAD, kind_of
from gateway.services import Services
from protocol.commands import CreateUpload
from protocol.errors import ChatError
from protocol.models import Attachment, FileReference, UploadedFile
from storage import files, rooms
from storage.blobs import BlobMissing
from storage.database import Connection
from storage.files import Description, Direct, Status, StoredFile, Usage

log = logging.getLogger(__name__)

NAME_BYTES = 255
"""Bytes of UTF-8 in a file's name: what file systems take."""

_UNSEEN = re.compile("[\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff]")
"""Characters that are drawn as nothing, or turn the others around: `exe.gpj` could be shown as `jpg.exe`.

The joiners U+200C and U+200D are not among them: Persian words and emoji are written with them.
"""

# --- rules -----------------------------------------------------------------------------------


def clean_name(name: str) -> str:
    """The last step of a path, as browsers send some (RFC 7578, 4.2). Raises ChatError for what no name has."""
    last = unicodedata.normalize("NFC", re.split(r"[/\\]", name)[-1]).strip()
    if any(unicodedata.category(char) in ("Cc", "Cs") for char in name) or _UNSEEN.search(name):
        message = "A file's name has no control characters, and none that cannot be seen."
        raise ChatError("VALIDATION_INVALID_VALUE", message, details={"field": "filename"})
    if last in ("", ".", ".."):
        raise ChatError("VALIDATION_INVALID_VALUE", "A file needs a name.", details={"field": "filename"})
    if len(last.encode()) > NAME_BYTES:
        details = {"field": "filename", "limit": NAME_BYTES}
        raise ChatError("VALIDATION_LENGTH_EXCEEDED", f"A name may have {NAME_BYTES} bytes.", details=details)
    return last


def most_bytes(config: Config) -> int:
    """How large a file may be before its type is known."""
    return max(config.limit_file, config.limit_image, config.limit_media)


def check_size(size: int, limit: int) -> None:
    """A file may have so many bytes."""
    if size > limit:
        raise ChatError("FILE_TOO_LARGE", details={"limit": limit})


def check_size_of_type(config: Config, size: int, file_type: str) -> None:
    """Pictures, sounds and films, and everything else have limits of their own."""
    check_size(size, getattr(config, f"limit_{kind_of(file_type)}"))


def check_complete(upload: Upload) -> None:
    """What was announced is what is there."""
    if upload.file.size and upload.received != upload.file.size:
        details = {"announced": upload.file.size, "received": upload.received}
        raise ChatError("FILE_UPLOAD_FAILED", "The file is shorter than announced.", details=details)


def check_digest(announced: bytes | None, digest: bytes) -> None:
    """A client that says which SHA-256 its file has gets what it said."""
    if announced is not None and not hmac.compare_digest(announced, digest):
        raise ChatError("FILE_UPLOAD_FAILED", "The file has another SHA-256 than announced.")


def is_refused_for_good(file: StoredFile, error: ChatError) -> bool:
    """Whether an upload cannot become a file any more. Parts that are missing or wrong can still be sent, but to S3."""
    if file.part_size is not None and file.description.direct is None and error.code == "FILE_UPLOAD_FAILED":
        return False
    return not error.kind.retryable and error.code not in ("FILE_NOT_FOUND", "UPLOAD_OFFSET_MISMATCH")


def check_quota(config: Config, used: Usage, size: int) -> None:
    """All files of a user, and all of a chatroom, have so much room together."""
    for whose, taken, limit in (
        ("user", used.user, config.limit_user_files),
        ("chatroom", used.chatroom, config.limit_chatroom_files),
    ):
        if taken + size > limit:
            raise ChatError("FILE_QUOTA_EXCEEDED", details={"whose": whose, "used": taken, "limit": limit})


# --- uploading -------------------------------------------------------------------------------


async def begin_upload(
    services: Services,
    actor: Actor,
    command: CreateUpload,
    *,
    metadata: str = "",
    part_size: int | None = None,
    direct: Direct | None = None,
) -> Upload:
    """Makes room for a file. Raises ChatError FILE_TOO_LARGE, FILE_QUOTA_EXCEEDED, CHATROOM_NOT_FOUND and others."""
    bots.check_scope(actor, command)
    config = services.config
    size = command.file_size or 0
    check_size(size, most_bytes(config))
    life = command.expires_in
    file = StoredFile(
        id=uuid4(),
        uploader_id=actor.user.id,
        chatroom_id=command.chatroom_id,
        purpose="file",
        status="uploading",
        size=size,
        received=0,
        key=new_key(),
        part_size=part_size,
        description=Description(
            name=clean_name(command.filename), encrypted=command.encrypted, metadata=metadata, direct=direct
        ),
        created_at=datetime.now(UTC),
        updated_at=datetime.now(UTC),
        expires_at=datetime.now(UTC) + timedelta(seconds=life) if life else None,
    )
    async with services.database.transaction() as conn:
        await _check_room(conn, actor, file.chatroom_id)
        check_quota(config, await files.lock_usage(conn, actor.user.id, file.chatroom_id, file.id), size)
        return await services.files.begin(conn, file)


async def _check_room(conn: Connection, actor: Actor, chatroom_id: UUID | None) -> None:
    if chatroom_id is not None and await rooms.role_of(conn, chatroom_id, actor.user.id) is None:
        raise ChatError("CHATROOM_NOT_FOUND")


async def receive(services: Services, upload: Upload, body: AsyncIterable[bytes], *, resumable: bool) -> None:
    """Takes bytes. Raises ChatError FILE_TOO_LARGE, and what `body` raises."""
    await services.files.receive(upload, body, upload.file.size or most_bytes(services.config), resumable=resumable)


async def finish_upload(
    services: Services, actor: Actor, upload: Upload, *, chatroom_id: UUID | None = None, sha256: bytes | None = None
) -> UploadedFile:
    """Makes a file of what was received; once more is the same file. What is refused for good is dropped.

    Raises ChatError FILE_UPLOAD_FAILED, FILE_TOO_LARGE, FILE_QUOTA_EXCEEDED, CHATROOM_NOT_FOUND, FILE_DAMAGED.
    """
    if upload.file.status != "uploading":
        return uploaded_file(upload.file)
    try:
        return await _finish(services, actor, upload, chatroom_id or upload.file.chatroom_id, sha256)
    except ChatError as error:
        if is_refused_for_good(upload.file, error):
            await services.files.drop(upload)
        raise
    except (SealBroken, BlobMissing) as error:
        services.metrics.files.damaged()
        log.error("an upload is damaged", extra={"file_id": str(upload.file.id), "reason": str(error)})
        raise ChatError("FILE_DAMAGED") from error


async def _finish(
    services: Services, actor: Actor, upload: Upload, chatroom_id: UUID | None, sha256: bytes | None
) -> UploadedFile:
    check_complete(upload)
    digest = await services.files.digest(upload)
    check_digest(sha256, digest)
    description = structs.replace(
        upload.file.description, sha256=digest, parts=tuple(part.size for part in upload.parts)
    )
    if not description.encrypted:
        head = await services.files.head(upload, HEAD)
        file_type = await services.files.blobs.run(partial(services.types.of, head))
        check_size_of_type(services.config, upload.received, file_type)
        description = structs.replace(description, file_type=file_type)
    description, kept = await add_previews(services, upload, description)
    status: Status = "scanning" if services.scanner else "ready"
    file = structs.replace(
        upload.file, status=status, size=upload.received, chatroom_id=chatroom_id, description=description
    )
    try:
        async with services.database.transaction() as conn:
            await _check_room(conn, actor, chatroom_id)
            check_quota(services.config, await files.lock_usage(conn, actor.user.id, chatroom_id, file.id), file.size)
            done = await files.lock_parts(conn, file.id, upload.parts) and await files.finish(conn, file)
            if done:
                await name_previews(conn, upload, kept)
    except ChatError as error:
        # After a commit whose answer was lost, a row may name them.
        if not error.kind.retryable:
            await drop_previews(services, kept)
        raise
    if done:
        if services.scanner:
            services.scanner.soon()
        return uploaded_file(file)
    await drop_previews(services, kept)
    return uploaded_file(await _finished_meanwhile(services, actor, file.id))


async def _finished_meanwhile(services: Services, actor: Actor, file_id: UUID) -> StoredFile:
    """The file that another request has made of an upload. Raises ChatError where it goes on instead, or is gone."""
    upload = await services.files.upload_of(actor.user.id, file_id)
    if upload.file.status == "uploading":
        raise ChatError("UPLOAD_OFFSET_MISMATCH")
    return upload.file


# --- as clients see them ---------------------------------------------------------------------


def attachment(file: StoredFile, reference: FileReference) -> Attachment:
    """A file as it stands in a message."""
    shown = uploaded_file(file)
    fields = {name: getattr(shown, name) for name in Attachment.__struct_fields__}
    return Attachment(**fields | {"encrypted": reference.encrypted})


def uploaded_file(file: StoredFile) -> UploadedFile:
    """A file as its uploader sees it."""
    known = file.description
    url = f"/files/{file.id}"
    assert file.status != "uploading"
    return UploadedFile(
        id=file.id,
        filename=known.name,
        file_type=known.file_type,
        file_size=file.size,
        encrypted_url=url,
        thumbnail_url=None if known.small is None else f"{url}/thumbnail",
        preview_url=None if known.large is None else f"{url}/preview",
        width=known.width,
        height=known.height,
        blurhash=known.blurhash,
        preview_refused=known.refused,
        status=file.status,
        sha256=known.sha256.hex(),
        upload_date=file.created_at,
        expires_at=file.expires_at,
    )
