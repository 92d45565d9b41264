"""Writing and reading messages, and the read position."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from math import ceil
from uuid import UUID

from msgspec import Struct, structs

from gateway.actions.files import attachment
from gateway.actions.moderation import check_not_muted
from gateway.actor import Actor
from gateway.services import Services
from protocol.commands import FetchMessages, MessageRead, SendMessage
from protocol.errors import ChatError
from protocol.events import MessageReceived, MessageSent, MessagesFetched, ReadPosition, ReadReceipt
from protocol.models import Attachment, Content, FileReference, Message, Pagination
from storage import history, messages, rooms
from storage.database import Connection
from storage.events import CommittedEvent
from storage.files import StoredFile
from storage.flights import Decision, Facts, RoomRow
from storage.history import NEWEST, Cursor, Side
from storage.ids import new_id
from storage.messages import StoredMessage
from storage.room_keys import MessageBody, RoomKey

# --- rules -----------------------------------------------------------------------------------


def check_length(command: SendMessage, limit: int) -> None:
    """Text and encrypted data may have `limit` bytes of UTF-8. A file needs no words."""
    content = command.content
    text = content if isinstance(content, str) else content.encrypted_data
    if not text and not command.attachments:
        raise ChatError("VALIDATION_INVALID_VALUE", "A message needs content.", details={"field": "content"})
    if len(text) * 4 > limit and len(text.encode()) > limit:
        raise ChatError("MESSAGE_TOO_LONG", f"A message may have {limit} bytes.", details={"limit": limit})


def check_may_send(facts: Facts, content: Content) -> None:
    """Members write who are not muted; an encrypted chatroom takes no text; a reply answers one of its messages."""
    if facts.room is None or facts.role is None:
        raise ChatError("CHATROOM_NOT_FOUND")
    check_not_muted(facts.muted_until, facts.now)
    if facts.room.encryption_enabled and isinstance(content, str):
        raise ChatError("MESSAGE_ENCRYPTION_FAILED")
    check_key_version(facts.room, content)
    if not facts.reply_exists:
        raise ChatError("MESSAGE_NOT_FOUND", "There is no such message to reply to.", details={"field": "reply_to"})


def check_files(facts: Facts, file_ids: Sequence[UUID]) -> None:
    """Who sends a file may have it: it is theirs, or they have it from a chatroom that they are in."""
    for file_id in file_ids:
        status = facts.files.get(file_id)
        if status is None or status == "rejected":
            code = "FILE_NOT_FOUND" if status is None else "FILE_REJECTED"
            raise ChatError(code, details={"field": "attachments", "file_id": file_id})


def check_sealed(room: RoomRow, files: Iterable[tuple[StoredFile, FileReference]]) -> None:
    """An encrypted chatroom takes sealed files only; what opens one is under a version that is in use."""
    for file, reference in files:
        if room.encryption_enabled and (reference.encrypted is None or not file.description.encrypted):
            details = {"field": "attachments", "file_id": file.id}
            raise ChatError("MESSAGE_ENCRYPTION_FAILED", "Files are sealed here, too.", details=details)
        if reference.encrypted is not None:
            check_key_version(room, reference.encrypted)


def check_key_version(room: RoomRow, content: Content) -> None:
    """Where the members' key is kept here, content is under a version that only present members have."""
    newest, oldest = room.member_key_version, room.min_member_key_version
    if isinstance(content, str) or newest == 0 or oldest <= content.key_version <= newest:
        return
    raise ChatError("MESSAGE_KEY_OUTDATED", details={"key_version": newest, "min_key_version": oldest})


# --- sending ---------------------------------------------------------------------------------


class Sending(Struct, frozen=True):
    """A SendMessage on its way through the journal. A Struct, since one is made for each message."""

    command: SendMessage
    chatroom_id: UUID
    sender_id: UUID
    client_id: str | None
    reply_to: UUID | None
    file_ids: tuple[UUID, ...]
    key: RoomKey
    files: Sequence[StoredFile]

    @classmethod
    def of(cls, command: SendMessage, sender_id: UUID, key: RoomKey, files: Sequence[StoredFile] = ()) -> Sending:
        """A command whose chatroom's key and files are at hand."""
        file_ids = tuple(file.id for file in files) if files else ()
        return cls(command, key.chatroom_id, sender_id, command.client_id, command.reply_to, file_ids, key, files)

    def decide(self, facts: Facts) -> Decision:
        """The rules first; then the message of an earlier try, or a new one."""
        if facts.duplicate is None:
            check_may_send(facts, self.command.content)
            if self.files:
                check_files(facts, self.file_ids)
                assert facts.room is not None
                check_sealed(facts.room, zip(self.files, self.command.attachments, strict=True))
            return self._write(facts)
        if facts.role is None or facts.sender is None:
            raise ChatError("CHATROOM_NOT_FOUND")
        first = messages.open_message(facts.duplicate, facts.sender, self.key)
        return Decision(MessageSent(message=first, client_id=self.client_id, duplicate=True))

    def _write(self, facts: Facts) -> Decision:
        attachments = self._attachments(facts) if self.files else ()
        stored = self._seal(facts, attachments)
        assert facts.sender is not None
        message = Message(
            id=stored.id,
            chatroom_id=stored.chatroom_id,
            seq=stored.seq,
            user_id=self.sender_id,
            username=facts.sender.username,
            display_name=facts.sender.display_name,
            avatar_url=facts.sender.avatar_url,
            content=self.command.content,
            message_type=stored.message_type,
            reply_to=stored.reply_to,
            created_at=stored.created_at,
            attachments=attachments,
        )
        event = CommittedEvent(stored.chatroom_id, stored.seq, "message_received", MessageReceived(message=message))
        return Decision(MessageSent(message=message, client_id=self.client_id), stored, event)

    def _attachments(self, facts: Facts) -> tuple[Attachment, ...]:
        return tuple(
            attachment(structs.replace(file, status=facts.files[file.id]), reference)
            for file, reference in zip(self.files, self.command.attachments, strict=True)
        )

    def _seal(self, facts: Facts, attachments: tuple[Attachment, ...]) -> StoredMessage:
        id = new_id()
        version, nonce, sealed = self.key.seal(id, self.sender_id, MessageBody(self.command.content, attachments))
        return StoredMessage(
            chatroom_id=self.chatroom_id,
            seq=facts.seq,
            id=id,
            sender_id=self.sender_id,
            client_id=self.client_id,
            message_type=self.command.message_type,
            reply_to=self.reply_to,
            key_version=version,
            nonce=nonce,
            sealed=sealed,
            created_at=_time_of(id),
            file_ids=self.file_ids,
        )


def _time_of(id: UUID) -> datetime:
    """The moment in a UUIDv7, so that a time and an id order messages alike."""
    return datetime.fromtimestamp((id.int >> 80) / 1000, UTC)


def begin_send(services: Services, actor: Actor, command: SendMessage) -> Sending | None:
    """The send, ready for the journal; None while the chatroom's key is not at hand."""
    check_length(command, services.config.limit_text)
    key = services.room_keys.cached(command.chatroom_id)
    files = services.files.known([reference.id for reference in command.attachments])
    return None if key is None or files is None else Sending.of(command, actor.user.id, key, files)


# --- reading ---------------------------------------------------------------------------------


async def fetch_messages(services: Services, actor: Actor, command: FetchMessages) -> MessagesFetched:
    """A page of history, opened."""
    side, cursor = _begin(command)
    key = await services.room_keys.get(command.chatroom_id)
    skip = (command.page - 1) * command.limit
    async with services.database.look_up() as conn:
        # One row more than the page has, to know whether there is a next one.
        rows, total = await history.page(
            conn, command.chatroom_id, actor.user.id, side, cursor, command.limit + 1, skip
        )
    has_more = len(rows) > command.limit
    return MessagesFetched(
        messages=messages.open_rows(rows[: command.limit], key),
        pagination=Pagination(
            page=command.page, limit=command.limit, total=total, pages=ceil(total / command.limit), has_more=has_more
        ),
    )


def _begin(command: FetchMessages) -> tuple[Side, Cursor]:
    """On which side of what the messages are. Raises ChatError for what is wrong with the command, whoever sends it."""
    if command.after is None:
        return "before", NEWEST if command.before is None else parse_cursor("before", command.before)
    if command.before is not None:
        raise ChatError("VALIDATION_INVALID_VALUE", "Give before or after, not both.", details={"field": "after"})
    return "after", parse_cursor("after", command.after)


def parse_cursor(field: Side, cursor: str | int) -> Cursor:
    """A cursor as what it is: a seq, a message id, or a time. Raises ChatError for anything else."""
    if isinstance(cursor, int) or cursor.isdecimal():
        if 0 <= int(cursor) < 2**63:
            return int(cursor)
        raise ChatError("VALIDATION_INVALID_VALUE", "Expected a seq of at least 0.", details={"field": field})
    for parse in (UUID, _parse_time):
        try:
            return parse(cursor)
        except (ValueError, OverflowError):
            continue
    raise ChatError(
        "VALIDATION_INVALID_FORMAT", "Expected a seq, a message id or an ISO 8601 time.", details={"field": field}
    )


def _parse_time(text: str) -> datetime:
    moment = datetime.fromisoformat(text.replace(" ", "+"))  # a plus sign arrives as a space in a query string
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return aware.astimezone(UTC)


async def message_read(services: Services, actor: Actor, command: MessageRead) -> ReadPosition:
    """Moves the read position and tells those who have the room open."""
    if command.message_id is None and command.seq is None:
        raise ChatError("VALIDATION_REQUIRED_FIELD", "Give message_id or seq.", details={"field": "message_id"})
    now = datetime.now(UTC)
    async with services.database.transaction() as conn:
        seq = await _read_seq(conn, command, actor.user.id)
        row = await rooms.advance_read(conn, command.chatroom_id, actor.user.id, seq, now)
    if row is None:
        raise ChatError("CHATROOM_NOT_FOUND")
    position = ReadPosition(
        chatroom_id=command.chatroom_id, last_read_seq=row["last_read_seq"], unread_count=row["unread_count"]
    )
    if row["moved"]:
        receipt = ReadReceipt(
            chatroom_id=command.chatroom_id, user_id=actor.user.id, seq=position.last_read_seq, read_at=now
        )
        services.nodes.tell_openers(command.chatroom_id, "read_receipt", receipt)
    return position


async def _read_seq(conn: Connection, command: MessageRead, user_id: UUID) -> int:
    if command.message_id is None:
        assert command.seq is not None
        return command.seq
    if await rooms.role_of(conn, command.chatroom_id, user_id) is None:
        raise ChatError("CHATROOM_NOT_FOUND")
    seq = await messages.seq_of(conn, command.chatroom_id, command.message_id)
    if seq is None:
        raise ChatError("MESSAGE_NOT_FOUND")
    return seq
