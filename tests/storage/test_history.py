"""Pages of history, where other events stand between the messages."""

from __future__ import annotations

from datetime import timedelta
from itertools import product
from typing import NamedTuple
from uuid import UUID, uuid4

import pytest

from protocol.errors import ChatError
from protocol.models import User
from storage.database import Connection, Database
from storage.history import NEWEST, Cursor, Side, first_id_at, page
from tests.storage.rows import NOW, add_chatroom, add_user

SEQS = 40
OTHERS = {1, 2, 3, 9, 17, 18, 19, 20, 21, 30, 39, 40}
"""What is no message: at both ends, alone, and in a row that is longer than a page."""
MESSAGES = [seq for seq in range(1, SEQS + 1) if seq not in OTHERS]


class Told(NamedTuple):
    """A chatroom with these events, one of its members, and the id of each message by its seq."""

    room: UUID
    member: UUID
    ids: dict[int, UUID]


def moment(seq: int) -> timedelta:
    """When a message was written, after NOW: one each 10 ms."""
    return timedelta(milliseconds=10 * seq)


async def add_events(conn: Connection) -> Told:
    """A chatroom with these events."""
    sender = User(id=uuid4(), username="ann", display_name="Ann")
    await add_user(conn, sender)
    room = await add_chatroom(conn, sender.id)
    await conn.execute(
        "UPDATE chatrooms SET last_seq = $2, message_count = $3 WHERE id = $1", room, SEQS, len(MESSAGES)
    )
    ids = {seq: UUID(int=first_id_at(NOW + moment(seq)).int + seq) for seq in MESSAGES}
    await conn.executemany(
        "INSERT INTO events (chatroom_id, seq, kind, message_id, created_at) VALUES ($1, $2, $3, $4, $5)",
        [
            (room, seq, "message_received" if seq in ids else "user_joined", ids.get(seq), NOW)
            for seq in range(1, SEQS + 1)
        ],
    )
    await conn.executemany(
        """INSERT INTO messages (chatroom_id, seq, id, sender_id, message_type, key_version, nonce, sealed, created_at)
           VALUES ($1, $2, $3, $4, 'text', 1, '', '', $5)""",
        [(room, seq, id, sender.id, NOW + moment(seq)) for seq, id in ids.items()],
    )
    return Told(room, sender.id, ids)


async def seqs(conn: Connection, told: Told, side: Side, cursor: Cursor, limit: int, skip: int = 0) -> list[int]:
    """What is on a page, for a member."""
    found = await page(conn, told.room, told.member, side, cursor, limit, skip)
    assert found.total == len(MESSAGES)
    return [row["seq"] for row in found.rows]


async def test_pages_skip_messages_and_nothing_else(db: Database) -> None:
    """A page has the messages that follow those of the pages before it, from wherever it is read, in each direction."""
    cursors = (0, 1, 2, 10, 18, 21, 22, 31, 40, 41, 1_000, NEWEST)
    async with db.transaction() as conn:
        told = await add_events(conn)
        for cursor, skip in product(cursors, (0, 1, 4, 13, 27, 28, 29, 100)):
            below = [seq for seq in MESSAGES[::-1] if seq < cursor]
            assert await seqs(conn, told, "before", cursor, 4, skip) == below[skip : skip + 4]
            above = [seq for seq in MESSAGES if seq > cursor]
            assert await seqs(conn, told, "after", cursor, 4, skip) == above[skip : skip + 4]


async def test_messages_and_moments_as_cursors(db: Database) -> None:
    """A message and its moment mean the same border as its seq, and so does a moment shortly before or after it."""
    async with db.transaction() as conn:
        told = await add_events(conn)
        for seq, skip in product((MESSAGES[0], 16, 22, MESSAGES[-1]), (0, 3)):
            below = [other for other in MESSAGES[::-1] if other < seq][skip : skip + 5]
            above = [other for other in MESSAGES if other > seq][skip : skip + 5]
            written = NOW + moment(seq)
            for cursor in (told.ids[seq], written):
                assert await seqs(conn, told, "before", cursor, 5, skip) == below
                assert await seqs(conn, told, "after", cursor, 5, skip) == above
            assert await seqs(conn, told, "before", written - moment(1) / 2, 5, skip) == below
            assert await seqs(conn, told, "after", written + moment(1) / 2, 5, skip) == above


@pytest.mark.parametrize("which", ["nobody", "no room", "deleted"])
async def test_strangers_learn_nothing_from_a_cursor(db: Database, which: str) -> None:
    """Whoever is no member, or asks for a chatroom that is gone or never was, is told so, whatever the cursor is."""
    async with db.transaction() as conn:
        told = await add_events(conn)
        room = uuid4() if which == "no room" else told.room
        user = uuid4() if which == "nobody" else told.member
        if which == "deleted":
            await conn.execute("UPDATE chatrooms SET deleted_at = now() WHERE id = $1", room)
        sides: tuple[Side, Side] = ("before", "after")
        cursors: tuple[Cursor, ...] = (0, NEWEST, told.ids[5], uuid4(), NOW)
        for side, cursor in product(sides, cursors):
            with pytest.raises(ChatError) as refused:
                await page(conn, room, user, side, cursor, 5, 0)
            assert refused.value.code == "CHATROOM_NOT_FOUND"


async def test_a_chatroom_without_messages(db: Database) -> None:
    """Its pages are empty, and a message of another chatroom is no cursor in it."""
    async with db.transaction() as conn:
        told = await add_events(conn)
        empty = await add_chatroom(conn, told.member)
        for cursor in (0, NEWEST, NOW):
            assert await page(conn, empty, told.member, "before", cursor, 5, 0) == ((), 0)
            assert await page(conn, empty, told.member, "after", cursor, 5, 0) == ((), 0)
        with pytest.raises(ChatError) as refused:
            await page(conn, empty, told.member, "after", told.ids[5], 5, 0)
        assert (refused.value.code, refused.value.details) == ("MESSAGE_NOT_FOUND", {"field": "after"})
