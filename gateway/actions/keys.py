"""End-to-end keys: public keys of devices, and chatrooms' keys wrapped for them. The server can open none of it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID

from crypto.end_to_end import KeyInvalid, decode_public_key
from gateway.actions import rotation
from gateway.actions.rooms import check_member
from gateway.actor import Actor
from gateway.services import Services
from protocol.commands import (
    DeleteDeviceKey,
    GetChatroomKeys,
    GetUserKeys,
    ListDeviceKeys,
    PutChatroomKeys,
    PutDeviceKey,
)
from protocol.errors import ChatError
from protocol.events import ChatroomKeysFetched, ChatroomKeysPut, DeviceKeyDeleted, DeviceKeyPut, DeviceKeysListed
from protocol.models import DeviceKey
from protocol.text import require_text
from storage import device_keys, rooms, users, wrapped_keys
from storage.database import Connection
from storage.flights import Changed, RoomRow

DEVICES = 10
"""Devices that a user may have: every key of every chatroom is wrapped for each of them."""

# --- rules -----------------------------------------------------------------------------------


def check_public_key(public_key: str) -> None:
    """A key whose secrets would be known to everybody is not passed on."""
    try:
        decode_public_key(public_key)
    except KeyInvalid as error:
        message = f"This is no X25519 key: {error}."
        raise ChatError("VALIDATION_INVALID_VALUE", message, details={"field": "public_key"}) from None


def check_device_count(present: Sequence[DeviceKey]) -> None:
    """A user has a bounded number of devices."""
    if len(present) >= DEVICES:
        raise ChatError("RESOURCE_LIMIT_EXCEEDED", "Remove a device first.", details={"limit": DEVICES})


def own_wrap(command: PutChatroomKeys, user_id: UUID) -> str | None:
    """What the sender wrapped for its own device."""
    mine = (user_id, command.sender_device_id)
    return next((key.wrapped_key for key in command.keys if (key.user_id, key.device_id) == mine), None)


def check_new_version(room: RoomRow, command: PutChatroomKeys, wrapped: str | None) -> None:
    """A new version is the next one; its maker has it, so that it can give it to others."""
    current = room.member_key_version
    details = {"field": "key_version", "key_version": current}
    if command.key_version <= current:
        raise ChatError("RESOURCE_ALREADY_EXISTS", "This version exists: read it, and use it.", details=details)
    if command.key_version > current + 1:
        raise ChatError("VALIDATION_INVALID_VALUE", "The next version is the newest plus one.", details=details)
    if wrapped is None:
        message = "A new key has to be wrapped for the sender's own device as well."
        raise ChatError("VALIDATION_INVALID_VALUE", message, details={"field": "keys"})


def check_has_version(wrapped: str | None) -> None:
    """Only a device that has a version gives it to others."""
    if wrapped is None:
        message = "The sender's device does not have this version of the key."
        raise ChatError("RESOURCE_ACCESS_DENIED", message, details={"field": "key_version"})


# --- devices ---------------------------------------------------------------------------------


async def put_device_key(services: Services, actor: Actor, command: PutDeviceKey) -> DeviceKeyPut:
    """Registers a device; a replaced key makes rotation due where the old one had the chatroom's."""
    require_text(command)
    check_public_key(command.public_key)
    async with services.database.transaction() as conn:
        present = await device_keys.lock_user(conn, actor.user.id)
        old = next((key for key in present if key.device_id == command.device_id), None)
        if old is None:
            check_device_count(present)
        kept = old if old is not None and old.public_key == command.public_key else None
        key = DeviceKey(
            user_id=actor.user.id,
            device_id=command.device_id,
            name=command.name,
            public_key=command.public_key,
            created_at=kept.created_at if kept else datetime.now(UTC),
        )
        await device_keys.put(conn, key)
    await rotation.device_gone(services, actor.user.id, command.device_id, "device_replaced")
    return DeviceKeyPut(key=key, replaced=old is not None and kept is None)


async def delete_device_key(services: Services, actor: Actor, command: DeleteDeviceKey) -> DeviceKeyDeleted:
    """Removes a device, and makes rotation due where it had the chatroom's key."""
    async with services.database.transaction() as conn:
        deleted = await device_keys.delete(conn, actor.user.id, command.device_id)
    rotated = await rotation.device_gone(services, actor.user.id, command.device_id, "device_deleted")
    if not deleted and not rotated:
        raise ChatError("RESOURCE_NOT_FOUND", "You have no such device.", details={"field": "device_id"})
    return DeviceKeyDeleted(device_id=command.device_id)


async def list_device_keys(services: Services, actor: Actor, command: ListDeviceKeys) -> DeviceKeysListed:
    """The user's own devices."""
    del command
    return await get_user_keys(services, actor, GetUserKeys(user_id=actor.user.id))


async def get_user_keys(services: Services, actor: Actor, command: GetUserKeys) -> DeviceKeysListed:
    """Another user's devices. Raises ChatError AUTH_USER_NOT_FOUND."""
    del actor
    async with services.database.acquire() as conn:
        if await users.get_profile(conn, command.user_id) is None:
            raise ChatError("AUTH_USER_NOT_FOUND")
        return DeviceKeysListed(user_id=command.user_id, keys=await device_keys.of_user(conn, command.user_id))


# --- chatrooms -------------------------------------------------------------------------------


async def put_chatroom_keys(services: Services, actor: Actor, command: PutChatroomKeys) -> ChatroomKeysPut:
    """Stores a new version, or an existing one for devices that lack it. What a device has is never replaced."""

    async def change(conn: Connection, locked: RoomRow | None, now: datetime) -> Changed:
        room, _ = check_member(locked, await rooms.role_of(conn, command.chatroom_id, actor.user.id))
        await _check_devices(conn, command, actor.user.id)
        await _admit_version(conn, room, command, actor.user.id)
        added = await wrapped_keys.add(conn, command, actor.user.id, now)
        result = ChatroomKeysPut(
            chatroom_id=room.id,
            key_version=command.key_version,
            min_key_version=room.min_member_key_version,
            added=added,
        )
        return Changed(result)

    result: ChatroomKeysPut = await services.journal.change(command.chatroom_id, change)
    return result


async def _check_devices(conn: Connection, command: PutChatroomKeys, sender_id: UUID) -> None:
    """Keys are wrapped by a present device of the sender, for present devices of members."""
    named = {(key.user_id, key.device_id, key.public_key) for key in command.keys}
    named.add((sender_id, command.sender_device_id, command.sender_public_key))
    if await wrapped_keys.lock_devices(conn, command.chatroom_id, list(named)) != len(named):
        message = "Every key is wrapped for the present key of a member's device; read them again."
        raise ChatError("RESOURCE_NOT_FOUND", message, details={"field": "keys"})


async def _admit_version(conn: Connection, room: RoomRow, command: PutChatroomKeys, sender_id: UUID) -> None:
    stored = await wrapped_keys.stored(conn, room.id, sender_id, command.sender_device_id, command.key_version)
    wrapped = own_wrap(command, sender_id)
    if not command.is_new or (stored is not None and stored == wrapped):  # the latter is a retry of its maker
        check_has_version(stored)
        return
    check_new_version(room, command, wrapped)
    await wrapped_keys.set_version(conn, room.id, command.key_version)


async def get_chatroom_keys(services: Services, actor: Actor, command: GetChatroomKeys) -> ChatroomKeysFetched:
    """What a device may have of a chatroom's keys, and which devices lack the newest."""
    room_id, device_id = command.chatroom_id, command.device_id
    async with services.database.acquire() as conn:
        versions = await wrapped_keys.versions_of(conn, room_id, actor.user.id)
        if versions is None:
            raise ChatError("CHATROOM_NOT_FOUND")
        if all(key.device_id != device_id for key in await device_keys.of_user(conn, actor.user.id)):
            raise ChatError("RESOURCE_NOT_FOUND", "You have no such device.", details={"field": "device_id"})
        keys = await wrapped_keys.for_device(conn, room_id, actor.user.id, device_id, command.before)
        devices = await wrapped_keys.devices_of(conn, room_id, actor.user.id, versions["member_key_version"])
    newest, oldest = versions["member_key_version"], versions["min_member_key_version"]
    return ChatroomKeysFetched(
        chatroom_id=room_id,
        key_version=newest,
        min_key_version=oldest,
        rotation_needed=0 < newest < oldest,
        keys=tuple(keys[: wrapped_keys.PAGE]),
        more=len(keys) > wrapped_keys.PAGE,
        devices=devices,
    )
