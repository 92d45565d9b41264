"""Files that wait to be scanned, as rows: who scans them now, what came of it, and which messages do not say so yet."""

from __future__ import annotations

from datetime import timedelta
from typing import Literal, NamedTuple
from uuid import UUID

from crypto.sealing import MasterKeys
from storage import files
from storage.database import Connection
from storage.files import StoredFile


class Place(NamedTuple):
    """Where a file stands, and what it has become."""

    chatroom_id: UUID
    message_id: UUID
    file_id: UUID
    status: Literal["ready", "rejected"]


async def claim(conn: Connection, master: MasterKeys, lease: timedelta) -> StoredFile | None:
    """A file that nobody is scanning, the longest waiting first. For so long it is the caller's."""
    file_id = await conn.fetchval(
        """UPDATE files SET scan_until = now() + $1::interval WHERE id = (
               SELECT id FROM files WHERE status = 'scanning' AND (scan_until IS NULL OR scan_until < now())
               ORDER BY updated_at LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED) RETURNING id""",
        lease,
    )
    found = [] if file_id is None else await files.by_ids(conn, master, [file_id])
    return found[0] if found else None


async def keep(conn: Connection, file_id: UUID, lease: timedelta) -> None:
    """From now on nobody else scans it for so long."""
    await conn.execute(
        "UPDATE files SET scan_until = now() + $2::interval WHERE id = $1 AND status = 'scanning'", file_id, lease
    )


async def settle(conn: Connection, file_id: UUID, status: Literal["ready", "rejected"]) -> list[UUID] | None:
    """Says what a file is, and returns the blobs that nobody needs then; None where it was settled, or is gone.

    The lock waits for those who are sending the file as it was, so that their messages are found, too.
    """
    waiting = "SELECT TRUE FROM files WHERE id = $1 AND status = 'scanning' FOR UPDATE"
    if not await conn.fetchval(waiting, file_id):
        return None
    await conn.execute("UPDATE files SET status = $2, updated_at = now() WHERE id = $1", file_id, status)
    await conn.execute("UPDATE message_files SET outdated = TRUE WHERE file_id = $1", file_id)
    if status == "ready":
        return []
    rows = await conn.fetch("DELETE FROM file_parts WHERE file_id = $1 RETURNING blob_id", file_id)
    return [row["blob_id"] for row in rows]


async def outdated(conn: Connection, limit: int) -> list[Place]:
    """Messages that show a file as it was before it was scanned."""
    rows = await conn.fetch(
        """SELECT a.chatroom_id, a.message_id, a.file_id, f.status FROM message_files a
           JOIN files f ON f.id = a.file_id WHERE a.outdated AND f.status IN ('ready', 'rejected') LIMIT $1""",
        limit,
    )
    return [Place(*row) for row in rows]


async def updated(conn: Connection, place: Place) -> bool:
    """The message shows it as it is now. False where it did before, or the file does not stand there any more."""
    done = await conn.execute(
        """UPDATE message_files SET outdated = FALSE
           WHERE chatroom_id = $1 AND message_id = $2 AND file_id = $3 AND outdated""",
        place.chatroom_id,
        place.message_id,
        place.file_id,
    )
    return done == "UPDATE 1"
