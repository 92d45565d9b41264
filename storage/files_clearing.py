"""What is left of files to clear away: those that nobody needs, those whose time is over, and blobs without a row.

A file that stands in a message is needed, however old it is. Whoever sends it holds its row, so that it is either
sent or gone; several nodes may clear away at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import NamedTuple
from uuid import UUID

from storage.database import Connection


class Cleared(NamedTuple):
    """Files whose rows are gone, and the blobs that nobody needs any more."""

    file_ids: list[UUID]
    blob_ids: list[UUID]


class Page(NamedTuple):
    """Files that nobody seems to need. `last` is where the next look goes on, None for nowhere."""

    file_ids: list[UUID]
    last: UUID | None


_UNUSED = """(f.purpose = 'file' OR f.status = 'uploading') AND f.updated_at < now() - $2::interval
             AND NOT EXISTS (SELECT FROM message_files a WHERE a.file_id = f.id)"""
"""Files that stand in no message and were not touched for so long, and uploads that stand still."""


async def look_for_unused(conn: Connection, after: UUID, unused_for: timedelta, rows: int) -> Page:
    """Looks through so many rows behind `after`, in the order of ids."""
    row = await conn.fetchrow(
        f"""WITH looked AS (SELECT id, purpose, status, updated_at FROM files
                            WHERE id > $1 ORDER BY id LIMIT $3)
            SELECT (SELECT count(*) FROM looked) AS looked, (SELECT id FROM looked ORDER BY id DESC LIMIT 1) AS last,
                   ARRAY(SELECT f.id FROM looked f WHERE {_UNUSED}) AS found""",
        after,
        unused_for,
        rows,
    )
    assert row is not None
    return Page(list(row["found"]), row["last"] if row["looked"] == rows else None)


async def remove_unused(conn: Connection, file_ids: Sequence[UUID], unused_for: timedelta) -> Cleared:
    """Removes those of the files that nobody needs still."""
    rows = await conn.fetch(
        f"SELECT f.id FROM files f WHERE f.id = ANY($1::uuid[]) AND {_UNUSED} ORDER BY f.id FOR UPDATE SKIP LOCKED",
        list(file_ids),
        unused_for,
    )
    return await delete_unreferenced(conn, [row["id"] for row in rows])


async def release_deleted_chatrooms(conn: Connection, limit: int) -> int:
    """Files in messages of deleted chatrooms do not count as sent any more. Returns how many places there were."""
    done = await conn.execute(
        """DELETE FROM message_files a USING (
               SELECT a.chatroom_id, a.message_id, a.file_id
               FROM chatrooms c JOIN message_files a ON a.chatroom_id = c.id
               WHERE c.deleted_at IS NOT NULL LIMIT $1) gone
           WHERE (a.chatroom_id, a.message_id, a.file_id) = (gone.chatroom_id, gone.message_id, gone.file_id)""",
        limit,
    )
    return int(done.rpartition(" ")[2])


async def remove_expired(conn: Connection, limit: int) -> Cleared:
    """Removes files whose time is over, also those that stand in messages; the messages stay."""
    rows = await conn.fetch(
        "SELECT id FROM files WHERE expires_at < now() ORDER BY expires_at LIMIT $1 FOR UPDATE SKIP LOCKED", limit
    )
    return await _delete_everywhere(conn, [row["id"] for row in rows])


async def remove_own(conn: Connection, file_id: UUID, user_id: UUID) -> Cleared:
    """Removes a file of this user's, or an upload of theirs, from wherever it stands."""
    rows = await conn.fetch(
        "SELECT id FROM files WHERE id = $1 AND uploader_id = $2 AND purpose = 'file' FOR UPDATE", file_id, user_id
    )
    return await _delete_everywhere(conn, [row["id"] for row in rows])


async def _delete_everywhere(conn: Connection, locked: list[UUID]) -> Cleared:
    await conn.execute("DELETE FROM message_files WHERE file_id = ANY($1::uuid[])", locked)
    return await delete_unreferenced(conn, locked)


async def delete_unreferenced(conn: Connection, locked: list[UUID]) -> Cleared:
    """Deletes those rows, locked before, that stand in no message.

    It is a statement of its own, and so sees the messages that were written until the rows were locked.
    """
    rows = await conn.fetch(
        """WITH gone AS (
               DELETE FROM files f WHERE f.id = ANY($1::uuid[])
               AND NOT EXISTS (SELECT FROM message_files a WHERE a.file_id = f.id) RETURNING f.id)
           SELECT gone.id, p.blob_id FROM gone LEFT JOIN file_parts p ON p.file_id = gone.id""",
        locked,
    )
    return Cleared(list({row["id"] for row in rows}), [row["blob_id"] for row in rows if row["blob_id"] is not None])


async def known_blobs(conn: Connection, blob_ids: Sequence[UUID]) -> set[UUID]:
    """Those of the blobs that some row names."""
    rows = await conn.fetch("SELECT blob_id FROM file_parts WHERE blob_id = ANY($1::uuid[])", list(blob_ids))
    return {row["blob_id"] for row in rows}
