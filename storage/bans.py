"""Bans: who may not be a member of a chatroom any more. Written under the chatroom's lock."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from protocol.models import Ban
from storage.database import Connection


async def add(
    conn: Connection, chatroom_id: UUID, user_id: UUID, banned_by: UUID, reason: str | None, now: datetime
) -> None:
    """Bans a user; a ban that is there already gets this reason."""
    await conn.execute(
        """INSERT INTO bans (chatroom_id, user_id, banned_by, reason, created_at) VALUES ($1, $2, $3, $4, $5)
           ON CONFLICT (chatroom_id, user_id) DO UPDATE
           SET banned_by = excluded.banned_by, reason = excluded.reason, created_at = excluded.created_at""",
        chatroom_id,
        user_id,
        banned_by,
        reason,
        now,
    )


async def lift(conn: Connection, chatroom_id: UUID, user_id: UUID) -> bool:
    """Ends a ban. False when there is none."""
    lifted = await conn.fetchval(
        "DELETE FROM bans WHERE chatroom_id = $1 AND user_id = $2 RETURNING true", chatroom_id, user_id
    )
    return bool(lifted)


async def banned_of(conn: Connection, chatroom_id: UUID, user_ids: Sequence[UUID]) -> list[UUID]:
    """Those of the users who are banned."""
    rows = await conn.fetch(
        "SELECT user_id FROM bans WHERE chatroom_id = $1 AND user_id = ANY($2::uuid[]) ORDER BY user_id",
        chatroom_id,
        list(user_ids),
    )
    return [row["user_id"] for row in rows]


async def list_of(conn: Connection, chatroom_id: UUID, limit: int, skip: int) -> tuple[tuple[Ban, ...], int]:
    """A page of a chatroom's bans, the newest first, and how many there are in all."""
    rows = await conn.fetch(
        """SELECT b.user_id, u.username, u.display_name, u.avatar_url, b.banned_by, b.reason, b.created_at
           FROM bans b JOIN users u ON u.id = b.user_id
           WHERE b.chatroom_id = $1 ORDER BY b.created_at DESC, b.user_id LIMIT $2 OFFSET $3""",
        chatroom_id,
        limit,
        skip,
    )
    total: int = await conn.fetchval("SELECT count(*) FROM bans WHERE chatroom_id = $1", chatroom_id)
    return tuple(Ban(**dict(row)) for row in rows), total
