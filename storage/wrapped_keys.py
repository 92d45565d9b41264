"""Versions of the key that a chatroom's members share, each wrapped for one device; the server can open none.

Everything that writes needs the chatroom's lock.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from protocol.commands import PutChatroomKeys
from protocol.models import KeyWrap, MemberDevice, WrappedKey
from storage.database import Connection

PAGE = 200
"""Versions in one answer."""

DEVICES = 2_000
"""Devices in one answer: about half a megabyte."""

_STALE = """SELECT w.chatroom_id, w.user_id, w.device_id FROM wrapped_keys w
    LEFT JOIN device_keys d USING (user_id, device_id) WHERE d.public_key IS DISTINCT FROM w.public_key"""


# --- reading ---------------------------------------------------------------------------------


async def versions_of(conn: Connection, chatroom_id: UUID, user_id: UUID) -> Any:
    """`member_key_version` and `min_member_key_version` for a member; None for everyone else."""
    return await conn.fetchrow(
        """SELECT c.member_key_version, c.min_member_key_version
           FROM chatrooms c JOIN members m ON m.chatroom_id = c.id
           WHERE c.id = $1 AND m.user_id = $2 AND c.deleted_at IS NULL""",
        chatroom_id,
        user_id,
    )


async def for_device(
    conn: Connection, chatroom_id: UUID, user_id: UUID, device_id: str, before: int | None
) -> list[WrappedKey]:
    """The versions that were wrapped for a device's present key, newest first; one more than a page."""
    rows = await conn.fetch(
        """SELECT w.key_version, w.sender_id, w.sender_device_id, w.sender_public_key, w.wrapped_key, w.created_at
           FROM wrapped_keys w JOIN device_keys d USING (user_id, device_id, public_key)
           WHERE w.chatroom_id = $1 AND w.user_id = $2 AND w.device_id = $3 AND w.key_version < $4
           ORDER BY w.key_version DESC LIMIT $5""",
        chatroom_id,
        user_id,
        device_id,
        before if before is not None else 2**31 - 1,
        PAGE + 1,
    )
    return [WrappedKey(**dict(row)) for row in rows]


async def devices_of(conn: Connection, chatroom_id: UUID, user_id: UUID, version: int) -> tuple[MemberDevice, ...]:
    """The devices of all members: this user's first, then those that lack the version.

    It was made when its first wraps were stored; who became a member later is a newcomer.
    """
    rows = await conn.fetch(
        """SELECT d.user_id, d.device_id, d.public_key, w.key_version IS NOT NULL AS has_key,
                  coalesce(m.joined_at > min(w.created_at) OVER (), false) AS is_newcomer
           FROM members m JOIN device_keys d ON d.user_id = m.user_id
           LEFT JOIN wrapped_keys w ON w.chatroom_id = m.chatroom_id AND w.user_id = d.user_id
                AND w.device_id = d.device_id AND w.key_version = $2 AND w.public_key = d.public_key
           WHERE m.chatroom_id = $1 ORDER BY d.user_id <> $3, has_key, d.user_id, d.device_id LIMIT $4""",
        chatroom_id,
        version,
        user_id,
        DEVICES,
    )
    return tuple(MemberDevice(**dict(row)) for row in rows)


async def stored(conn: Connection, chatroom_id: UUID, user_id: UUID, device_id: str, version: int) -> str | None:
    """A version as it was wrapped for a device's present key."""
    wrapped: str | None = await conn.fetchval(
        """SELECT w.wrapped_key FROM wrapped_keys w JOIN device_keys d USING (user_id, device_id, public_key)
           WHERE w.chatroom_id = $1 AND w.user_id = $2 AND w.device_id = $3 AND w.key_version = $4""",
        chatroom_id,
        user_id,
        device_id,
        version,
    )
    return wrapped


# --- writing ---------------------------------------------------------------------------------


async def lock_devices(conn: Connection, chatroom_id: UUID, keys: Sequence[tuple[UUID, str, str]]) -> int:
    """How many of these (user, device, public key) are a member's present ones; they stay so until the commit."""
    rows = await conn.fetch(
        """SELECT 1 FROM unnest($2::uuid[], $3::text[], $4::text[]) AS k(user_id, device_id, public_key)
           JOIN members m ON m.chatroom_id = $1 AND m.user_id = k.user_id
           JOIN device_keys d ON (d.user_id, d.device_id, d.public_key) = (k.user_id, k.device_id, k.public_key)
           ORDER BY d.user_id, d.device_id FOR SHARE OF d""",
        chatroom_id,
        *(list(column) for column in zip(*keys, strict=True)),
    )
    return len(rows)


async def add(conn: Connection, command: PutChatroomKeys, sender_id: UUID, now: datetime) -> int:
    """Stores the wraps that their devices do not have yet, and returns how many those were."""
    rows = await conn.fetch(
        """INSERT INTO wrapped_keys (chatroom_id, user_id, device_id, key_version, public_key, wrapped_key,
               sender_id, sender_device_id, sender_public_key, created_at)
           SELECT $1, k.user_id, k.device_id, $2, k.public_key, k.wrapped_key, $3, $4, $5, $6
           FROM unnest($7::uuid[], $8::text[], $9::text[], $10::text[])
                AS k(user_id, device_id, public_key, wrapped_key)
           ON CONFLICT DO NOTHING RETURNING 1""",
        command.chatroom_id,
        command.key_version,
        sender_id,
        command.sender_device_id,
        command.sender_public_key,
        now,
        *_columns(command.keys),
    )
    return len(rows)


def _columns(keys: Sequence[KeyWrap]) -> tuple[list[object], ...]:
    names = ("user_id", "device_id", "public_key", "wrapped_key")
    return tuple([getattr(key, name) for key in keys] for name in names)


async def set_version(conn: Connection, chatroom_id: UUID, version: int) -> None:
    """The chatroom has a newer key."""
    await conn.execute("UPDATE chatrooms SET member_key_version = $2 WHERE id = $1", chatroom_id, version)


async def retire(conn: Connection, chatroom_id: UUID, version: int) -> None:
    """This version and older ones may not be used any more."""
    await conn.execute(
        "UPDATE chatrooms SET min_member_key_version = greatest(min_member_key_version, $2 + 1) WHERE id = $1",
        chatroom_id,
        version,
    )


async def forget_member(conn: Connection, chatroom_id: UUID, user_id: UUID) -> None:
    """Removes what was wrapped for someone who is no longer a member."""
    await conn.execute("DELETE FROM wrapped_keys WHERE chatroom_id = $1 AND user_id = $2", chatroom_id, user_id)


# --- devices that are gone -------------------------------------------------------------------


async def stale(conn: Connection) -> list[tuple[UUID, UUID, str]]:
    """(chatroom, user, device) of all keys that were wrapped for what is no device's key any more."""
    return [tuple(row) for row in await conn.fetch(f"SELECT DISTINCT * FROM ({_STALE}) s")]


async def stale_of(conn: Connection, user_id: UUID, device_id: str) -> list[UUID]:
    """The chatrooms of a user that have keys wrapped for what the device's key was before."""
    rows = await conn.fetch(
        f"""SELECT DISTINCT s.chatroom_id FROM members m
            JOIN ({_STALE}) s ON s.chatroom_id = m.chatroom_id AND s.user_id = m.user_id AND s.device_id = $2
            WHERE m.user_id = $1""",
        user_id,
        device_id,
    )
    return [row["chatroom_id"] for row in rows]


async def drop_stale(conn: Connection, chatroom_id: UUID, user_id: UUID, device_id: str) -> int:
    """Removes what was wrapped for the device's former keys; the newest version among it, 0 for none."""
    rows = await conn.fetch(
        """DELETE FROM wrapped_keys WHERE chatroom_id = $1 AND user_id = $2 AND device_id = $3
             AND public_key IS DISTINCT FROM (
                 SELECT public_key FROM device_keys WHERE user_id = $2 AND device_id = $3)
           RETURNING key_version""",
        chatroom_id,
        user_id,
        device_id,
    )
    return max((row["key_version"] for row in rows), default=0)
