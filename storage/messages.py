"""Messages as they are stored: sealed rows, written by the journal and read as history."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from msgspec import Struct, structs

from protocol.models import Message, MessageType, User
from storage.database import Connection
from storage.room_keys import RoomKey


class StoredMessage(Struct, frozen=True, kw_only=True):
    """A row of `messages`. `sealed` opens only with the chatroom's key of `key_version`."""

    chatroom_id: UUID
    seq: int
    id: UUID
    sender_id: UUID
    client_id: str | None
    message_type: MessageType
    reply_to: UUID | None
    key_version: int
    nonce: bytes
    sealed: bytes
    created_at: datetime
    edited_at: datetime | None = None
    recalled_at: datetime | None = None
    file_ids: tuple[UUID, ...] = ()
    """Of a new message; what stands in an old one is in its body."""


COLUMNS = (
    "chatroom_id, seq, id, sender_id, client_id, message_type, reply_to, "
    "key_version, nonce, sealed, created_at, edited_at, recalled_at"
)
_QUALIFIED = ", ".join(f"m.{name.strip()}" for name in COLUMNS.split(","))
OPENED = "seq, id, sender_id, message_type, reply_to, key_version, nonce, sealed, created_at, edited_at, recalled_at"
SENDER = "u.username, u.display_name, u.avatar_url"
"""What a message is made of for its chatroom's members."""


def stored_message(row: Any) -> StoredMessage:
    """A row with all of COLUMNS as a StoredMessage."""
    return StoredMessage(
        chatroom_id=row["chatroom_id"],
        seq=row["seq"],
        id=row["id"],
        sender_id=row["sender_id"],
        client_id=row["client_id"],
        message_type=row["message_type"],
        reply_to=row["reply_to"],
        key_version=row["key_version"],
        nonce=row["nonce"],
        sealed=row["sealed"],
        created_at=row["created_at"],
        edited_at=row["edited_at"],
        recalled_at=row["recalled_at"],
    )


def open_message(stored: StoredMessage, sender: User, key: RoomKey) -> Message:
    """The message as members see it. Raises crypto.sealing.SealBroken when the row was tampered with."""
    return open_row(structs.asdict(sender) | structs.asdict(stored), key)


def open_rows(rows: Iterable[Any], key: RoomKey) -> tuple[Message, ...]:
    """Rows of OPENED and SENDER, all of one chatroom, as its members see them. Raises crypto.sealing.SealBroken."""
    return tuple([open_row(row, key) for row in rows])


def open_row(row: Any, key: RoomKey) -> Message:
    """The same of one row. A page has a hundred, so it is made in one step."""
    sender_id = row["sender_id"]
    body = key.unseal(row["id"], sender_id, row["key_version"], row["nonce"], row["sealed"])
    return Message(
        id=row["id"],
        chatroom_id=key.chatroom_id,
        seq=row["seq"],
        user_id=sender_id,
        username=row["username"],
        display_name=row["display_name"],
        avatar_url=row["avatar_url"],
        content=body.content,
        attachments=body.attachments,
        message_type=row["message_type"],
        reply_to=row["reply_to"],
        created_at=row["created_at"],
        edited_at=row["edited_at"],
        recalled_at=row["recalled_at"],
    )


async def newest_of_each(conn: Connection, chatroom_ids: Sequence[UUID]) -> list[Any]:
    """The newest message row of each chatroom that has one."""
    return await conn.fetch(
        f"""SELECT {_QUALIFIED}, {SENDER} FROM unnest($1::uuid[]) AS k(id)
            CROSS JOIN LATERAL (SELECT * FROM messages WHERE chatroom_id = k.id ORDER BY seq DESC LIMIT 1) m
            JOIN users u ON u.id = m.sender_id""",
        list(chatroom_ids),
    )


async def by_ids(conn: Connection, chatroom_ids: Sequence[UUID], message_ids: Sequence[UUID]) -> list[Any]:
    """Rows of the messages named by pairs of chatroom and message id."""
    return await conn.fetch(
        f"""SELECT {_QUALIFIED}, {SENDER} FROM unnest($1::uuid[], $2::uuid[]) AS k(chatroom_id, id)
            JOIN messages m USING (chatroom_id, id) JOIN users u ON u.id = m.sender_id""",
        list(chatroom_ids),
        list(message_ids),
    )


async def find(conn: Connection, chatroom_id: UUID, message_id: UUID) -> StoredMessage | None:
    """A message of a chatroom."""
    row = await conn.fetchrow(
        f"SELECT {COLUMNS} FROM messages WHERE chatroom_id = $1 AND id = $2", chatroom_id, message_id
    )
    return None if row is None else stored_message(row)


async def rewrite(conn: Connection, message: StoredMessage, sealed: tuple[int, bytes, bytes]) -> None:
    """Puts another body, with the version of its key and its nonce, into the place of a message's own."""
    await conn.execute(
        "UPDATE messages SET key_version = $3, nonce = $4, sealed = $5 WHERE chatroom_id = $1 AND seq = $2",
        message.chatroom_id,
        message.seq,
        *sealed,
    )


async def recall(conn: Connection, message: StoredMessage, empty: tuple[int, bytes, bytes], now: datetime) -> None:
    """Overwrites what is in a message, and says since when it is recalled."""
    await rewrite(conn, message, empty)
    await conn.execute(
        "UPDATE messages SET recalled_at = $3 WHERE chatroom_id = $1 AND seq = $2",
        message.chatroom_id,
        message.seq,
        now,
    )


async def seq_of(conn: Connection, chatroom_id: UUID, message_id: UUID) -> int | None:
    """The seq of a message, or None when the chatroom has none of this id."""
    seq: int | None = await conn.fetchval(
        "SELECT seq FROM messages WHERE chatroom_id = $1 AND id = $2", chatroom_id, message_id
    )
    return seq
