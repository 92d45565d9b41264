"""What concerns one session only: rooms it has open, typing, and sync."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import islice
from uuid import UUID

from gateway.actions.moderation import check_not_muted
from gateway.actor import Actor
from gateway.room import Room
from gateway.services import Services
from gateway.session import Session
from protocol.commands import JoinChatroom, LeaveChatroom, Sync, TypingStart, TypingStop
from protocol.errors import ChatError
from protocol.events import ChatroomOpened, Done, Synced, TypingIndicator
from protocol.models import SyncedRoom, Verdict
from storage import events, rooms

SYNC_ROOMS = 20
"""Chatrooms read from the database at once, so that a sync of many holds little memory."""
WRITABLE_POLL = 0.02
"""Seconds between looks at a slow reader's outbox during a sync."""

# --- rules -----------------------------------------------------------------------------------


def check_session(actor: Actor) -> Session:
    """These commands are about a connection."""
    if actor.session is None:
        raise ChatError("VALIDATION_INVALID_VALUE", "This command needs a socket.")
    return actor.session


def check_hears(session: Session, chatroom_id: UUID) -> Room:
    """Only members hear a room, and the hub knows who does."""
    room = session.rooms.get(chatroom_id)
    if room is None:
        raise ChatError("CHATROOM_NOT_FOUND")
    return room


# --- rooms open on a session -----------------------------------------------------------------


async def join_chatroom(services: Services, actor: Actor, command: JoinChatroom) -> ChatroomOpened:
    """Opens a room and says who is online in it."""
    session = check_session(actor)
    room = check_hears(session, command.chatroom_id)
    async with services.database.acquire() as conn:
        chatroom = await rooms.get(conn, command.chatroom_id)
    if chatroom is None or session.rooms.get(room.id) is not room:
        raise ChatError("CHATROOM_NOT_FOUND")
    room.member_count = chatroom.member_count
    online = await services.presence.open(session, room)
    if online is None:
        raise ChatError("CHATROOM_NOT_FOUND")
    return ChatroomOpened(
        chatroom_id=room.id, seq=room.head or chatroom.seq, online_count=online.count, online=online.named
    )


async def leave_chatroom(services: Services, actor: Actor, command: LeaveChatroom) -> Done:
    """Closes a room; a room that is not open stays so."""
    services.hub.close_room(check_session(actor), command.chatroom_id)
    return Done(chatroom_id=command.chatroom_id)


async def typing_start(services: Services, actor: Actor, command: TypingStart) -> Done:
    """Tells the others who have the room open. Who is muted is not heard."""
    session = check_session(actor)
    async with services.database.acquire() as conn:
        voice = await rooms.voice_of(conn, command.chatroom_id, session.user.id)
    if voice is None:
        raise ChatError("CHATROOM_NOT_FOUND")
    check_not_muted(*voice)
    return _typing(services, session, command.chatroom_id, is_typing=True)


async def typing_stop(services: Services, actor: Actor, command: TypingStop) -> Done:
    """Tells the others who have the room open, also of one who was muted meanwhile."""
    session = check_session(actor)
    if not session.hears:
        await _check_member(services, session, command.chatroom_id)
    return _typing(services, session, command.chatroom_id, is_typing=False)


def _typing(services: Services, session: Session, chatroom_id: UUID, *, is_typing: bool) -> Done:
    if session.hears:
        check_hears(session, chatroom_id)
    user = session.user
    indicator = TypingIndicator(chatroom_id=chatroom_id, user_id=user.id, username=user.username, is_typing=is_typing)
    services.nodes.tell_openers(chatroom_id, "typing_indicator", indicator, but=user.id)
    return Done(chatroom_id=chatroom_id)


async def _check_member(services: Services, session: Session, chatroom_id: UUID) -> None:
    """For a bot that hears no chatroom, so that the hub does not know which are its own."""
    async with services.database.acquire() as conn:
        if await rooms.role_of(conn, chatroom_id, session.user.id) is None:
            raise ChatError("CHATROOM_NOT_FOUND")


# --- sync ------------------------------------------------------------------------------------


async def sync(services: Services, actor: Actor, command: Sync) -> Synced:
    """Sends what each chatroom's events were after the seq given, and says how it ended for each.

    Live events of a chatroom are set aside meanwhile, so that what follows the
    replay joins without a seam.
    """
    session = check_session(actor)
    heard = {chatroom_id: seq for chatroom_id, seq in command.chatrooms.items() if chatroom_id in session.rooms}
    verdicts = {
        chatroom_id: _verdict(seq, seq, "not_member")
        for chatroom_id, seq in command.chatrooms.items()
        if chatroom_id not in heard
    }
    for chatroom_id in heard:
        services.hub.hold(session, chatroom_id)
    try:
        await _sync_all(services, session, heard, verdicts)
    finally:
        for chatroom_id in heard.keys() - verdicts.keys():
            services.hub.abandon_hold(session, chatroom_id)
    for verdict in verdicts.values():
        services.metrics.sync(verdict.verdict)
    return Synced(chatrooms=verdicts)


async def _sync_all(
    services: Services, session: Session, known: dict[UUID, int], verdicts: dict[UUID, SyncedRoom]
) -> None:
    async with services.database.acquire() as conn:
        heads = await events.member_heads(conn, session.user.id, list(known))
    missing: dict[UUID, int] = {}
    for chatroom_id, seq in known.items():
        head = heads.get(chatroom_id)
        if head is None:
            services.hub.drop_hold(session, chatroom_id)
            verdicts[chatroom_id] = _verdict(seq, seq, "not_member")
        elif not 0 <= head - seq <= services.config.limit_sync:
            services.hub.release(session, chatroom_id, head)
            verdicts[chatroom_id] = _verdict(seq, head, "too_long")
        else:
            missing[chatroom_id] = seq
    for group in _groups(missing):
        await _sync_group(services, session, group, verdicts)


def _verdict(from_seq: int, to_seq: int, verdict: Verdict) -> SyncedRoom:
    return SyncedRoom(from_seq=from_seq, to_seq=to_seq, verdict=verdict)


def _groups(missing: dict[UUID, int]) -> Iterator[dict[UUID, int]]:
    items = iter(missing.items())
    while group := dict(islice(items, SYNC_ROOMS)):
        yield group


async def _sync_group(
    services: Services, session: Session, group: dict[UUID, int], verdicts: dict[UUID, SyncedRoom]
) -> None:
    found = await events.read_after(services.database, services.room_keys, group, services.config.limit_sync)
    for chatroom_id, seq in group.items():
        await _writable(session)
        if chatroom_id not in session.rooms:  # removed while we read
            verdicts[chatroom_id] = _verdict(seq, seq, "not_member")
            continue
        replayed = found.get(chatroom_id, [])
        if replayed:
            services.hub.send(session, session.wire.events(replayed))
            seq = replayed[-1].seq
        services.hub.release(session, chatroom_id, seq)
        verdicts[chatroom_id] = _verdict(group[chatroom_id], seq, "complete")


async def _writable(session: Session) -> None:
    """Waits for a slow reader, so that a sync never fills its outbox; a cut session does not wait."""
    while session.attached and session.queued > session.limits.ephemeral:  # noqa: ASYNC110  # an event would cost every idle session
        await asyncio.sleep(WRITABLE_POLL)
