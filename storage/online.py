"""What has to be asked of the database about who is online: whose chatrooms are whose."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple
from uuid import UUID

from storage.database import Connection


class Belonging(NamedTuple):
    """A user, and the chatrooms they are a member of."""

    user_id: UUID
    username: str
    chatroom_ids: list[UUID]


async def belongings(conn: Connection, user_ids: Collection[UUID]) -> list[Belonging]:
    """The chatrooms of each of these users. Users without any, and those who are no more, are left out."""
    rows = await conn.fetch(
        """SELECT u.id, u.username, array_agg(m.chatroom_id) AS chatroom_ids
           FROM users u JOIN members m ON m.user_id = u.id WHERE u.id = ANY($1) GROUP BY u.id""",
        list(user_ids),
    )
    return [Belonging(row["id"], row["username"], row["chatroom_ids"]) for row in rows]


async def sizes(conn: Connection, chatroom_ids: Collection[UUID]) -> dict[UUID, int]:
    """How many members each of these chatrooms has."""
    rows = await conn.fetch("SELECT id, member_count FROM chatrooms WHERE id = ANY($1)", list(chatroom_ids))
    return {row["id"]: row["member_count"] for row in rows}
