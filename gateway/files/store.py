"""The files of one Parley: bytes come in part by part, sealed at once, and are never in memory as a whole."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Sequence
from datetime import timedelta
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, Literal
from uuid import UUID

from uuid_utils.compat import uuid4

from crypto.file_sealing import PartSeal
from crypto.sealing import MasterKeys, SealBroken
from gateway.files.arriving import Arrivals
from gateway.files.checksum import Checksum
from gateway.files.parts import PartWriter, write_part
from gateway.files.reading import Reading
from protocol.errors import ChatError
from storage import files, files_clearing, scans, uploads
from storage.blobs import Blobs
from storage.database import Connection, Database
from storage.files import Part, StoredFile, Variant
from storage.files_clearing import Cleared

if TYPE_CHECKING:
    from hashlib import _Hash

PART = 64 * 1024 * 1024
"""Bytes after which a part is kept and the next one begins: what a killed process loses of a long upload at most."""

BATCH = 256 * 1024
"""Bytes that are handed to a thread together."""

REWRAPPED = 200
"""Keys that are wrapped anew in one transaction: some milliseconds of the event loop."""

CACHED = 4_096
"""Descriptions of files that are remembered; about a kilobyte each."""


class Upload:
    """A file on its way in. `digest` is known while all of its bytes came through here."""

    def __init__(self, file: StoredFile, parts: Sequence[Part], digest: _Hash | None) -> None:
        self.file = file
        self.parts = list(parts)
        self.digest = digest

    @property
    def received(self) -> int:
        """Bytes that are kept."""
        return sum(part.size for part in self.parts)


class FileStore:
    """Uploads and files, where rows and blobs meet: blobs are kept before rows name them, and go after them."""

    def __init__(self, database: Database, blobs: Blobs, master: MasterKeys) -> None:
        self.blobs = blobs
        self._database = database
        self._master = master
        self._known: OrderedDict[UUID, StoredFile] = OrderedDict()
        self.arrivals = Arrivals()

    def replace(self, master: MasterKeys) -> None:
        """Takes rotated master keys."""
        self._master = master

    async def rewrap(self) -> int:
        """Wraps the keys of all files under the newest master key, some at a time. Returns how many were not."""
        count, after = 0, UUID(int=0)
        while True:
            async with self._database.transaction() as conn:
                done = await files.rewrap(conn, self._master, after, REWRAPPED)
            count += len(done)
            if len(done) < REWRAPPED:
                return count
            after = done[-1]

    # --- in --------------------------------------------------------------------------------------

    async def begin(self, conn: Connection, file: StoredFile) -> Upload:
        """Starts an upload, in the transaction in which the rules were looked at."""
        await files.begin(conn, file, self._master)
        return Upload(file, (), sha256() if file.part_size is None else None)

    async def upload_of(self, user_id: UUID, file_id: UUID) -> Upload:
        """An upload of this user's, or a file that it came to. Raises ChatError FILE_NOT_FOUND."""
        async with self._database.acquire() as conn:
            file = await files.find_own(conn, self._master, file_id, user_id)
            if file is None:
                raise files.not_found()
            return Upload(file, await files.parts_of(conn, file_id, "whole"), None)

    async def receive(
        self,
        upload: Upload,
        body: AsyncIterable[bytes],
        most: int,
        *,
        resumable: bool,
        checksum: Checksum | None = None,
    ) -> None:
        """Takes bytes behind those that are there, `most` in all.

        Raises ChatError FILE_TOO_LARGE, UPLOAD_OFFSET_MISMATCH where others write too, UPLOAD_CHECKSUM_MISMATCH, and
        what `body` raises. Of a `resumable` upload, what came before an error is kept; with a `checksum`, all or none.
        """
        writer: PartWriter | None = None
        try:
            async for batch in _bounded(_batches(body), upload.received, most):
                if writer is None:
                    writer = await self._next_writer(upload, checksum)
                await self.blobs.run(partial(writer.write, batch))
                if writer.size >= PART and checksum is None:
                    full, writer = writer, None
                    await self._keep(upload, full)
            if checksum is not None:
                checksum.check()
        except BaseException:
            if writer is not None:
                await self._keep_or_drop(upload, writer, keep=resumable and checksum is None)
            raise
        if writer is not None:
            await self._keep(upload, writer)

    async def _next_writer(self, upload: Upload, checksum: Checksum | None) -> PartWriter:
        seal = PartSeal(upload.file.key, upload.file.id, "whole", len(upload.parts))
        digests = [upload.digest] if upload.digest is not None else []
        if checksum is not None:
            digests.append(checksum.digest)
        return await self.blobs.run(partial(PartWriter, self.blobs.spool(), seal, digests))

    async def _keep_or_drop(self, upload: Upload, writer: PartWriter, *, keep: bool) -> None:
        if keep and writer.size and not writer.failed:
            await self._keep(upload, writer)
        else:
            await self.blobs.run(writer.drop)

    async def put_part(self, file: StoredFile, number: int, size: int, body: AsyncIterable[bytes]) -> None:
        """Takes a part of `size` bytes, in place of one that was there; of one that breaks off nothing is kept.

        Raises ChatError FILE_NOT_FOUND where the upload is over, FILE_UPLOAD_FAILED, FILE_TOO_LARGE, and what `body`
        raises.
        """
        seal = PartSeal(file.key, file.id, "whole", number)
        writer = await self.blobs.run(partial(PartWriter, self.blobs.spool(), seal))
        try:
            async for batch in _bounded(_batches(body), 0, size):
                await self.blobs.run(partial(writer.write, batch))
            if writer.size < size:
                raise ChatError("FILE_UPLOAD_FAILED", f"This part has {size} bytes.", details={"size": size})
        except BaseException:
            await self.blobs.run(writer.drop)
            raise
        part = await self._blob_of(writer, number)
        try:
            async with self._database.transaction() as conn:
                replaced = await uploads.put_part(conn, file.id, part)
        except ChatError as error:
            if not error.kind.retryable:  # else it may have been written after all
                await self._discard([part.blob_id])
            raise
        if replaced is not None:
            await self._discard([replaced])

    async def _blob_of(self, writer: PartWriter, number: int) -> Part:
        part = Part(number, uuid4(), writer.size)
        try:
            await self.blobs.run(writer.close)
        except BaseException:
            await self.blobs.run(writer.drop)
            raise
        await self.blobs.keep(part.blob_id, writer.path)
        return part

    async def _keep(self, upload: Upload, writer: PartWriter) -> None:
        part = await self._blob_of(writer, len(upload.parts))
        async with self._database.transaction() as conn:
            added = await files.append_part(conn, upload.file.id, part, upload.received)
        if not added:
            await self._discard([part.blob_id])
            raise ChatError("UPLOAD_OFFSET_MISMATCH")
        upload.parts.append(part)

    async def digest(self, upload: Upload) -> bytes:
        """SHA-256 (FIPS 180-4) of what was received. What came by several requests is read once more for it."""
        if upload.digest is None:
            digest = sha256()
            async for piece in self.received(upload).read(0, upload.received):
                await self.blobs.run(partial(digest.update, piece))
            upload.digest = digest
        return upload.digest.digest()

    def received(self, upload: Upload) -> Reading:
        """What was received."""
        return self._reading(upload.file, "whole", upload.parts)

    async def head(self, upload: Upload, length: int) -> bytes:
        """The first bytes of what was received."""
        reading = self.received(upload)
        return b"".join([piece async for piece in reading.read(0, min(length, reading.size))])

    async def drop(self, upload: Upload) -> None:
        """Drops an upload, but not a file that it has become: its row, then its blobs."""
        async with self._database.transaction() as conn:
            blobs = await uploads.drop(conn, upload.file.id)
        await self._discard(blobs)
        if (direct := upload.file.description.direct) and self.blobs.multipart is not None:
            with contextlib.suppress(ChatError):
                await self.blobs.multipart.abort(direct.blob_id, direct.upload_id)

    async def keep_picture(self, file: StoredFile, variant: Variant, data: bytes) -> Part:
        """Keeps a picture of a file; a row has to name it then."""
        part, path = Part(0, uuid4(), len(data)), self.blobs.spool()
        await self.blobs.run(partial(write_part, path, PartSeal(file.key, file.id, variant, 0), data))
        await self.blobs.keep(part.blob_id, path)
        return part

    async def abandon(self, file_ids: Sequence[UUID]) -> None:
        """Drops uploads and files that stand in no message: their rows, then their blobs."""
        async with self._database.transaction() as conn:
            cleared = await files.remove(conn, file_ids)
        await self.forget(cleared)

    async def forget(self, cleared: Cleared) -> None:
        """Drops what belongs to rows that are gone."""
        for file_id in cleared.file_ids:
            self._known.pop(file_id, None)
        await self._discard(cleared.blob_ids)

    async def _discard(self, blob_ids: Sequence[UUID]) -> None:
        """Drops blobs that no row names. One that stays, for an error or a crash, is swept later."""
        with contextlib.suppress(ChatError):
            await self.blobs.delete(blob_ids)

    # --- out -------------------------------------------------------------------------------------

    async def seen(self, user_id: UUID, file_id: UUID) -> StoredFile:
        """A file that this user may have, whatever its status. Raises ChatError FILE_NOT_FOUND."""
        found = await self.all_seen(user_id, [file_id])
        if not found:
            raise files.not_found()
        return found[0]

    async def all_seen(self, user_id: UUID, file_ids: Sequence[UUID]) -> list[StoredFile]:
        """Those of some files that this user may have, in the same order, whatever their status."""
        async with self._database.acquire() as conn:
            found = {file.id: file for file in await files.find_seen(conn, self._master, file_ids, user_id)}
        return [found[file_id] for file_id in dict.fromkeys(file_ids) if file_id in found]

    async def of_uploader(self, user_id: UUID, limit: int, skip: int) -> tuple[list[StoredFile], int, int]:
        """A page of a user's files, how many they have in all, and the bytes that they take."""
        async with self._database.acquire() as conn:
            found, total = await files.of_uploader(conn, self._master, user_id, limit, skip)
            return found, total, await files.used_by(conn, user_id)

    async def claim_scan(self, lease: timedelta) -> StoredFile | None:
        """A file to be scanned, which nobody else scans for so long."""
        async with self._database.transaction() as conn:
            return await scans.claim(conn, self._master, lease)

    async def keep_scan(self, file_id: UUID, lease: timedelta) -> None:
        """From now on nobody else scans it for so long."""
        async with self._database.transaction() as conn:
            await scans.keep(conn, file_id, lease)

    async def settle_scan(self, file_id: UUID, status: Literal["ready", "rejected"]) -> None:
        """Says what a file is. The bytes of one that is rejected go."""
        async with self._database.transaction() as conn:
            blobs = await scans.settle(conn, file_id, status)
        await self.forget(Cleared([file_id], blobs or []))

    async def delete(self, user_id: UUID, file_id: UUID) -> None:
        """Takes a user's own file, or an upload of theirs, away from everyone. Raises ChatError FILE_NOT_FOUND."""
        async with self._database.transaction() as conn:
            cleared = await files_clearing.remove_own(conn, file_id, user_id)
        if not cleared.file_ids:
            raise files.not_found()
        await self.forget(cleared)

    async def is_seen(self, user_id: UUID, sign_in_id: UUID, file_id: UUID) -> bool:
        """Whether they still may."""
        async with self._database.acquire() as conn:
            return await files.is_seen(conn, file_id, user_id, sign_in_id)

    async def open(self, file: StoredFile, variant: Variant = "whole") -> Reading:
        """What is in a file, or in a picture of it. Raises ChatError FILE_NOT_FOUND where there is no such picture."""
        async with self._database.acquire() as conn:
            parts = await files.parts_of(conn, file.id, variant)
        expected = file.description.parts if variant == "whole" else (getattr(file.description, variant),)
        if variant != "whole" and not parts:
            raise files.not_found()
        if tuple(part.size for part in parts) != expected:
            raise SealBroken(f"parts of file {file.id} are missing, or too many")
        return self._reading(file, variant, parts)

    def _reading(self, file: StoredFile, variant: Variant, parts: Sequence[Part]) -> Reading:
        return Reading(self.blobs, file, variant, parts)

    async def avatar(self, file_id: UUID) -> StoredFile:
        """A picture of a user or a chatroom, for anyone. Raises ChatError FILE_NOT_FOUND."""
        async with self._database.acquire() as conn:
            file = await files.find_avatar(conn, self._master, file_id)
        if file is None:
            raise files.not_found()
        return file

    # --- in messages -----------------------------------------------------------------------------

    def known(self, file_ids: Iterable[UUID]) -> list[StoredFile] | None:
        """Files that are remembered, in this order; None when one of them is not."""
        found = [self._known.get(file_id) for file_id in file_ids]
        return None if None in found else found  # type: ignore[return-value]

    async def remember(self, file_ids: Sequence[UUID]) -> None:
        """Makes files known, whoever may have them. Raises ChatError FILE_NOT_FOUND."""
        if self.known(file_ids) is not None:
            return
        async with self._database.acquire() as conn:
            found = {file.id: file for file in await files.by_ids(conn, self._master, file_ids)}
        if not found.keys() >= set(file_ids):
            raise files.not_found()
        self._known |= found
        while len(self._known) > CACHED:
            self._known.popitem(last=False)


async def _bounded(batches: AsyncIterable[list[bytes]], size: int, most: int) -> AsyncIterator[list[bytes]]:
    """Batches behind `size` bytes, up to `most`. Raises ChatError FILE_TOO_LARGE instead of giving more."""
    async for batch in batches:
        size += sum(map(len, batch))
        if size > most:
            raise ChatError("FILE_TOO_LARGE", details={"limit": most})
        yield batch


async def _batches(body: AsyncIterable[bytes]) -> AsyncIterator[list[bytes]]:
    """What a body brings, in batches that are worth a thread's while; the last one before an error, too."""
    batch: list[bytes] = []
    size = 0
    error: ChatError | None = None
    try:
        async for piece in body:
            batch.append(piece)
            size += len(piece)
            if size >= BATCH:
                yield batch
                batch, size = [], 0
    except ChatError as caught:
        error = caught
    if batch:
        yield batch
    if error is not None:
        raise error
