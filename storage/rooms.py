"""Chatrooms, their members, and read positions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple
from uuid import UUID

from protocol.models import FOREVER, Chatroom, ChatroomState, Member, Role, User
from storage.database import Connection

UNREAD_COUNTED = 1_000
"""Unread messages are counted up to this many; nobody reads a larger number."""

_CHATROOM = """c.id, c.kind, c.name, c.description, c.owner_id, c.is_private, c.max_members, c.member_count,
    c.encryption_enabled, c.auto_summary_enabled, c.summary_threshold, c.last_seq, c.created_at, c.updated_at,
    c.avatar_url"""

_UNREAD = f"""(SELECT count(*) FROM (SELECT 1 FROM messages x WHERE x.chatroom_id = m.chatroom_id
    AND x.seq > m.last_read_seq AND x.sender_id <> m.user_id LIMIT {UNREAD_COUNTED}) y)"""

_NAME = """CASE WHEN c.kind = 'direct' THEN coalesce((
        SELECT u.display_name FROM members o JOIN users u ON u.id = o.user_id
        WHERE o.chatroom_id = c.id AND o.user_id <> m.user_id LIMIT 1), c.name) ELSE c.name END"""
"""A direct chatroom bears the other one's name."""

_AVATAR = """CASE WHEN c.kind = 'direct' THEN (
        SELECT u.avatar_url FROM members o JOIN users u ON u.id = o.user_id
        WHERE o.chatroom_id = c.id AND o.user_id <> m.user_id LIMIT 1) ELSE c.avatar_url END"""
"""And has the other one's picture."""

_SEEN = _CHATROOM.replace("c.name", f"{_NAME} AS name").replace("c.avatar_url", f"{_AVATAR} AS avatar_url")
"""A chatroom as one of its members sees it."""


class Voice(NamedTuple):
    """Until when a member is muted, if ever, and the time it is by the same clock."""

    muted_until: datetime | None
    now: datetime


def chatroom(row: Any) -> Chatroom:
    """A row of _CHATROOM columns as a Chatroom."""
    return Chatroom(
        id=row["id"],
        kind=row["kind"],
        name=row["name"],
        description=row["description"],
        owner_id=row["owner_id"],
        is_private=row["is_private"],
        max_members=row["max_members"],
        member_count=row["member_count"],
        encryption_enabled=row["encryption_enabled"],
        auto_summary_enabled=row["auto_summary_enabled"],
        summary_threshold=row["summary_threshold"],
        seq=row["last_seq"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        avatar_url=row["avatar_url"],
    )


def member(row: Any) -> Member:
    """A row of members joined with users as a Member."""
    return Member(
        user_id=row["user_id"],
        username=row["username"],
        display_name=row["display_name"],
        avatar_url=row["avatar_url"],
        role=row["role"],
        joined_at=row["joined_at"],
        last_read_seq=row["last_read_seq"],
        last_read_at=row["last_read_at"],
        muted_until=row["muted_until"],
        is_bot=row["is_bot"],
    )


# --- what a session opens with ---------------------------------------------------------------


async def chatroom_ids_of(conn: Connection, user_ids: Sequence[UUID]) -> dict[UUID, list[UUID]]:
    """The chatrooms that each user is a member of, if any."""
    rows = await conn.fetch(
        "SELECT user_id, array_agg(chatroom_id) FROM members WHERE user_id = ANY($1::uuid[]) GROUP BY user_id",
        user_ids,
    )
    return dict(map(tuple, rows))


async def states_of(conn: Connection, user_ids: Sequence[UUID]) -> dict[UUID, list[Any]]:
    """Where each user's chatrooms stand, if there are any: rows for `chatroom_state`."""
    rows = await conn.fetch(
        f"""SELECT m.user_id, m.role, m.last_read_seq, c.id, c.kind, c.last_seq, {_NAME} AS name,
                   {_AVATAR} AS avatar_url
            FROM members m JOIN chatrooms c ON c.id = m.chatroom_id
            WHERE m.user_id = ANY($1::uuid[]) AND c.deleted_at IS NULL ORDER BY m.user_id, c.id""",
        user_ids,
    )
    return {user_id: list(states) for user_id, states in groupby(rows, key=itemgetter("user_id"))}


def chatroom_state(row: Any) -> ChatroomState:
    """Where a chatroom stands, as one of its members sees it."""
    return ChatroomState(
        id=row["id"],
        kind=row["kind"],
        name=row["name"],
        role=row["role"],
        seq=row["last_seq"],
        last_read_seq=row["last_read_seq"],
        avatar_url=row["avatar_url"],
    )


# --- reading ---------------------------------------------------------------------------------


async def role_of(conn: Connection, chatroom_id: UUID, user_id: UUID) -> Role | None:
    """The user's role, or None for someone who is not a member."""
    role: Role | None = await conn.fetchval(
        "SELECT role FROM members WHERE chatroom_id = $1 AND user_id = $2", chatroom_id, user_id
    )
    return role


async def voice_of(conn: Connection, chatroom_id: UUID, user_id: UUID) -> Voice | None:
    """Whether a member is muted now, or None for someone who is not a member."""
    row = await conn.fetchrow(
        """SELECT muted_until, statement_timestamp() AS now FROM members WHERE chatroom_id = $1 AND user_id = $2""",
        chatroom_id,
        user_id,
    )
    return Voice(row["muted_until"], row["now"]) if row else None


async def get(conn: Connection, chatroom_id: UUID) -> Chatroom | None:
    """A chatroom that is not deleted."""
    row = await conn.fetchrow(
        f"SELECT {_CHATROOM} FROM chatrooms c WHERE c.id = $1 AND c.deleted_at IS NULL", chatroom_id
    )
    return chatroom(row) if row else None


async def get_for(conn: Connection, chatroom_id: UUID, user_id: UUID) -> tuple[Chatroom, Role] | None:
    """A chatroom as one of its members sees it, and the member's role; None for everyone else."""
    row = await conn.fetchrow(
        f"""SELECT {_SEEN}, m.role
            FROM chatrooms c JOIN members m ON m.chatroom_id = c.id
            WHERE c.id = $1 AND m.user_id = $2 AND c.deleted_at IS NULL""",
        chatroom_id,
        user_id,
    )
    return (chatroom(row), row["role"]) if row else None


async def members_of(conn: Connection, chatroom_id: UUID, user_ids: Sequence[UUID] | None = None) -> tuple[Member, ...]:
    """All members, the longest-serving first, or those of them that are named."""
    rows = await conn.fetch(
        """SELECT m.*, u.username, u.display_name, u.avatar_url, u.is_bot
           FROM members m JOIN users u ON u.id = m.user_id
           WHERE m.chatroom_id = $1 AND ($2::uuid[] IS NULL OR m.user_id = ANY($2)) ORDER BY m.joined_at, m.user_id""",
        chatroom_id,
        user_ids,
    )
    return tuple(member(row) for row in rows)


async def member_ids(conn: Connection, chatroom_id: UUID) -> list[UUID]:
    """The ids of all members."""
    rows = await conn.fetch("SELECT user_id FROM members WHERE chatroom_id = $1", chatroom_id)
    return [row["user_id"] for row in rows]


async def list_for(conn: Connection, user_id: UUID, search: str | None, limit: int, skip: int) -> tuple[list[Any], int]:
    """A page of a user's chatrooms, the most recently active first, and how many there are in all."""
    pattern = None if search is None else f"%{_escape_like(search)}%"
    where = f"m.user_id = $1 AND c.deleted_at IS NULL AND ($2::text IS NULL OR {_NAME} ILIKE $2)"
    rows = await conn.fetch(
        f"""SELECT {_SEEN}, m.role, m.joined_at, m.last_read_seq,
                   {_UNREAD} AS unread_count
            FROM members m JOIN chatrooms c ON c.id = m.chatroom_id
            LEFT JOIN events e ON e.chatroom_id = c.id AND e.seq = c.last_seq
            WHERE {where} ORDER BY e.created_at DESC, c.id LIMIT $3 OFFSET $4""",
        user_id,
        pattern,
        limit,
        skip,
    )
    total: int = await conn.fetchval(
        f"SELECT count(*) FROM members m JOIN chatrooms c ON c.id = m.chatroom_id WHERE {where}", user_id, pattern
    )
    return rows, total


def _escape_like(text: str) -> str:
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


async def existing_users(conn: Connection, user_ids: Iterable[UUID]) -> dict[UUID, User]:
    """Those of the users who exist and are active."""
    rows = await conn.fetch(
        "SELECT id, username, display_name, avatar_url FROM users WHERE id = ANY($1::uuid[]) AND is_active",
        list(user_ids),
    )
    return {row["id"]: User(**dict(row)) for row in rows}


# --- writing, under the chatroom's lock ------------------------------------------------------


async def insert(conn: Connection, room: Chatroom) -> None:
    """A new chatroom without members; the journal counts its first event."""
    await conn.execute(
        """INSERT INTO chatrooms (id, kind, name, description, owner_id, is_private, max_members, member_count,
               encryption_enabled, auto_summary_enabled, summary_threshold, last_seq, created_at, updated_at)
           VALUES ($1, $2, $3, $4, $5, $6, $7, 0, $8, $9, $10, 0, $11, $11)""",
        room.id,
        room.kind,
        room.name,
        room.description,
        room.owner_id,
        room.is_private,
        room.max_members,
        room.encryption_enabled,
        room.auto_summary_enabled,
        room.summary_threshold,
        room.created_at,
    )


async def claim_direct(conn: Connection, one: UUID, other: UUID, chatroom_id: UUID) -> UUID:
    """The direct chatroom of two users: `chatroom_id`, unless there was one before."""
    lower, higher = sorted((one, other))
    await conn.execute(
        """INSERT INTO direct_chatrooms (lower_user_id, higher_user_id, chatroom_id) VALUES ($1, $2, $3)
           ON CONFLICT DO NOTHING""",
        lower,
        higher,
        chatroom_id,
    )
    found: UUID = await conn.fetchval(
        "SELECT chatroom_id FROM direct_chatrooms WHERE lower_user_id = $1 AND higher_user_id = $2", lower, higher
    )
    return found


async def add_members(
    conn: Connection, chatroom_id: UUID, roles: dict[UUID, Role], now: datetime, last_read_seq: int
) -> list[UUID]:
    """Adds users with their roles and counts them; returns those who were not members before."""
    rows = await conn.fetch(
        """INSERT INTO members (chatroom_id, user_id, role, joined_at, last_read_seq)
           SELECT $1, k.user_id, k.role, $4, $5 FROM unnest($2::uuid[], $3::text[]) AS k(user_id, role)
           ON CONFLICT DO NOTHING RETURNING user_id""",
        chatroom_id,
        list(roles),
        list(roles.values()),
        now,
        last_read_seq,
    )
    await _count_members(conn, chatroom_id, len(rows))
    return [row["user_id"] for row in rows]


async def remove_member(conn: Connection, chatroom_id: UUID, user_id: UUID) -> None:
    """Ends a membership."""
    await conn.execute("DELETE FROM members WHERE chatroom_id = $1 AND user_id = $2", chatroom_id, user_id)
    await _count_members(conn, chatroom_id, -1)


async def _count_members(conn: Connection, chatroom_id: UUID, change: int) -> None:
    await conn.execute("UPDATE chatrooms SET member_count = member_count + $2 WHERE id = $1", chatroom_id, change)


async def set_role(conn: Connection, chatroom_id: UUID, user_id: UUID, role: Role) -> None:
    """Gives a member a role. An owner, whom nobody could unmute, is not muted any more."""
    await conn.execute(
        """UPDATE members SET role = $3, muted_until = CASE WHEN $3 = 'owner' THEN NULL ELSE muted_until END
           WHERE chatroom_id = $1 AND user_id = $2""",
        chatroom_id,
        user_id,
        role,
    )


async def set_owner(conn: Connection, chatroom_id: UUID, user_id: UUID) -> None:
    """Hands the chatroom to a member."""
    await conn.execute("UPDATE chatrooms SET owner_id = $2 WHERE id = $1", chatroom_id, user_id)
    await set_role(conn, chatroom_id, user_id, "owner")


async def mute(conn: Connection, chatroom_id: UUID, user_id: UUID, seconds: int | None) -> datetime:
    """Mutes a member for so many seconds of the database's clock, or without an end. Returns until when."""
    until: datetime = await conn.fetchval(
        """UPDATE members SET muted_until = coalesce(statement_timestamp() + make_interval(secs => $3), $4)
           WHERE chatroom_id = $1 AND user_id = $2 RETURNING muted_until""",
        chatroom_id,
        user_id,
        seconds,
        FOREVER,
    )
    return until


async def unmute(conn: Connection, chatroom_id: UUID, user_id: UUID) -> bool:
    """Ends a member's mute. False when there was none."""
    ended = await conn.fetchval(
        """UPDATE members SET muted_until = NULL
           WHERE chatroom_id = $1 AND user_id = $2 AND muted_until IS NOT NULL RETURNING true""",
        chatroom_id,
        user_id,
    )
    return bool(ended)


async def heir_of(conn: Connection, chatroom_id: UUID, owner_id: UUID) -> UUID | None:
    """Who gets a chatroom that its owner leaves: the longest-serving moderator, or else member."""
    heir: UUID | None = await conn.fetchval(
        """SELECT user_id FROM members WHERE chatroom_id = $1 AND user_id <> $2
           ORDER BY role = 'moderator' DESC, joined_at, user_id LIMIT 1""",
        chatroom_id,
        owner_id,
    )
    return heir


async def update(conn: Connection, chatroom_id: UUID, changes: dict[str, Any], now: datetime) -> None:
    """Sets the named columns; the names are those of Chatroom's fields, never a client's."""
    columns = ", ".join(f"{name} = ${place}" for place, name in enumerate(changes, start=3))
    await conn.execute(
        f"UPDATE chatrooms SET updated_at = $2, {columns} WHERE id = $1", chatroom_id, now, *changes.values()
    )


async def mark_deleted(conn: Connection, chatroom_id: UUID, now: datetime) -> None:
    """Deletes a chatroom for everyone: its members and its keys go, so its messages can never be opened again."""
    await conn.execute("UPDATE chatrooms SET deleted_at = $2, member_count = 0 WHERE id = $1", chatroom_id, now)
    await conn.execute("DELETE FROM members WHERE chatroom_id = $1", chatroom_id)
    await conn.execute("DELETE FROM direct_chatrooms WHERE chatroom_id = $1", chatroom_id)
    await conn.execute("DELETE FROM chatroom_keys WHERE chatroom_id = $1", chatroom_id)
    await conn.execute("DELETE FROM wrapped_keys WHERE chatroom_id = $1", chatroom_id)
    await conn.execute("DELETE FROM bans WHERE chatroom_id = $1", chatroom_id)
    # Its blob has no row then, and the sweep finds it.
    await conn.execute("DELETE FROM files WHERE chatroom_id = $1 AND purpose = 'avatar'", chatroom_id)


async def advance_read(conn: Connection, chatroom_id: UUID, user_id: UUID, seq: int, now: datetime) -> Any:
    """Moves a member's read position forward, never past the newest event.

    Returns the row with `last_read_seq`, `moved` and `unread_count`, or None for someone who is not a member.
    """
    return await conn.fetchrow(
        f"""WITH before AS (
                SELECT m.last_read_seq, least($3, c.last_seq) AS seq
                FROM members m JOIN chatrooms c ON c.id = m.chatroom_id
                WHERE m.chatroom_id = $1 AND m.user_id = $2 FOR UPDATE OF m
            ), m AS (
                UPDATE members t SET last_read_seq = greatest(t.last_read_seq, b.seq), last_read_at = $4
                FROM before b WHERE t.chatroom_id = $1 AND t.user_id = $2
                RETURNING t.chatroom_id, t.user_id, t.last_read_seq
            )
            SELECT m.last_read_seq, m.last_read_seq > b.last_read_seq AS moved, {_UNREAD} AS unread_count
            FROM m, before b""",
        chatroom_id,
        user_id,
        seq,
        now,
    )


async def discard(conn: Connection, chatroom_id: UUID) -> None:
    """Takes back a chatroom that was inserted in this very transaction."""
    await conn.execute("DELETE FROM chatrooms WHERE id = $1", chatroom_id)
