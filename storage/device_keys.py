"""The public keys of users' devices. Private ones never come here."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from protocol.models import DeviceKey
from storage.database import Connection


def device_key(row: Any) -> DeviceKey:
    """A row of device_keys."""
    return DeviceKey(
        user_id=row["user_id"],
        device_id=row["device_id"],
        name=row["name"],
        public_key=row["public_key"],
        created_at=row["created_at"],
    )


async def of_user(conn: Connection, user_id: UUID) -> tuple[DeviceKey, ...]:
    """All of a user's, oldest first."""
    rows = await conn.fetch("SELECT * FROM device_keys WHERE user_id = $1 ORDER BY created_at, device_id", user_id)
    return tuple(device_key(row) for row in rows)


async def lock_user(conn: Connection, user_id: UUID) -> tuple[DeviceKey, ...]:
    """As `of_user`; until the transaction ends nobody else changes the user's devices."""
    await conn.execute("SELECT 1 FROM users WHERE id = $1 FOR NO KEY UPDATE", user_id)
    return await of_user(conn, user_id)


async def put(conn: Connection, key: DeviceKey) -> None:
    """Inserts or replaces one."""
    await conn.execute(
        """INSERT INTO device_keys (user_id, device_id, name, public_key, created_at) VALUES ($1, $2, $3, $4, $5)
           ON CONFLICT (user_id, device_id) DO UPDATE SET name = $3, public_key = $4, created_at = $5""",
        key.user_id,
        key.device_id,
        key.name,
        key.public_key,
        key.created_at,
    )


async def delete_all(conn: Connection, user_id: UUID) -> list[str]:
    """Removes all of a user's, and returns their ids."""
    rows = await conn.fetch("DELETE FROM device_keys WHERE user_id = $1 RETURNING device_id", user_id)
    return [row["device_id"] for row in rows]


async def delete(conn: Connection, user_id: UUID, device_id: str) -> bool:
    """Removes one; whether there was one."""
    gone = await conn.fetchval(
        "DELETE FROM device_keys WHERE user_id = $1 AND device_id = $2 RETURNING true", user_id, device_id
    )
    return gone is not None
