"""Smaller pictures of pictures, made while an upload is finished, and kept with it."""

from __future__ import annotations

from contextlib import aclosing

from msgspec import structs

from gateway.files.pictures import Previews, is_picture
from gateway.files.store import Upload
from gateway.services import Services
from protocol.errors import ChatError
from storage import files
from storage.database import Connection
from storage.files import Description, Part, Variant
from storage.files_clearing import Cleared

REASONS = ("IMAGE_TOO_LARGE", "IMAGE_INVALID", "FILE_TYPE_NOT_ALLOWED", "SERVICE_UNAVAILABLE")
"""Why there may be none. The file is what it is without them."""

Kept = list[tuple[Variant, Part]]


async def add_previews(services: Services, upload: Upload, description: Description) -> tuple[Description, Kept]:
    """Of a picture: what is known of it besides, and its previews, which no row names yet."""
    if description.encrypted or not is_picture(description.file_type):
        return description, []
    try:
        made = await _make(services, upload, description.file_type)
    except ChatError as error:
        if error.code not in REASONS:
            raise
        services.metrics.files.pictured(error.code)
        return structs.replace(description, refused=error.code), []
    services.metrics.files.pictured("ok")
    keep = services.files.keep_picture
    kept: Kept = [
        ("small", await keep(upload.file, "small", made.small)),
        ("large", await keep(upload.file, "large", made.large)),
    ]
    known = structs.replace(
        description,
        width=made.width,
        height=made.height,
        blurhash=made.blurhash,
        small=len(made.small),
        large=len(made.large),
    )
    return known, kept


async def _make(services: Services, upload: Upload, file_type: str) -> Previews:
    async with aclosing(services.files.received(upload).read(0, upload.received)) as body:
        return await services.pictures.previews(body, file_type)


async def name_previews(conn: Connection, upload: Upload, kept: Kept) -> None:
    """Says where they are, in the transaction that makes the upload a file."""
    for variant, part in kept:
        await files.add_parts(conn, upload.file.id, variant, [part])


async def drop_previews(services: Services, kept: Kept) -> None:
    """They are not wanted any more."""
    await services.files.forget(Cleared([], [part.blob_id for _, part in kept]))
