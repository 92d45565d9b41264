"""Taking a message back: the rule first, then what the command does."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from gateway.actions.rooms import check_member, event_after
from gateway.actor import Actor
from gateway.services import Services
from protocol.commands import RecallMessage
from protocol.errors import ChatError
from protocol.events import Done, MessageRecalled
from protocol.models import Role
from storage import files, messages, rooms
from storage.database import Connection
from storage.flights import Changed, RoomRow
from storage.room_keys import MessageBody


def check_may_recall(user_id: UUID, role: Role, sender_id: UUID) -> None:
    """Who wrote a message takes it back; owner and moderators take back anyone's."""
    if user_id != sender_id and role not in ("owner", "moderator"):
        raise ChatError("MESSAGE_DELETE_DENIED")


async def recall_message(services: Services, actor: Actor, command: RecallMessage) -> Done:
    """Erases what is in a message, and takes its files from those who had them by it. Once more changes nothing.

    Raises ChatError CHATROOM_NOT_FOUND, MESSAGE_NOT_FOUND, MESSAGE_DELETE_DENIED.
    """
    key = await services.room_keys.get(command.chatroom_id)

    async def change(conn: Connection, locked: RoomRow | None, now: datetime) -> Changed:
        room, role = check_member(locked, await rooms.role_of(conn, command.chatroom_id, actor.user.id))
        found = await messages.find(conn, room.id, command.message_id)
        if found is None:
            raise ChatError("MESSAGE_NOT_FOUND")
        check_may_recall(actor.user.id, role, found.sender_id)
        if found.recalled_at is not None:
            return Changed(Done(chatroom_id=room.id))
        await messages.recall(conn, found, key.seal(found.id, found.sender_id, MessageBody("")), now)
        await files.take_from_message(conn, room.id, found.id)
        data = MessageRecalled(chatroom_id=room.id, message_id=found.id, recalled_by=actor.user.id, recalled_at=now)
        event = event_after(room, 1, "message_recalled", data)
        return Changed(Done(chatroom_id=room.id, seq=event.seq), [event])

    done: Done = await services.journal.change(command.chatroom_id, change)
    return done
