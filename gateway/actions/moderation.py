"""Muting members and banning users: rules first, then what each command does."""

from __future__ import annotations

from datetime import datetime
from math import ceil
from uuid import UUID

from gateway.actions.members import check_may_moderate, end_membership
from gateway.actions.rooms import check_group, check_member, check_moderator, event_after
from gateway.actor import Actor
from gateway.services import Services
from protocol.commands import BanMember, ListBans, MuteMember, UnbanMember, UnmuteMember
from protocol.errors import ChatError
from protocol.events import BansListed, Done, MemberMuted
from protocol.models import FOREVER, Pagination, Role
from storage import bans, rooms, users
from storage.database import Connection
from storage.flights import Changed, RoomRow

# --- rules -----------------------------------------------------------------------------------


def check_not_muted(muted_until: datetime | None, now: datetime) -> None:
    """Who is muted reads, and does not write. The clock is the database's, one for all nodes."""
    if muted_until is None or muted_until <= now:
        return
    left = None if muted_until == FOREVER else (muted_until - now).total_seconds()
    details = {"muted_until": muted_until}
    raise ChatError("MEMBER_MUTED", "You are muted in this chatroom.", details=details, retry_after=left)


def check_may_ban(actor: Role, target: Role | None) -> None:
    """Owner and moderators ban whom they may remove, and who is no member."""
    check_moderator(actor)
    if target is not None:
        check_may_moderate(actor, target)


# --- muting ----------------------------------------------------------------------------------


async def mute_member(services: Services, actor: Actor, command: MuteMember) -> Done:
    """Takes a member's right to write, for a time or until `unmute_member`. Muting again sets the time anew."""

    async def change(conn: Connection, locked: RoomRow | None, _: datetime) -> Changed:
        room, role = await _group(conn, locked, command.chatroom_id, actor)
        check_may_moderate(role, await rooms.role_of(conn, room.id, command.user_id))
        until = await rooms.mute(conn, room.id, command.user_id, command.duration_seconds)
        return _muted(room, command.user_id, until, actor.user.id)

    done: Done = await services.journal.change(command.chatroom_id, change)
    return done


async def unmute_member(services: Services, actor: Actor, command: UnmuteMember) -> Done:
    """Gives a member the right to write back; nothing happens to one who has it."""

    async def change(conn: Connection, locked: RoomRow | None, _: datetime) -> Changed:
        room, role = await _group(conn, locked, command.chatroom_id, actor)
        check_may_moderate(role, await rooms.role_of(conn, room.id, command.user_id))
        if not await rooms.unmute(conn, room.id, command.user_id):
            return Changed(Done(chatroom_id=room.id))
        return _muted(room, command.user_id, None, actor.user.id)

    done: Done = await services.journal.change(command.chatroom_id, change)
    return done


async def _group(conn: Connection, locked: RoomRow | None, chatroom_id: UUID, actor: Actor) -> tuple[RoomRow, Role]:
    room, role = check_member(locked, await rooms.role_of(conn, chatroom_id, actor.user.id))
    check_group(room)
    return room, role


def _muted(room: RoomRow, user_id: UUID, until: datetime | None, muted_by: UUID) -> Changed:
    data = MemberMuted(chatroom_id=room.id, user_id=user_id, muted_until=until, muted_by=muted_by)
    event = event_after(room, 1, "member_muted", data)
    return Changed(Done(chatroom_id=room.id, seq=event.seq), [event])


# --- banning ---------------------------------------------------------------------------------


async def ban_member(services: Services, actor: Actor, command: BanMember) -> Done:
    """Removes a user, who may not come back until `unban_member`. One who has left can be banned, too.

    Raises ChatError AUTH_USER_NOT_FOUND.
    """

    async def change(conn: Connection, locked: RoomRow | None, now: datetime) -> Changed:
        room, role = await _group(conn, locked, command.chatroom_id, actor)
        target = await rooms.role_of(conn, room.id, command.user_id)
        check_may_ban(role, target)
        if await users.get_profile(conn, command.user_id) is None:
            raise ChatError("AUTH_USER_NOT_FOUND", details={"field": "user_id"})
        await bans.add(conn, room.id, command.user_id, actor.user.id, command.reason, now)
        if target is None:
            return Changed(Done(chatroom_id=room.id))
        return await end_membership(conn, room, command.user_id, removed_by=actor.user.id)

    done: Done = await services.journal.change(command.chatroom_id, change)
    return done


async def unban_member(services: Services, actor: Actor, command: UnbanMember) -> Done:
    """Lets a banned user be added again; it adds nobody. Raises ChatError RESOURCE_NOT_FOUND."""

    async def change(conn: Connection, locked: RoomRow | None, _: datetime) -> Changed:
        room, role = await _group(conn, locked, command.chatroom_id, actor)
        check_moderator(role)
        if not await bans.lift(conn, room.id, command.user_id):
            raise ChatError("RESOURCE_NOT_FOUND", "This user is not banned.", details={"field": "user_id"})
        return Changed(Done(chatroom_id=room.id))

    done: Done = await services.journal.change(command.chatroom_id, change)
    return done


async def list_bans(services: Services, actor: Actor, command: ListBans) -> BansListed:
    """A page of the bans, for the owner and moderators."""
    skip = (command.page - 1) * command.limit
    async with services.database.acquire() as conn:
        found = await rooms.get_for(conn, command.chatroom_id, actor.user.id)
        if found is None:
            raise ChatError("CHATROOM_NOT_FOUND")
        check_group(found[0])
        check_moderator(found[1])
        listed, total = await bans.list_of(conn, command.chatroom_id, command.limit, skip)
    pages = ceil(total / command.limit)
    return BansListed(
        bans=listed,
        pagination=Pagination(
            page=command.page, limit=command.limit, total=total, pages=pages, has_more=command.page < pages
        ),
    )
