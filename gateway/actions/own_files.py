"""What a user sees of their own files, and taking one away."""

from __future__ import annotations

from math import ceil

from gateway.actions.files import uploaded_file
from gateway.actor import Actor
from gateway.services import Services
from protocol.commands import DeleteFile, ListFiles
from protocol.events import FilesListed
from protocol.models import Pagination


async def list_files(services: Services, actor: Actor, command: ListFiles) -> FilesListed:
    """A page of them, and how much room they take."""
    skip = (command.page - 1) * command.limit
    found, total, used = await services.files.of_uploader(actor.user.id, command.limit, skip)
    pages = ceil(total / command.limit)
    return FilesListed(
        files=tuple(map(uploaded_file, found)),
        used=used,
        quota=services.config.limit_user_files,
        pagination=Pagination(
            page=command.page, limit=command.limit, total=total, pages=pages, has_more=command.page < pages
        ),
    )


async def delete_file(services: Services, actor: Actor, command: DeleteFile) -> None:
    """Messages go on to list it; from now on it is FILE_NOT_FOUND for everyone."""
    await services.files.delete(actor.user.id, command.file_id)
    services.metrics.files.removed("uploader", 1)
