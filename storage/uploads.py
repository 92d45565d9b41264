"""Uploads under way, as rows: how long they will be, parts that come in any order, and how they end without a file."""

from __future__ import annotations

from uuid import UUID

from storage.database import Connection
from storage.files import Part, not_found


async def set_size(conn: Connection, file_id: UUID, size: int) -> bool:
    """Says how long an upload will be of which that was not known; False where it is known, or where more came."""
    done = await conn.execute(
        """UPDATE files SET size = $2, updated_at = now()
           WHERE id = $1 AND status = 'uploading' AND size = 0 AND received <= $2""",
        file_id,
        size,
    )
    return done == "UPDATE 1"


async def put_part(conn: Connection, file_id: UUID, part: Part) -> UUID | None:
    """Adds a part, wherever it belongs; returns the blob of one that had its place. Raises ChatError FILE_NOT_FOUND."""
    if not await conn.fetchval("SELECT TRUE FROM files WHERE id = $1 AND status = 'uploading' FOR UPDATE", file_id):
        raise not_found()
    before = await conn.fetchrow(
        "DELETE FROM file_parts WHERE file_id = $1 AND variant = 'whole' AND number = $2 RETURNING blob_id, size",
        file_id,
        part.number,
    )
    await conn.execute(
        "INSERT INTO file_parts (file_id, variant, number, blob_id, size) VALUES ($1, 'whole', $2, $3, $4)",
        file_id,
        *part,
    )
    await conn.execute(
        "UPDATE files SET received = received + $2, updated_at = now() WHERE id = $1",
        file_id,
        part.size - (0 if before is None else before["size"]),
    )
    return None if before is None else before["blob_id"]


async def drop(conn: Connection, file_id: UUID) -> list[UUID]:
    """Forgets an upload, but not a file that it has become; returns the blobs that nobody needs any more."""
    await conn.execute("SELECT FROM files WHERE id = $1 FOR UPDATE", file_id)
    # A statement of its own: it sees the parts that were added until the row was locked.
    rows = await conn.fetch(
        """WITH gone AS (DELETE FROM files WHERE id = $1 AND status = 'uploading' RETURNING id)
           SELECT p.blob_id FROM file_parts p JOIN gone ON gone.id = p.file_id""",
        file_id,
    )
    return [row["blob_id"] for row in rows]
