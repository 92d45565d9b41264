"""Pages of history, where other events stand between the messages."""

from __future__ import annotations

from itertools import product
from uuid import UUID, uuid4

from protocol.models import User
from storage import messages
from storage.database import Connection, Database
from tests.storage.rows import NOW, add_chatroom, add_user

SEQS = 40
OTHERS = {1, 2, 3, 9, 17, 18, 19, 20, 21, 30, 39, 40}
"""What is no message: at both ends, alone, and in a row that is longer than a page."""
MESSAGES = [seq for seq in range(1, SEQS + 1) if seq not in OTHERS]


async def add_events(conn: Connection) -> UUID:
    """A chatroom with these events."""
    sender = User(id=uuid4(), username="ann", display_name="Ann")
    await add_user(conn, sender)
    room = await add_chatroom(conn, sender.id)
    await conn.execute("UPDATE chatrooms SET last_seq = $2 WHERE id = $1", room, SEQS)
    await conn.executemany(
        "INSERT INTO events (chatroom_id, seq, kind, message_id, created_at) VALUES ($1, $2, $3, $4, $5)",
        [
            (room, seq, "user_joined" if seq in OTHERS else "message_received", None if seq in OTHERS else uuid4(), NOW)
            for seq in range(1, SEQS + 1)
        ],
    )
    await conn.executemany(
        """INSERT INTO messages (chatroom_id, seq, id, sender_id, message_type, key_version, nonce, sealed, created_at)
           VALUES ($1, $2, $3, $4, 'text', 1, '', '', $5)""",
        [(room, seq, uuid4(), sender.id, NOW) for seq in MESSAGES],
    )
    return room


async def test_pages_skip_messages_and_nothing_else(db: Database) -> None:
    """A page has the messages that follow those of the pages before it, from wherever it is read, in each direction."""
    cursors = (0, 1, 2, 10, 18, 21, 22, 31, 40, 41, 1_000, 2**63 - 1)
    async with db.transaction() as conn:
        room = await add_events(conn)
        for cursor, skip in product(cursors, (0, 1, 4, 13, 27, 28, 29, 100)):
            below = [seq for seq in MESSAGES[::-1] if seq < cursor]
            rows = await messages.page_before(conn, room, cursor, 4, skip)
            assert [row["seq"] for row in rows] == below[skip : skip + 4]
            above = [seq for seq in MESSAGES if seq > cursor]
            rows = await messages.page_after(conn, room, cursor, 4, skip)
            assert [row["seq"] for row in rows] == above[skip : skip + 4]


async def test_pages_from_the_newest_on(db: Database) -> None:
    """Without a cursor pages begin with the newest message."""
    async with db.transaction() as conn:
        room = await add_events(conn)
        for skip in range(0, 30, 3):
            rows = await messages.page_before(conn, room, None, 3, skip)
            assert [row["seq"] for row in rows] == MESSAGES[::-1][skip : skip + 3]
