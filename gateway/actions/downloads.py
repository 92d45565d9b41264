"""Having files: rules first, then use-cases."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from uuid import UUID

from gateway.actions import bots
from gateway.actions.files import uploaded_file
from gateway.actor import Actor
from gateway.files.grants import FileGrant
from gateway.files.reading import Reading
from gateway.services import Services
from protocol.commands import GetFile, GetFileUrls
from protocol.errors import ChatError
from protocol.events import FileUrlsSigned
from protocol.models import FileUrls, Scope, UploadedFile
from storage import files
from storage.files import StoredFile, Variant

# --- rules -----------------------------------------------------------------------------------


def check_status(file: StoredFile) -> None:
    """Only what was found harmless is handed out."""
    if file.status == "scanning":
        raise ChatError("FILE_NOT_READY", retry_after=1.0)
    if file.status == "rejected":
        raise ChatError("FILE_REJECTED")


# --- having ----------------------------------------------------------------------------------


async def get_file(services: Services, actor: Actor, command: GetFile) -> UploadedFile:
    """What is known of a file."""
    return uploaded_file(await services.files.seen(actor.user.id, command.file_id))


async def open_file(services: Services, actor: Actor, file_id: UUID, variant: Variant) -> tuple[StoredFile, Reading]:
    """A file's bytes. Raises ChatError FILE_NOT_FOUND, FILE_NOT_READY, FILE_REJECTED."""
    bots.check_scope(actor, GetFile(file_id=file_id))
    file = await services.files.seen(actor.user.id, file_id)
    check_status(file)
    return file, await services.files.open(file, variant)


# --- by an address alone ---------------------------------------------------------------------


async def get_file_urls(services: Services, actor: Actor, command: GetFileUrls) -> FileUrlsSigned:
    """Addresses that need no token, of those of the files that the actor may have."""
    expires_at = int(time.time()) + services.config.file_url_life
    seen = await services.files.all_seen(actor.user.id, command.file_ids)

    def signed(file: StoredFile) -> FileUrls:
        grant = FileGrant(expires_at=expires_at, user_id=actor.user.id, sign_in_id=actor.sign_in_id, file_id=file.id)
        return _urls(uploaded_file(file), f"?signature={services.file_grants.issue(grant)}")

    return FileUrlsSigned(files=tuple(map(signed, seen)), expires_at=datetime.fromtimestamp(expires_at, UTC))


def _urls(file: UploadedFile, signature: str) -> FileUrls:
    return FileUrls(
        id=file.id,
        url=file.encrypted_url + signature,
        thumbnail_url=file.thumbnail_url and file.thumbnail_url + signature,
        preview_url=file.preview_url and file.preview_url + signature,
    )


async def redeem(services: Services, file_id: UUID, signature: str) -> Actor:
    """Who reads a file by such an address; whether they still may is for `open_file` to ask.

    Raises ChatError FILE_NOT_FOUND, whatever is wrong with it.
    """
    grant = services.file_grants.check(signature)
    if grant is None or grant.file_id != file_id:
        raise files.not_found()
    return await holder(services, grant, "read")


async def holder(services: Services, grant: FileGrant, scope: Scope) -> Actor:
    """Who acts by a grant: its user, if they are still signed in, and with no more than this scope.

    Raises ChatError FILE_NOT_FOUND. Only who has the scope is given a grant, and a bot's sign-in has the same scopes
    all its life.
    """
    sign_in = await services.lookups.sign_ins.get((grant.sign_in_id, grant.user_id))
    if sign_in is None or sign_in.is_revoked or not sign_in.is_active:
        raise files.not_found()
    return Actor(sign_in.user, grant.sign_in_id, None, scopes=frozenset({scope}))
