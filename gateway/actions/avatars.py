"""Pictures of users and chatrooms: squares that are made of what was uploaded, which is not kept itself."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from typing import NamedTuple
from uuid import UUID

from uuid_utils.compat import uuid4

from crypto.sealing import SealBroken, new_key
from gateway.actions import accounts, bots
from gateway.actions.rooms import check_group, check_member, check_moderator, reread, update_now
from gateway.actor import Actor
from gateway.files.pictures import PICTURE_TYPE
from gateway.files.types import HEAD
from gateway.services import Services
from protocol.commands import RemoveAvatar, RemoveChatroomAvatar, UpdateAccount
from protocol.errors import ChatError
from protocol.events import ChatroomChanged
from protocol.models import Account
from storage import avatars, files, rooms, users
from storage.blobs import BlobMissing
from storage.database import Connection
from storage.files import Description, Part, StoredFile
from storage.files_clearing import Cleared
from storage.flights import Changed, RoomRow

# --- rules -----------------------------------------------------------------------------------


async def check_changeable(conn: Connection, room: RoomRow | None, user_id: UUID) -> RoomRow:
    """Owners and moderators give a group its picture; a direct chatroom has that of the other one."""
    room, role = check_member(room, None if room is None else await rooms.role_of(conn, room.id, user_id))
    check_group(room)
    check_moderator(role)
    return room


# --- of users --------------------------------------------------------------------------------


async def set_avatar(services: Services, actor: Actor, body: AsyncIterable[bytes]) -> Account:
    """Gives the user a picture, in place of the one there was.

    Raises ChatError FILE_TOO_LARGE, FILE_TYPE_NOT_ALLOWED, IMAGE_TOO_LARGE, IMAGE_INVALID, and what `body` raises.
    """
    bots.check_scope(actor, RemoveAvatar())
    made = await _make(services, actor, None, body)
    async with _named_or_dropped(services, made), services.database.transaction() as conn:
        account = await users.update_account(conn, actor.user.id, {"avatar_url": made.url})
        if account is None:
            raise ChatError("AUTH_USER_NOT_FOUND")
        await _name(services, conn, made)
        cleared = await avatars.remove_of_user(conn, actor.user.id, but=made.url)
    services.nodes.update_user(users.user_of(account))
    await services.files.forget(cleared)
    return account


async def remove_avatar(services: Services, actor: Actor, command: RemoveAvatar) -> Account:
    """Takes the user's picture away, also one that is kept elsewhere."""
    del command
    return await accounts.update_account(services, actor, UpdateAccount(avatar_url=None))


# --- of chatrooms ----------------------------------------------------------------------------


async def set_chatroom_avatar(
    services: Services, actor: Actor, chatroom_id: UUID, body: AsyncIterable[bytes]
) -> ChatroomChanged:
    """Gives a chatroom a picture, and its members hear of it. Raises the same, and CHATROOM_NOT_FOUND and others."""
    bots.check_scope(actor, RemoveChatroomAvatar(chatroom_id=chatroom_id))
    await _check_early(services, actor, chatroom_id)
    made = await _make(services, actor, chatroom_id, body)
    async with _named_or_dropped(services, made):
        return await _change(services, actor, chatroom_id, made)


async def remove_chatroom_avatar(services: Services, actor: Actor, command: RemoveChatroomAvatar) -> ChatroomChanged:
    """Takes a chatroom's picture away; where there is none, nothing happens."""
    return await _change(services, actor, command.chatroom_id, None)


async def _check_early(services: Services, actor: Actor, chatroom_id: UUID) -> None:
    """Nobody uploads in vain what they may not set. It is looked at again when it is set."""
    async with services.database.acquire() as conn:
        found = await rooms.get_for(conn, chatroom_id, actor.user.id)
    if found is None:
        raise ChatError("CHATROOM_NOT_FOUND")
    check_group(found[0])
    check_moderator(found[1])


async def _change(services: Services, actor: Actor, chatroom_id: UUID, made: Made | None) -> ChatroomChanged:
    url = None if made is None else made.url
    cleared: list[Cleared] = []

    async def change(conn: Connection, locked: RoomRow | None, now: datetime) -> Changed:
        room = await check_changeable(conn, locked, actor.user.id)
        before = await reread(conn, room.id)
        if made is not None:
            await _name(services, conn, made)
        elif before.avatar_url is None:
            return Changed(ChatroomChanged(chatroom=before, seq=before.seq, created=False))
        cleared.append(await avatars.remove_of_chatroom(conn, room.id, but=url))
        return await update_now(conn, room, {"avatar_url": url}, now)

    changed: ChatroomChanged = await services.journal.change(chatroom_id, change)
    for gone in cleared:
        await services.files.forget(gone)
    return changed


# --- the picture -----------------------------------------------------------------------------


class Made(NamedTuple):
    """A picture that is kept, and that no row names yet."""

    file: StoredFile
    part: Part

    @property
    def url(self) -> str:
        """Where it will be."""
        return avatars.url_of(self.file.id)


async def _make(services: Services, actor: Actor, chatroom_id: UUID | None, body: AsyncIterable[bytes]) -> Made:
    picture = await _square(services, _new_file(actor, chatroom_id), body)
    file = _new_file(actor, chatroom_id, picture)
    return Made(file, await services.files.keep_picture(file, "whole", picture))


async def _square(services: Services, file: StoredFile, body: AsyncIterable[bytes]) -> bytes:
    """What is made of an upload, which is gone then."""
    async with services.database.transaction() as conn:
        upload = await services.files.begin(conn, file)
    try:
        await services.files.receive(upload, body, services.config.limit_avatar, resumable=False)
        head = await services.files.head(upload, HEAD)
        file_type = await services.files.blobs.run(partial(services.types.of, head))
        async with aclosing(services.files.received(upload).read(0, upload.received)) as pieces:
            return await services.pictures.avatar(pieces, file_type)
    finally:
        await services.files.abandon([file.id])


def _new_file(actor: Actor, chatroom_id: UUID | None, picture: bytes = b"") -> StoredFile:
    """Of an upload that is to be a picture, or of the picture."""
    now = datetime.now(UTC)
    return StoredFile(
        id=uuid4(),
        uploader_id=actor.user.id,
        chatroom_id=chatroom_id,
        purpose="avatar",
        status="ready" if picture else "uploading",
        size=len(picture),
        received=len(picture),
        key=new_key(),
        description=Description(
            name="avatar.webp", file_type=PICTURE_TYPE, sha256=sha256(picture).digest(), parts=(len(picture),)
        ),
        created_at=now,
        updated_at=now,
        expires_at=None,
    )


async def _name(services: Services, conn: Connection, made: Made) -> None:
    await services.files.begin(conn, made.file)
    await files.add_parts(conn, made.file.id, "whole", [made.part])
    await files.finish(conn, made.file)


@asynccontextmanager
async def _named_or_dropped(services: Services, made: Made) -> AsyncIterator[None]:
    """Inside, a row comes to name the picture. After a commit whose answer was lost one may: the sweep will know."""
    try:
        yield
    except ChatError as error:
        if not error.kind.retryable:
            await services.files.forget(Cleared([], [made.part.blob_id]))
        raise


# --- having ----------------------------------------------------------------------------------


async def open_avatar(services: Services, file_id: UUID) -> tuple[StoredFile, bytes]:
    """A picture of a user or a chatroom, for anyone who knows where it is. Raises ChatError FILE_NOT_FOUND."""
    file = await services.files.avatar(file_id)
    try:
        reading = await services.files.open(file)
        return file, b"".join([piece async for piece in reading.read(0, reading.size)])
    except (SealBroken, BlobMissing):
        await services.files.avatar(file_id)  # it may have been taken away meanwhile
        raise
