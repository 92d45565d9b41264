"""Members of chatrooms: who comes, who goes, and in which role. Rules first, then what each command does."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import msgspec

from gateway.actions import rotation
from gateway.actions.rooms import (
    check_group,
    check_member,
    check_moderator,
    check_owner,
    delete_now,
    event_after,
    existing_users,
    reread,
)
from gateway.actor import Actor
from gateway.services import Services
from protocol.commands import AddMembers, LeaveMembership, RemoveMember, UpdateMember
from protocol.errors import ChatError
from protocol.events import Done, MembersAdded, MemberUpdated, UserJoined, UserLeft
from protocol.models import Chatroom, Member, Role, RotationReason, User
from storage import bans, rooms
from storage.database import Connection
from storage.events import CommittedEvent
from storage.flights import Changed, RoomRow

# --- rules -----------------------------------------------------------------------------------


def check_may_moderate(actor: Role, target: Role | None) -> None:
    """The owner may do it to anyone else, a moderator to members."""
    if target is None:
        raise ChatError("RESOURCE_NOT_FOUND", "This user is not a member.", details={"field": "user_id"})
    check_moderator(actor)
    if target == "owner" or (target == "moderator" and actor != "owner"):
        raise ChatError("RESOURCE_ACCESS_DENIED", "Your role does not allow this with that member.")


def check_capacity(room: RoomRow, newcomers: int) -> None:
    """A chatroom has at most `max_members` members."""
    if room.member_count + newcomers > room.max_members:
        raise ChatError("CHATROOM_FULL", details={"max_members": room.max_members})


def check_not_banned(banned: Sequence[UUID]) -> None:
    """Who is banned does not come back until somebody unbans them."""
    if banned:
        raise ChatError("MEMBER_BANNED", details={"field": "user_ids", "banned": [str(id) for id in banned]})


# --- coming ----------------------------------------------------------------------------------


async def add_members(services: Services, actor: Actor, command: AddMembers) -> MembersAdded:
    """Adds users to a group; each newcomer is an event of its own."""

    async def change(conn: Connection, locked: RoomRow | None, now: datetime) -> Changed:
        room, role = check_member(locked, await rooms.role_of(conn, command.chatroom_id, actor.user.id))
        check_group(room)
        check_moderator(role)
        users = await existing_users(conn, command.user_ids)
        return await _add(conn, room, users, now)

    result: MembersAdded = await services.journal.change(command.chatroom_id, change)
    return result


async def _add(conn: Connection, room: RoomRow, users: dict[UUID, User], now: datetime) -> Changed:
    present = {member.user_id for member in await rooms.members_of(conn, room.id, list(users))}
    newcomers = {user_id: user for user_id, user in users.items() if user_id not in present}
    check_not_banned(await bans.banned_of(conn, room.id, list(newcomers)))
    check_capacity(room, len(newcomers))
    roles: dict[UUID, Role] = dict.fromkeys(newcomers, "member")
    await rooms.add_members(conn, room.id, roles, now, last_read_seq=room.last_seq)
    added = await rooms.members_of(conn, room.id, list(newcomers))
    chatroom = await reread(conn, room.id)
    events = [
        _joined(room, place, member, newcomers[member.user_id], chatroom) for place, member in enumerate(added, 1)
    ]
    last = room.last_seq + len(events)
    return Changed(MembersAdded(chatroom_id=room.id, added=added, seq=last), events)


def _joined(room: RoomRow, place: int, member: Member, user: User, chatroom: Chatroom) -> CommittedEvent:
    """The chatroom is told as it is after this very event, though several may join in one change."""
    as_of = msgspec.structs.replace(chatroom, seq=room.last_seq + place, member_count=room.member_count + place)
    data = UserJoined(chatroom_id=room.id, user=user, member=member, chatroom=as_of)
    return event_after(room, place, "user_joined", data, adds=(user.id,))


# --- roles -----------------------------------------------------------------------------------


async def update_member(services: Services, actor: Actor, command: UpdateMember) -> Done:
    """Gives a member another role; a new owner makes the old one a moderator."""

    async def change(conn: Connection, locked: RoomRow | None, now: datetime) -> Changed:
        room, role = check_member(locked, await rooms.role_of(conn, command.chatroom_id, actor.user.id))
        check_group(room)
        check_owner(role)
        target = await rooms.role_of(conn, room.id, command.user_id)
        if target is None:
            raise ChatError("RESOURCE_NOT_FOUND", "This user is not a member.", details={"field": "user_id"})
        if target == command.role:
            return Changed(Done(chatroom_id=room.id))
        if target == "owner":
            raise ChatError("VALIDATION_INVALID_VALUE", "Make someone else the owner.", details={"field": "role"})
        return await _change_role(conn, room, actor.user.id, command)

    done: Done = await services.journal.change(command.chatroom_id, change)
    return done


async def _change_role(conn: Connection, room: RoomRow, owner_id: UUID, command: UpdateMember) -> Changed:
    roles: list[tuple[UUID, Role]] = [(command.user_id, command.role)]
    if command.role == "owner":
        await rooms.set_owner(conn, room.id, command.user_id)
        roles.append((owner_id, "moderator"))
    for user_id, role in roles:
        await rooms.set_role(conn, room.id, user_id, role)
    events = [_role_event(room, place, user_id, role) for place, (user_id, role) in enumerate(roles, 1)]
    return Changed(Done(chatroom_id=room.id, seq=events[-1].seq), events)


def _role_event(room: RoomRow, place: int, user_id: UUID, role: Role) -> CommittedEvent:
    return event_after(room, place, "member_updated", MemberUpdated(chatroom_id=room.id, user_id=user_id, role=role))


# --- going -----------------------------------------------------------------------------------


async def remove_member(services: Services, actor: Actor, command: RemoveMember) -> Done:
    """Removes a member, who hears of it as the chatroom's last event."""
    if command.user_id == actor.user.id:
        return await leave_membership(services, actor, LeaveMembership(chatroom_id=command.chatroom_id))

    async def change(conn: Connection, locked: RoomRow | None, now: datetime) -> Changed:
        room, role = check_member(locked, await rooms.role_of(conn, command.chatroom_id, actor.user.id))
        check_group(room)
        check_may_moderate(role, await rooms.role_of(conn, room.id, command.user_id))
        return await end_membership(conn, room, command.user_id, removed_by=actor.user.id)

    done: Done = await services.journal.change(command.chatroom_id, change)
    return done


async def end_membership(
    conn: Connection, room: RoomRow, user_id: UUID, removed_by: UUID | None, first: Sequence[CommittedEvent] = ()
) -> Changed:
    """Takes a member out of a locked chatroom, and the chatroom's key from them; events of `first` come before."""
    await rooms.remove_member(conn, room.id, user_id)
    data = UserLeft(chatroom_id=room.id, user_id=user_id, removed_by=removed_by)
    place = len(first) + 1
    event = event_after(room, place, "user_left", data, removes=(user_id,))
    reason: RotationReason = "user_left" if removed_by is None else "user_removed"
    events = [*first, event, *await rotation.member_gone(conn, room, user_id, place + 1, reason)]
    return Changed(Done(chatroom_id=room.id, seq=events[-1].seq), events)


async def leave_membership(services: Services, actor: Actor, command: LeaveMembership) -> Done:
    """Ends the user's own membership; the last to leave deletes the chatroom."""

    async def change(conn: Connection, locked: RoomRow | None, now: datetime) -> Changed:
        room, role = check_member(locked, await rooms.role_of(conn, command.chatroom_id, actor.user.id))
        check_group(room)
        if role != "owner":
            return await end_membership(conn, room, actor.user.id, removed_by=None)
        heir = await rooms.heir_of(conn, room.id, actor.user.id)
        if heir is None:
            return await delete_now(conn, room, actor.user.id, now)
        await rooms.set_owner(conn, room.id, heir)
        first = [_role_event(room, 1, heir, "owner")]
        return await end_membership(conn, room, actor.user.id, removed_by=None, first=first)

    done: Done = await services.journal.change(command.chatroom_id, change)
    return done
