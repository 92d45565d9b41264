"""Durable events read back: for sync, for a room whose live events were lost, and for the sweep that notices."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import msgspec
from msgspec import Struct

from protocol.events import DURABLE, Event, MessageReceived
from protocol.models import Message
from storage import messages
from storage.database import Connection, Database
from storage.room_keys import RoomKeys


class CommittedEvent(Struct, frozen=True):
    """A durable event on its way to those who hear the chatroom. `adds` begin to hear it, `removes` cease to.

    `data` of a kind that only a newer Parley knows is passed on as it is: clients skip what they do not know.
    """

    chatroom_id: UUID
    seq: int
    kind: str
    data: Event | dict[str, Any]
    adds: tuple[UUID, ...] = ()
    removes: tuple[UUID, ...] = ()


async def heads(conn: Connection, chatroom_ids: Sequence[UUID]) -> dict[UUID, int]:
    """The newest seq of each chatroom."""
    rows = await conn.fetch("SELECT id, last_seq FROM chatrooms WHERE id = ANY($1::uuid[])", list(chatroom_ids))
    return {row["id"]: row["last_seq"] for row in rows}


async def member_heads(conn: Connection, user_id: UUID, chatroom_ids: Sequence[UUID]) -> dict[UUID, int]:
    """The newest seq of those of the chatrooms that the user is a member of."""
    rows = await conn.fetch(
        """SELECT c.id, c.last_seq FROM chatrooms c JOIN members m ON m.chatroom_id = c.id AND m.user_id = $1
           WHERE c.id = ANY($2::uuid[]) AND c.deleted_at IS NULL""",
        user_id,
        list(chatroom_ids),
    )
    return {row["id"]: row["last_seq"] for row in rows}


async def read_after(
    database: Database, room_keys: RoomKeys, after: dict[UUID, int], limit: int
) -> dict[UUID, list[CommittedEvent]]:
    """Per chatroom the events above a seq, in order, at most `limit` of each."""
    async with database.acquire() as conn:
        rows = await conn.fetch(
            """SELECT e.* FROM unnest($1::uuid[], $2::bigint[]) AS k(chatroom_id, seq)
               CROSS JOIN LATERAL (SELECT * FROM events WHERE chatroom_id = k.chatroom_id AND seq > k.seq
                                   ORDER BY seq LIMIT $3) e
               ORDER BY e.chatroom_id, e.seq""",
            list(after),
            list(after.values()),
            limit,
        )
        texts = [row for row in rows if row["message_id"] is not None]
        sealed = await messages.by_ids(conn, [r["chatroom_id"] for r in texts], [r["message_id"] for r in texts])
    opened = await _open(sealed, room_keys)
    found: dict[UUID, list[CommittedEvent]] = defaultdict(list)
    for row in rows:
        found[row["chatroom_id"]].append(_event(row, opened))
    return found


async def _open(rows: list[Any], room_keys: RoomKeys) -> dict[UUID, Message]:
    opened: dict[UUID, Message] = {}
    for row in rows:
        key = await room_keys.get(row["chatroom_id"])
        opened[row["id"]] = messages.open_row(row, key)
    return opened


def _data(stored: Any, kind: type[Event]) -> Event:
    return msgspec.convert(stored, kind, strict=False)


def _event(row: Any, opened: dict[UUID, Message]) -> CommittedEvent:
    data: Event | dict[str, Any]
    if row["kind"] == "message_received":
        data = MessageReceived(message=opened[row["message_id"]])
    else:
        data = row["data"] if (known := DURABLE.get(row["kind"])) is None else _data(row["data"], known)
    return CommittedEvent(
        row["chatroom_id"], row["seq"], row["kind"], data, tuple(row["adds"] or ()), tuple(row["removes"] or ())
    )
