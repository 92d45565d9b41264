"""What the database says of chatrooms and members, to tell who is online in them."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID, uuid4

from protocol.models import Chatroom
from storage import online, rooms
from storage.database import Connection, Database

NOW = datetime(2026, 1, 1, tzinfo=UTC)


async def user(conn: Connection, name: str) -> UUID:
    """A user."""
    user_id = uuid4()
    await conn.execute(
        """INSERT INTO users (id, username, username_key, email, email_key, display_name, password_hash,
                              created_at, updated_at)
           VALUES ($1, $2, $2, $2, $2, $2, 'x', now(), now())""",
        user_id,
        name,
    )
    return user_id


async def chatroom(conn: Connection, *members: UUID) -> UUID:
    """A group of these users."""
    room = Chatroom(
        id=uuid4(),
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


async def test_belongings(db: Database) -> None:
    """Of each user that is asked for: the name, and the chatrooms they are a member of, if any."""
    async with db.transaction() as conn:
        ann, bob, cat, eve = [await user(conn, name) for name in ("ann", "bob", "cat", "eve")]
        tea = await chatroom(conn, ann, bob, cat)
        ink = await chatroom(conn, ann)
        found = await online.belongings(conn, {ann, bob, eve, uuid4()})
    assert {entry.user_id: (entry.username, set(entry.chatroom_ids)) for entry in found} == {
        ann: ("ann", {tea, ink}),
        bob: ("bob", {tea}),
    }


async def test_sizes(db: Database) -> None:
    """How many members each has; what is no chatroom is left out."""
    async with db.transaction() as conn:
        ann, bob = [await user(conn, name) for name in ("ann", "bob")]
        tea, ink = await chatroom(conn, ann, bob), await chatroom(conn, ann)
        sizes = await online.sizes(conn, {tea, ink, uuid4()})
        counts = {room: len(await rooms.member_ids(conn, room)) for room in (tea, ink)}
    assert sizes == counts == {tea: 2, ink: 1}
