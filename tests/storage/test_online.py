"""What the database says of chatrooms and members, to tell who is online in them."""

from __future__ import annotations

from uuid import UUID, uuid4

from protocol.models import User
from storage import online, rooms
from storage.database import Connection, Database
from tests.storage.rows import add_chatroom, add_user


async def user(conn: Connection, name: str) -> UUID:
    """A user."""
    person = User(id=uuid4(), username=name, display_name=name)
    await add_user(conn, person)
    return person.id


async def test_belongings(db: Database) -> None:
    """Of each user that is asked for: the name, and the chatrooms they are a member of, if any."""
    async with db.transaction() as conn:
        ann, bob, cat, eve = [await user(conn, name) for name in ("ann", "bob", "cat", "eve")]
        tea = await add_chatroom(conn, ann, bob, cat)
        ink = await add_chatroom(conn, ann)
        found = await online.belongings(conn, {ann, bob, eve, uuid4()})
    assert {entry.user_id: (entry.username, set(entry.chatroom_ids)) for entry in found} == {
        ann: ("ann", {tea, ink}),
        bob: ("bob", {tea}),
    }


async def test_sizes(db: Database) -> None:
    """How many members each has; what is no chatroom is left out."""
    async with db.transaction() as conn:
        ann, bob = [await user(conn, name) for name in ("ann", "bob")]
        tea, ink = await add_chatroom(conn, ann, bob), await add_chatroom(conn, ann)
        sizes = await online.sizes(conn, {tea, ink, uuid4()})
        counts = {room: len(await rooms.member_ids(conn, room)) for room in (tea, ink)}
    assert sizes == counts == {tea: 2, ink: 1}
