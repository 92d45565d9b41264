"""When a chatroom's members need a new key: a member has gone, or a device of one."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from gateway.services import Services
from protocol.events import KeyRotationNeeded
from protocol.models import RotationReason
from storage import device_keys, wrapped_keys
from storage.database import Connection
from storage.events import CommittedEvent
from storage.flights import Changed, RoomRow


async def member_gone(
    conn: Connection, room: RoomRow, user_id: UUID, place: int, reason: RotationReason
) -> list[CommittedEvent]:
    """Takes a former member's keys; where there is a key, an event at `last_seq` + `place` says not to use it."""
    if room.member_key_version == 0:
        return []
    await wrapped_keys.forget_member(conn, room.id, user_id)
    return [await _retire(conn, room, place, reason)]


async def _retire(conn: Connection, room: RoomRow, place: int, reason: RotationReason) -> CommittedEvent:
    await wrapped_keys.retire(conn, room.id, room.member_key_version)
    data = KeyRotationNeeded(chatroom_id=room.id, key_version=room.member_key_version, reason=reason)
    return CommittedEvent(room.id, room.last_seq + place, "key_rotation_needed", data)


async def device_gone(services: Services, user_id: UUID, device_id: str, reason: RotationReason) -> bool:
    """Does the same in each chatroom for a device whose key was deleted or replaced; whether there was any.

    What is still to be done stands in the database: the keys that are wrapped for a former key.
    """
    async with services.database.acquire() as conn:
        chatroom_ids = await wrapped_keys.stale_of(conn, user_id, device_id)
    for chatroom_id in chatroom_ids:
        await _device_gone(services, chatroom_id, user_id, device_id, reason)
    return bool(chatroom_ids)


async def _device_gone(
    services: Services, chatroom_id: UUID, user_id: UUID, device_id: str, reason: RotationReason
) -> None:
    async def change(conn: Connection, room: RoomRow | None, _: datetime) -> Changed:
        newest = await wrapped_keys.drop_stale(conn, chatroom_id, user_id, device_id)
        if room is None or newest < room.min_member_key_version:
            return Changed(None)
        return Changed(None, [await _retire(conn, room, 1, reason)])

    await services.journal.change(chatroom_id, change)


async def finish(services: Services) -> None:
    """Tells the chatrooms that were not told, because the process ended in the middle of it."""
    async with services.database.acquire() as conn:
        stale = await wrapped_keys.stale(conn)
        present = {user_id: await device_keys.of_user(conn, user_id) for _, user_id, _ in stale}
    for chatroom_id, user_id, device_id in stale:
        replaced = any(key.device_id == device_id for key in present[user_id])
        reason: RotationReason = "device_replaced" if replaced else "device_deleted"
        await _device_gone(services, chatroom_id, user_id, device_id, reason)
