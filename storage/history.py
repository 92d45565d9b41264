"""Pages of history: who may read one, where it begins and what is on it are one question to the database."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, NamedTuple, TypeAlias
from uuid import UUID

from protocol.errors import ChatError
from storage.database import Connection
from storage.messages import OPENED, SENDER

Cursor: TypeAlias = int | UUID | datetime
"""Where a page begins: at a seq, at a message, or at a moment."""

Side: TypeAlias = Literal["before", "after"]
"""Of the cursor. Messages before it come newest first, those after it oldest first."""

NEWEST = 2**63 - 1
"""A seq behind all messages."""

_MILLISECOND = timedelta(milliseconds=1)
_LAST = datetime.max.replace(tzinfo=UTC) - _MILLISECOND  # the last moment that has another one after it


class Page(NamedTuple):
    """Rows for `messages.open_rows`, and how many messages the chatroom has in all."""

    rows: Sequence[Any]
    total: int


_MESSAGE = "(SELECT seq FROM messages WHERE chatroom_id = $1 AND id = $3)"
_MOMENT = "coalesce((SELECT seq FROM messages WHERE chatroom_id = $1 AND id < $3 ORDER BY id DESC LIMIT 1), 0)"
_BORDERS: dict[Side, dict[type[Cursor], str]] = {
    "before": {int: "least($3, c.last_seq + 1)", UUID: _MESSAGE, datetime: f"{_MOMENT} + 1"},
    "after": {int: "least($3, c.last_seq)", UUID: _MESSAGE, datetime: _MOMENT},
}
"""The seq that a cursor means; null for a message that is not there. That of a moment is found by a message id."""


def _query(border: str, passed: str, begins: str, direction: str) -> str:
    """A page from a border on in one direction. Every seq is a message or another event, so that skipping $5 messages
    is skipping as many seqs, and then as many messages as other events were among them: those alone are counted.
    """
    return f"""
        WITH room AS MATERIALIZED (
            SELECT c.message_count, {border} AS border FROM chatrooms c JOIN members k ON k.chatroom_id = c.id
            WHERE c.id = $1 AND k.user_id = $2 AND c.deleted_at IS NULL
        )
        SELECT room.message_count, room.border, m.*, {SENDER} FROM room LEFT JOIN LATERAL (
            SELECT {OPENED} FROM messages WHERE chatroom_id = $1 AND {begins} ORDER BY seq {direction} LIMIT $4 OFFSET (
                SELECT count(*) FROM events WHERE chatroom_id = $1 AND message_id IS NULL AND {passed})
        ) m ON true LEFT JOIN users u ON u.id = m.sender_id ORDER BY m.seq {direction}"""


def _query_before(border: str) -> str:
    passed = "seq < room.border AND seq >= room.border - $5::bigint"
    return _query(border, passed, "seq < room.border - $5::bigint", "DESC")


def _query_after(border: str) -> str:
    passed = "seq > room.border AND seq <= room.border + $5::bigint"
    return _query(border, passed, "seq > room.border + $5::bigint", "ASC")


_QUERIES = {("before", kind): _query_before(border) for kind, border in _BORDERS["before"].items()} | {
    ("after", kind): _query_after(border) for kind, border in _BORDERS["after"].items()
}


async def page(
    conn: Connection, chatroom_id: UUID, user_id: UUID, side: Side, cursor: Cursor, limit: int, skip: int
) -> Page:
    """At most `limit` messages on one side of a cursor, after skipping `skip`, as a member may read them.

    Raises ChatError CHATROOM_NOT_FOUND for everyone else, and MESSAGE_NOT_FOUND for a cursor that is no message there.
    """
    kind, value = _bound(side, cursor)
    rows = await conn.fetch(_QUERIES[side, kind], chatroom_id, user_id, value, limit, skip)
    if not rows:
        raise ChatError("CHATROOM_NOT_FOUND")
    if rows[0]["border"] is None:
        raise ChatError("MESSAGE_NOT_FOUND", details={"field": side})
    return Page(rows if rows[0]["id"] is not None else (), rows[0]["message_count"])


def _bound(side: Side, cursor: Cursor) -> tuple[type[Cursor], int | UUID]:
    """The kind of a cursor, and its value in a query. A moment is a message id, since those begin with their time."""
    if not isinstance(cursor, datetime):
        return (int if isinstance(cursor, int) else UUID), cursor
    return datetime, first_id_at(cursor if side == "before" else min(cursor, _LAST) + _MILLISECOND)


def first_id_at(time: datetime) -> UUID:
    """The least UUIDv7 of a moment (RFC 9562, 5.7: they begin with milliseconds); all ids made earlier are below it."""
    milliseconds = max(0, int(time.timestamp() * 1000))
    return UUID(int=(milliseconds << 80) & ((1 << 128) - 1))
