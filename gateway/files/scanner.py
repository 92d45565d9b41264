"""Has files scanned for viruses, and tells the chatrooms where they stand what came of it.

What is to be done stands in the database, so that any node does it, and again after a crash.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Never
from uuid import UUID

from msgspec import structs

from crypto.sealing import SealBroken
from gateway.file_metrics import FileMetrics
from gateway.files.clamd import Clamd, ClamdAway
from gateway.files.store import FileStore
from protocol.errors import ChatError
from protocol.events import AttachmentUpdated
from protocol.models import Attachment
from storage import messages, scans
from storage.blobs import BlobMissing
from storage.database import Connection, Database
from storage.events import CommittedEvent
from storage.files import StoredFile
from storage.flights import Changed, RoomRow
from storage.journal import Journal
from storage.room_keys import MessageBody, RoomKey, RoomKeys
from storage.scans import Place

log = logging.getLogger(__name__)

POLL = 5.0
"""Seconds between two looks for files that others have left, and after which clamd is asked again when it was away."""

LEASE = timedelta(seconds=60)
"""How long a file is its scanner's; it is renewed while the scan goes on."""

RENEWAL = 20.0
"""Seconds between renewals."""

SCANS_AT_ONCE = 2
"""Files that a node has scanned at once, so that a large one does not hold up the others."""

BATCH = 100
"""Messages that are looked for at once."""


class Scanner:
    """Scans for one node. `is_away`: clamd did not answer last time."""

    def __init__(
        self,
        clamd: Clamd,
        database: Database,
        store: FileStore,
        journal: Journal,
        room_keys: RoomKeys,
        metrics: FileMetrics,
    ) -> None:
        self.is_away = False
        self._clamd = clamd
        self._database = database
        self._store = store
        self._journal = journal
        self._room_keys = room_keys
        self._metrics = metrics
        self._wake = asyncio.Event()

    def soon(self) -> None:
        """There is a file to scan."""
        self._wake.set()

    async def scan_forever(self) -> Never:
        """Scans what there is, again and again; may run several times side by side."""
        while True:
            with contextlib.suppress(ChatError):  # the database or the blobs are away; there is always a next time
                await self.scan_all()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), POLL)
            self._wake.clear()

    async def scan_all(self) -> None:
        """Scans what nobody scans, until there is no more or clamd is away. Raises ChatError."""
        await self._tell()
        while (file := await self._store.claim_scan(LEASE)) is not None:
            if not await self._scan(file):
                return
            await self._tell()

    async def _scan(self, file: StoredFile) -> bool:
        try:
            async with self._kept(file.id):
                verdict = await self._clamd.scan(await self._stream(file))
        except (ClamdAway, SealBroken, BlobMissing) as error:
            self.is_away = isinstance(error, ClamdAway)
            self._metrics.scanned("failed")
            log.error("a file could not be scanned", extra={"file_id": str(file.id), "reason": str(error)})
            await self._store.keep_scan(file.id, timedelta(seconds=POLL))
            return not self.is_away
        self.is_away = False
        self._metrics.scanned(verdict)
        await self._store.settle_scan(file.id, "ready" if verdict == "clean" else "rejected")
        return True

    async def _stream(self, file: StoredFile) -> AsyncIterator[bytes]:
        reading = await self._store.open(file)
        return reading.read(0, reading.size)

    @asynccontextmanager
    async def _kept(self, file_id: UUID) -> AsyncIterator[None]:
        """Inside, no other node scans the file."""

        async def renew() -> Never:
            while True:
                await asyncio.sleep(RENEWAL)
                with contextlib.suppress(ChatError):
                    await self._store.keep_scan(file_id, LEASE)

        renewal = asyncio.create_task(renew())
        try:
            yield
        finally:
            renewal.cancel()

    # --- messages ------------------------------------------------------------------------------

    async def _tell(self) -> None:
        """Brings messages up to date, also those that another node did not come to."""
        while True:
            async with self._database.acquire() as conn:
                places = await scans.outdated(conn, BATCH)
            if not places:
                return
            for place in places:
                await self._update(place)

    async def _update(self, place: Place) -> None:
        try:
            key: RoomKey | None = await self._room_keys.get(place.chatroom_id)
        except ChatError as error:
            if error.kind.retryable:
                raise
            key = None  # the chatroom is deleted

        async def change(conn: Connection, room: RoomRow | None, _: datetime) -> Changed:
            if not await scans.updated(conn, place) or room is None or key is None:
                return Changed(None)
            await _rewrite(conn, key, place)
            data = AttachmentUpdated(
                chatroom_id=room.id, message_id=place.message_id, file_id=place.file_id, status=place.status
            )
            return Changed(None, [CommittedEvent(room.id, room.last_seq + 1, "attachment_updated", data)])

        await self._journal.change(place.chatroom_id, change)


async def _rewrite(conn: Connection, key: RoomKey, place: Place) -> None:
    """The attachments are sealed in the message's body, which is sealed anew with the present status."""
    stored = await messages.find(conn, place.chatroom_id, place.message_id)
    assert stored is not None, "a file stands in a message that is not there"
    body = key.unseal(stored.id, stored.sender_id, stored.key_version, stored.nonce, stored.sealed)
    attachments = tuple(_with_status(attachment, place) for attachment in body.attachments)
    sealed = key.seal(stored.id, stored.sender_id, MessageBody(body.content, attachments))
    await messages.rewrite(conn, stored, sealed)


def _with_status(attachment: Attachment, place: Place) -> Attachment:
    return structs.replace(attachment, status=place.status) if attachment.id == place.file_id else attachment
