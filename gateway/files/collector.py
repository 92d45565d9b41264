"""Clears away what nobody needs: unused files and half uploads, files whose time is over, and blobs without a row.

Every piece of work is small, so that neither the event loop nor a connection is held for long. Nodes may do it side
by side.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import NamedTuple
from uuid import UUID

from gateway.file_metrics import FileMetrics
from protocol.errors import ChatError
from storage import files_clearing
from storage.blobs import Blobs
from storage.database import Connection, Database
from storage.files_clearing import Cleared

log = logging.getLogger(__name__)

EXPIRY_INTERVAL = 60.0
"""Seconds between two looks at files whose time is over. Nobody gets them from that time on; this frees the room."""

SWEEP_INTERVAL = 3_600.0
"""Seconds between two looks at everything else."""

AGE = 3_600.0
"""Seconds that a blob without a row is left alone: a row may be about to name it."""

BATCH = 100
"""Files that are removed in one transaction."""

ROWS = 2_000
"""Rows that one query looks through."""


class Swept(NamedTuple):
    """What a sweep removed. `unused` files and uploads, `expired` files, `blobs` without a row, `spooled` leftovers."""

    unused: int
    expired: int
    blobs: int
    spooled: int


class Collector:
    """Clears away in a database and its place of blobs. `unused_for` is in seconds."""

    def __init__(self, database: Database, blobs: Blobs, unused_for: float, metrics: FileMetrics) -> None:
        self._database = database
        self._blobs = blobs
        self._unused_for = timedelta(seconds=unused_for)
        self._metrics = metrics

    async def sweep_forever(self) -> None:
        """Looks at everything again and again."""
        while True:
            with contextlib.suppress(ChatError):  # something is away; there is always a next time
                swept = await self.sweep(AGE)
                if any(swept):
                    log.info("swept files", extra=swept._asdict())
            await asyncio.sleep(SWEEP_INTERVAL)

    async def expire_forever(self) -> None:
        """Looks at files whose time is over again and again."""
        while True:
            with contextlib.suppress(ChatError):
                await self.expire()
            await asyncio.sleep(EXPIRY_INTERVAL)

    async def sweep(self, age: float) -> Swept:
        """Removes all there is to remove; blobs without a row when they are `age` seconds old.

        Raises ChatError when the database, or the place of blobs, is away.
        """
        if self._blobs.multipart is not None:
            # Their rows are gone by then: nothing comes past us that could make them younger.
            await self._blobs.multipart.clear(self._unused_for.total_seconds() + AGE)
        return Swept(
            unused=await self.collect(),
            expired=await self.expire(),
            blobs=await self._sweep_blobs(age),
            spooled=await self._blobs.clear_spool(age),
        )

    async def expire(self) -> int:
        """Removes files whose time is over. Returns how many there were."""
        count = 0
        while removed := await self._remove("expired", lambda conn: files_clearing.remove_expired(conn, BATCH)):
            count += removed
        return count

    async def collect(self) -> int:
        """Removes files that stand in no message, and uploads that stand still. Returns how many there were."""
        await self._release_deleted_chatrooms()
        count = 0
        after: UUID | None = UUID(int=0)
        while after is not None:
            async with self._database.acquire() as conn:
                found, after = await files_clearing.look_for_unused(conn, after, self._unused_for, ROWS)
            for at in range(0, len(found), BATCH):
                count += await self._collect(found[at : at + BATCH])
        return count

    async def _release_deleted_chatrooms(self) -> None:
        released = True
        while released:
            async with self._database.transaction() as conn:
                released = bool(await files_clearing.release_deleted_chatrooms(conn, ROWS))

    async def _collect(self, file_ids: list[UUID]) -> int:
        return await self._remove("unused", lambda conn: files_clearing.remove_unused(conn, file_ids, self._unused_for))

    async def _remove(self, why: str, work: Callable[[Connection], Awaitable[Cleared]]) -> int:
        async with self._database.transaction() as conn:
            cleared = await work(conn)
        self._metrics.removed(why, len(cleared.file_ids))
        # One that stays, for an error or a crash, is swept later.
        await self._blobs.delete(cleared.blob_ids)
        return len(cleared.file_ids)

    async def _sweep_blobs(self, age: float) -> int:
        count = 0
        async for page in self._blobs.listed(age):
            async with self._database.acquire() as conn:
                known = await files_clearing.known_blobs(conn, page)
            unknown = [blob_id for blob_id in page if blob_id not in known]
            await self._blobs.delete(unknown)
            self._metrics.swept(len(unknown))
            count += len(unknown)
        return count
