"""The way in and out for the bytes of files, which are too many for a command and its answer."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator
from contextlib import aclosing
from datetime import datetime
from pathlib import PurePosixPath
from typing import NamedTuple
from uuid import UUID

from crypto.sealing import SealBroken
from gateway.actions import avatars, downloads, files, part_uploads, uploads
from gateway.actions.uploads import Announced, Progress
from gateway.actor import Actor
from gateway.files.checksum import Algorithm
from gateway.files.pictures import PICTURE_TYPE
from gateway.files.reading import Reading
from gateway.files.store import Upload
from gateway.services import Services
from protocol.commands import CreateUpload
from protocol.errors import ChatError
from protocol.events import ChatroomChanged
from protocol.models import Account, UploadedFile
from storage.blobs import BlobMissing
from storage.files import StoredFile, Variant

log = logging.getLogger(__name__)


class OpenFile:
    """A file, or a picture of it, that somebody may have."""

    def __init__(self, services: Services, actor: Actor, file: StoredFile, reading: Reading, variant: Variant) -> None:
        self._services = services
        self._actor = actor
        self._file = file
        self._reading = reading
        self._variant = variant

    @property
    def name(self) -> str:
        """What its uploader calls it; a picture of it has the ending of its own type."""
        name = self._file.description.name
        return name if self._variant == "whole" else f"{PurePosixPath(name).stem}.webp"

    @property
    def file_type(self) -> str:
        """Its media type, as its bytes say."""
        return self._file.description.file_type if self._variant == "whole" else PICTURE_TYPE

    @property
    def size(self) -> int:
        """Bytes."""
        return self._reading.size

    @property
    def etag(self) -> str:
        """Its own SHA-256, and which picture of it."""
        digest = self._file.description.sha256.hex()
        return digest if self._variant == "whole" else f"{digest}-{self._variant}"

    @property
    def created_at(self) -> datetime:
        """When it was uploaded."""
        return self._file.created_at

    async def read(self, start: int, length: int) -> AsyncGenerator[bytes]:
        """So many of its bytes. Raises ChatError FILE_DAMAGED, rather than give wrong ones."""
        try:
            async with aclosing(self._reading.read(start, length)) as pieces:
                async for piece in pieces:
                    yield piece
                    self._services.metrics.files.sent(len(piece))
        except (SealBroken, BlobMissing) as error:
            self._services.metrics.files.damaged()
            log.error("a file is damaged", extra={"file_id": str(self._file.id), "reason": str(error)})
            raise ChatError("FILE_DAMAGED") from error

    async def is_still_allowed(self) -> bool:
        """Whether whoever asked for it may still have it."""
        actor = self._actor
        return await self._services.files.is_seen(actor.user.id, actor.sign_in_id, self._file.id)


class Avatar(NamedTuple):
    """A picture of a user or a chatroom, as WEBP. `etag` is its SHA-256."""

    data: bytes
    file_type: str
    etag: str


class FileDoor:
    """Uploads and downloads."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._metrics = services.metrics.files

    @property
    def largest(self) -> int:
        """Bytes in the largest file that is taken, whatever its type."""
        return files.most_bytes(self._services.config)

    async def begin(self, actor: Actor, command: CreateUpload) -> Upload:
        """Begins an upload. Raises ChatError."""
        with self._metrics.refusals_of_uploads():
            return await files.begin_upload(self._services, actor, command)

    async def receive(self, upload: Upload, body: AsyncIterable[bytes]) -> None:
        """Takes the bytes of an upload that comes in one go; nothing is left of one that breaks. Raises ChatError."""
        try:
            with self._metrics.refusals_of_uploads():
                await files.receive(self._services, upload, self._counted(body), resumable=False)
        except BaseException:
            await self._services.files.abandon([upload.file.id])
            raise

    async def drop(self, upload: Upload) -> None:
        """Drops an upload, but not a file that it has become. Raises ChatError."""
        await self._services.files.drop(upload)

    async def finish(
        self, actor: Actor, upload: Upload, *, chatroom_id: UUID | None = None, sha256: bytes | None = None
    ) -> UploadedFile:
        """Makes a file of an upload that came in one go; nothing is left of one that cannot be. Raises ChatError."""
        try:
            with self._metrics.finishing():
                return await files.finish_upload(self._services, actor, upload, chatroom_id=chatroom_id, sha256=sha256)
        except BaseException:
            await self._services.files.drop(upload)
            raise

    async def _counted(self, body: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
        async for piece in body:
            self._metrics.received(len(piece))
            yield piece

    # --- uploads that go on after a cut ----------------------------------------------------------

    async def start(
        self,
        actor: Actor,
        command: CreateUpload,
        metadata: str,
        body: AsyncIterable[bytes],
        checksum: tuple[Algorithm, bytes] | None,
    ) -> Progress:
        """Begins an upload, with its first bytes. Raises ChatError."""
        return await uploads.start(self._services, actor, command, metadata, self._counted(body), checksum)

    async def look(self, actor: Actor, file_id: UUID) -> Progress:
        """How far an upload is. Raises ChatError."""
        return await uploads.look(self._services, actor, file_id)

    async def append(
        self,
        actor: Actor,
        file_id: UUID,
        body: AsyncIterable[bytes],
        offset: int,
        length: int | None,
        checksum: tuple[Algorithm, bytes] | None,
    ) -> Progress:
        """Takes bytes from `offset` on; with the last one the upload becomes a file. Raises ChatError."""
        announced = Announced(offset, length, checksum)
        return await uploads.append(self._services, actor, file_id, announced, self._counted(body))

    async def terminate(self, actor: Actor, file_id: UUID) -> None:
        """Drops an upload, or its file. Raises ChatError."""
        await uploads.terminate(self._services, actor, file_id)

    # --- parts -----------------------------------------------------------------------------------

    async def redeem_part(self, file_id: UUID, number: int, signature: str) -> Actor:
        """Who sends a part to a signed address. Raises ChatError FILE_NOT_FOUND."""
        return await part_uploads.redeem(self._services, file_id, number, signature)

    async def put_part(
        self, actor: Actor, file_id: UUID, number: int, size: int | None, body: AsyncIterable[bytes]
    ) -> None:
        """Takes a part. Raises ChatError."""
        await part_uploads.put_part(self._services, actor, file_id, number, size, self._counted(body))

    # --- pictures of users and chatrooms ---------------------------------------------------------

    async def set_avatar(self, actor: Actor, body: AsyncIterable[bytes]) -> Account:
        """Gives the user a picture. Raises ChatError."""
        with self._metrics.avatar():
            return await avatars.set_avatar(self._services, actor, self._counted(body))

    async def set_chatroom_avatar(self, actor: Actor, chatroom_id: UUID, body: AsyncIterable[bytes]) -> ChatroomChanged:
        """Gives a chatroom a picture. Raises ChatError."""
        with self._metrics.avatar():
            return await avatars.set_chatroom_avatar(self._services, actor, chatroom_id, self._counted(body))

    async def avatar(self, file_id: UUID) -> Avatar:
        """A picture of a user or a chatroom, for anyone. Raises ChatError."""
        try:
            file, data = await avatars.open_avatar(self._services, file_id)
        except (SealBroken, BlobMissing) as error:
            self._metrics.damaged()
            log.error("a file is damaged", extra={"file_id": str(file_id), "reason": str(error)})
            raise ChatError("FILE_DAMAGED") from error
        return Avatar(data, file.description.file_type, file.description.sha256.hex())

    # --- downloads -------------------------------------------------------------------------------

    async def redeem(self, file_id: UUID, signature: str) -> Actor:
        """Who reads a file by a signed address. Raises ChatError FILE_NOT_FOUND."""
        return await downloads.redeem(self._services, file_id, signature)

    async def open(self, actor: Actor, file_id: UUID, variant: Variant) -> OpenFile:
        """A file, or a picture of it. Raises ChatError."""
        with self._metrics.download():
            try:
                file, reading = await downloads.open_file(self._services, actor, file_id, variant)
            except SealBroken as error:
                self._metrics.damaged()
                log.error("a file is damaged", extra={"file_id": str(file_id), "reason": str(error)})
                raise ChatError("FILE_DAMAGED") from error
        return OpenFile(self._services, actor, file, reading, variant)
