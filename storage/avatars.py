"""Avatars: which pictures of users and chatrooms are kept. Each has one at most; others are removed with their rows."""

from __future__ import annotations

from uuid import UUID

from storage.database import Connection
from storage.files_clearing import Cleared, delete_unreferenced


def url_of(file_id: UUID) -> str:
    """Where a kept picture is."""
    return f"/avatars/{file_id}"


async def remove_of_user(conn: Connection, user_id: UUID, but: str | None) -> Cleared:
    """Removes a user's pictures, except the one at this address."""
    rows = await conn.fetch(
        """SELECT id FROM files WHERE uploader_id = $1 AND chatroom_id IS NULL
           AND purpose = 'avatar' AND status = 'ready' FOR UPDATE""",
        user_id,
    )
    return await _remove(conn, [row["id"] for row in rows], but)


async def remove_of_chatroom(conn: Connection, chatroom_id: UUID, but: str | None) -> Cleared:
    """Removes a chatroom's pictures, whoever brought them, except the one at this address."""
    rows = await conn.fetch(
        "SELECT id FROM files WHERE chatroom_id = $1 AND purpose = 'avatar' AND status = 'ready' FOR UPDATE",
        chatroom_id,
    )
    return await _remove(conn, [row["id"] for row in rows], but)


async def _remove(conn: Connection, locked: list[UUID], but: str | None) -> Cleared:
    return await delete_unreferenced(conn, [file_id for file_id in locked if url_of(file_id) != but])
