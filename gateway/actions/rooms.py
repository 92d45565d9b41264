"""Chatrooms: rules first, then what each command does. Their members have a module of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from math import ceil
from typing import Any
from uuid import UUID

import msgspec
from msgspec import UNSET
from uuid_utils.compat import uuid7

from gateway.actor import Actor
from gateway.services import Services
from protocol.commands import (
    CreateChatroom,
    DeleteChatroom,
    GetChatroom,
    ListChatrooms,
    UpdateChatroom,
)
from protocol.errors import ChatError
from protocol.events import (
    ChatroomChanged,
    ChatroomCreated,
    ChatroomDeleted,
    ChatroomFetched,
    ChatroomsListed,
    ChatroomUpdated,
    Done,
    Event,
)
from protocol.models import Chatroom, ChatroomSummary, Message, Pagination, Role, User
from storage import messages, rooms
from storage.database import Connection
from storage.events import CommittedEvent
from storage.flights import Changed, RoomRow

# --- rules -----------------------------------------------------------------------------------


def check_member(room: RoomRow | None, role: Role | None) -> tuple[RoomRow, Role]:
    """Outsiders can't tell a chatroom that is not theirs from one that does not exist."""
    if room is None or role is None:
        raise ChatError("CHATROOM_NOT_FOUND")
    return room, role


def check_group(room: RoomRow | Chatroom) -> None:
    """The two of a direct chatroom are fixed."""
    if room.kind == "direct":
        raise ChatError("CHATROOM_ACCESS_DENIED", "A direct chatroom has no other members and no settings.")


def check_moderator(role: Role) -> None:
    """Owners and moderators manage a chatroom."""
    if role not in ("owner", "moderator"):
        raise ChatError("RESOURCE_ACCESS_DENIED", "Only the owner and moderators may do this.")


def check_owner(role: Role) -> None:
    """Some things are for the owner alone."""
    if role != "owner":
        raise ChatError("CHATROOM_OWNER_REQUIRED")


def check_new(command: CreateChatroom, actor_id: UUID) -> None:
    """A group has a name and fits its members; a direct chatroom names exactly one other user."""
    others = set(command.user_ids) - {actor_id}
    if command.kind == "direct" and (len(others) != 1 or len(command.user_ids) != 1):
        raise ChatError(
            "VALIDATION_INVALID_VALUE", "A direct chatroom is with one other user.", details={"field": "user_ids"}
        )
    if command.kind == "group" and command.name is None:
        raise ChatError("VALIDATION_REQUIRED_FIELD", "A group needs a name.", details={"field": "name"})
    if command.kind == "group" and len(others) + 1 > command.max_members:
        raise ChatError("CHATROOM_FULL", details={"max_members": command.max_members})


# --- creating --------------------------------------------------------------------------------


async def create_chatroom(services: Services, actor: Actor, command: CreateChatroom) -> ChatroomChanged:
    """Makes a chatroom with its members and its key; a direct one that exists already is given instead."""
    check_new(command, actor.user.id)
    chatroom_id = uuid7()
    creation = _Creation(services, actor.user, command, chatroom_id)
    result: ChatroomChanged = await services.journal.change(chatroom_id, creation.run)
    return result


@dataclass(frozen=True, slots=True)
class _Creation:
    services: Services
    creator: User
    command: CreateChatroom
    chatroom_id: UUID

    async def run(self, conn: Connection, _: RoomRow | None, now: datetime) -> Changed:
        users = await existing_users(conn, [*self.command.user_ids, self.creator.id])
        room = self._room(users, now)
        await rooms.insert(conn, room)
        if self.command.kind == "direct":
            claimed = await rooms.claim_direct(conn, self.creator.id, self.command.user_ids[0], room.id)
            if claimed != room.id:
                await rooms.discard(conn, room.id)
                return await self._existing_direct(conn, claimed)
        await self.services.room_keys.create(conn, room.id, now)
        await rooms.add_members(conn, room.id, self._roles(users), now, last_read_seq=1)
        return await self._created(conn, room)

    def _room(self, users: dict[UUID, User], now: datetime) -> Chatroom:
        command = self.command
        direct = command.kind == "direct"
        return Chatroom(
            id=self.chatroom_id,
            kind=command.kind,
            name=command.name or " and ".join(sorted(user.display_name for user in users.values()))[:100],
            description=command.description,
            owner_id=None if direct else self.creator.id,
            is_private=True if direct else command.is_private,
            max_members=2 if direct else command.max_members,
            member_count=len(users),
            encryption_enabled=command.encryption_enabled,
            auto_summary_enabled=command.auto_summary_enabled,
            summary_threshold=command.summary_threshold,
            seq=1,
            created_at=now,
            updated_at=now,
        )

    def _roles(self, users: dict[UUID, User]) -> dict[UUID, Role]:
        owner: Role = "member" if self.command.kind == "direct" else "owner"
        return {user_id: owner if user_id == self.creator.id else "member" for user_id in users}

    async def _created(self, conn: Connection, room: Chatroom) -> Changed:
        members = await rooms.members_of(conn, room.id)
        event = CommittedEvent(
            room.id,
            1,
            "chatroom_created",
            ChatroomCreated(chatroom=room, members=members),
            adds=tuple(member.user_id for member in members),
        )
        return Changed(ChatroomChanged(chatroom=room, seq=1), [event])

    async def _existing_direct(self, conn: Connection, chatroom_id: UUID) -> Changed:
        found = await rooms.get_for(conn, chatroom_id, self.creator.id)
        if found is None:
            raise ChatError("CHATROOM_NOT_FOUND")
        return Changed(ChatroomChanged(chatroom=found[0], seq=found[0].seq, created=False))


async def existing_users(conn: Connection, user_ids: Sequence[UUID]) -> dict[UUID, User]:
    """These users by id. Raises ChatError AUTH_USER_NOT_FOUND, naming those that do not exist or are deactivated."""
    users = await rooms.existing_users(conn, user_ids)
    if missing := [str(user_id) for user_id in dict.fromkeys(user_ids) if user_id not in users]:
        raise ChatError("AUTH_USER_NOT_FOUND", details={"field": "user_ids", "missing": missing})
    return users


# --- reading ---------------------------------------------------------------------------------


async def list_chatrooms(services: Services, actor: Actor, command: ListChatrooms) -> ChatroomsListed:
    """A page of the user's chatrooms, each with its last message."""
    async with services.database.acquire() as conn:
        rows, total = await rooms.list_for(
            conn, actor.user.id, command.search, command.limit, (command.page - 1) * command.limit
        )
        newest = await messages.newest_of_each(conn, [row["id"] for row in rows])
    last = await _last_messages(services, newest)
    pages = ceil(total / command.limit)
    return ChatroomsListed(
        chatrooms=tuple(_summary(row, last.get(row["id"])) for row in rows),
        pagination=Pagination(
            page=command.page, limit=command.limit, total=total, pages=pages, has_more=command.page < pages
        ),
    )


async def _last_messages(services: Services, rows: list[Any]) -> dict[UUID, Message]:
    last: dict[UUID, Message] = {}
    for row in rows:
        key = await services.room_keys.get(row["chatroom_id"])
        last[row["chatroom_id"]] = messages.open_row(row, key)
    return last


def _summary(row: Any, last_message: Message | None) -> ChatroomSummary:
    return ChatroomSummary(
        id=row["id"],
        kind=row["kind"],
        name=row["name"],
        description=row["description"],
        is_private=row["is_private"],
        member_count=row["member_count"],
        encryption_enabled=row["encryption_enabled"],
        last_message=last_message,
        unread_count=row["unread_count"],
        role=row["role"],
        joined_at=row["joined_at"],
        last_read_seq=row["last_read_seq"],
        seq=row["last_seq"],
        avatar_url=row["avatar_url"],
    )


async def get_chatroom(services: Services, actor: Actor, command: GetChatroom) -> ChatroomFetched:
    """A chatroom with its members and who of them is online."""
    async with services.database.acquire() as conn:
        found = await rooms.get_for(conn, command.chatroom_id, actor.user.id)
        if found is None:
            raise ChatError("CHATROOM_NOT_FOUND")
        members = await rooms.members_of(conn, command.chatroom_id)
    online = services.presence.is_online
    return ChatroomFetched(
        chatroom=found[0],
        members=tuple(msgspec.structs.replace(m, is_online=online(m.user_id)) for m in members),
        user_role=found[1],
    )


# --- changing --------------------------------------------------------------------------------


async def update_chatroom(services: Services, actor: Actor, command: UpdateChatroom) -> ChatroomChanged:
    """Sets what was given; owner and moderators only."""
    changes = {
        name: value
        for name in UpdateChatroom.__struct_fields__
        if name != "chatroom_id" and (value := getattr(command, name)) is not UNSET
    }

    async def change(conn: Connection, locked: RoomRow | None, now: datetime) -> Changed:
        room, role = check_member(locked, await rooms.role_of(conn, command.chatroom_id, actor.user.id))
        check_group(room)
        check_moderator(role)
        if not changes:
            return Changed(ChatroomChanged(chatroom=await reread(conn, room.id), seq=room.last_seq, created=False))
        if changes.get("max_members", room.member_count) < room.member_count:
            raise ChatError(
                "VALIDATION_INVALID_VALUE", "There are more members than that.", details={"field": "max_members"}
            )
        return await update_now(conn, room, changes, now)

    result: ChatroomChanged = await services.journal.change(command.chatroom_id, change)
    return result


async def update_now(conn: Connection, room: RoomRow, changes: dict[str, Any], now: datetime) -> Changed:
    """Changes a locked chatroom, and its members hear of it."""
    await rooms.update(conn, room.id, changes, now)
    updated = msgspec.structs.replace(await reread(conn, room.id), seq=room.last_seq + 1)
    event = event_after(room, 1, "chatroom_updated", ChatroomUpdated(chatroom=updated))
    return Changed(ChatroomChanged(chatroom=updated, seq=event.seq, created=False), [event])


async def reread(conn: Connection, chatroom_id: UUID) -> Chatroom:
    """A locked chatroom as it is after a change. Raises ChatError CHATROOM_NOT_FOUND."""
    room = await rooms.get(conn, chatroom_id)
    if room is None:
        raise ChatError("CHATROOM_NOT_FOUND")
    return room


def event_after(
    room: RoomRow,
    after: int,
    kind: str,
    data: Event,
    adds: tuple[UUID, ...] = (),
    removes: tuple[UUID, ...] = (),
) -> CommittedEvent:
    """The event `after` places behind the newest one of a locked chatroom."""
    return CommittedEvent(room.id, room.last_seq + after, kind, data, adds, removes)


async def delete_chatroom(services: Services, actor: Actor, command: DeleteChatroom) -> Done:
    """Deletes a chatroom, its members and its key."""

    async def change(conn: Connection, locked: RoomRow | None, now: datetime) -> Changed:
        room, role = check_member(locked, await rooms.role_of(conn, command.chatroom_id, actor.user.id))
        check_group(room)
        check_owner(role)
        return await delete_now(conn, room, actor.user.id, now)

    done: Done = await services.journal.change(command.chatroom_id, change)
    services.room_keys.forget(command.chatroom_id)
    return done


async def delete_now(conn: Connection, room: RoomRow, user_id: UUID, now: datetime) -> Changed:
    """Deletes a locked chatroom, whose members all hear of it as its last event."""
    everyone = tuple(await rooms.member_ids(conn, room.id))
    await rooms.mark_deleted(conn, room.id, now)
    data = ChatroomDeleted(chatroom_id=room.id, user_id=user_id)
    event = event_after(room, 1, "chatroom_deleted", data, removes=everyone)
    return Changed(Done(chatroom_id=room.id, seq=event.seq), [event])
