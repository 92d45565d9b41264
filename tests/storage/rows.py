"""Rows that tests of queries need, without the rules by which they come to be."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID, uuid4

from protocol.models import Chatroom, User
from storage import rooms
from storage.database import Connection

NOW = datetime(2026, 1, 1, tzinfo=UTC)


async def add_user(conn: Connection, user: User) -> None:
    """An account that nobody can sign in to."""
    await conn.execute(
        """INSERT INTO users (id, username, username_key, email, email_key, display_name, password_hash,
                              created_at, updated_at)
           VALUES ($1, $2, $2, $2, $2, $2, 'x', now(), now())""",
        user.id,
        user.username,
    )


async def add_chatroom(conn: Connection, *members: UUID, chatroom_id: UUID | None = None) -> UUID:
    """A group of these users, without a key."""
    room = Chatroom(
        id=chatroom_id or uuid4(),
        kind="group",
        name="room",
        description=None,
        owner_id=members[0],
        is_private=True,
        max_members=10,
        member_count=len(members),
        encryption_enabled=False,
        auto_summary_enabled=False,
        summary_threshold=100,
        seq=1,
        created_at=NOW,
        updated_at=NOW,
    )
    await rooms.insert(conn, room)
    await rooms.add_members(conn, room.id, dict.fromkeys(members, "member"), NOW, last_read_seq=0)
    return room.id
