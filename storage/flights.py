"""One flight of the journal: what a transaction locks, reads, lets the rules decide, and writes.

`seq` is taken under the room's lock, so commit order is seq order and there are
no holes.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol
from uuid import UUID

import msgspec
from msgspec import Struct

from protocol.errors import ChatError
from protocol.events import Event
from protocol.models import Role, User
from storage import control, files
from storage.database import Connection
from storage.events import CommittedEvent
from storage.files import Status
from storage.hints import MembersAdded
from storage.messages import StoredMessage, stored_message

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RoomRow:
    """A chatroom's row, read under its lock."""

    id: UUID
    kind: str
    owner_id: UUID | None
    last_seq: int
    member_count: int
    max_members: int
    encryption_enabled: bool
    member_key_version: int
    min_member_key_version: int


class Facts(Struct):
    """What the rules of a send may look at: how things are at the moment of writing. `now` is the database's.

    `files` are those of the send's files that its sender may send. `seq` is the number that it would have.
    """

    room: RoomRow | None
    sender: User | None
    role: Role | None
    muted_until: datetime | None
    duplicate: StoredMessage | None
    reply_exists: bool
    files: dict[UUID, Status]
    seq: int
    now: datetime


class Decision(Struct, frozen=True):
    """What a send comes to. Without `message` nothing is written, as for a duplicate."""

    result: Event
    message: StoredMessage | None = None
    event: CommittedEvent | None = None


class Send(Protocol):
    """A message on its way into the journal."""

    @property
    def chatroom_id(self) -> UUID:
        """Where it goes."""
        ...

    @property
    def sender_id(self) -> UUID:
        """Whose it is."""
        ...

    @property
    def client_id(self) -> str | None:
        """The sender's own id of it; a second send with it is a duplicate."""
        ...

    @property
    def reply_to(self) -> UUID | None:
        """The message it answers."""
        ...

    @property
    def file_ids(self) -> Sequence[UUID]:
        """The files that stand in it."""
        ...

    def decide(self, facts: Facts) -> Decision:
        """Applies the rules. Raises ChatError to refuse; the other sends of the flight go on."""
        ...


@dataclass(frozen=True, slots=True)
class Changed:
    """What a change comes to: events numbered from the room's `last_seq` plus one, and the answer."""

    result: Any
    events: Sequence[CommittedEvent] = ()


Change = Callable[[Connection, "RoomRow | None", datetime], Awaitable[Changed]]
"""Work that needs a chatroom's lock and SQL of its own, such as a change of members."""


def _now() -> datetime:
    return datetime.now(UTC)


async def _lock(conn: Connection, chatroom_ids: Sequence[UUID]) -> dict[UUID, RoomRow]:
    """Locks rows in id order, so that two flights never wait for each other."""
    rows = await conn.fetch(
        """SELECT id, kind, owner_id, last_seq, member_count, max_members, encryption_enabled,
                  member_key_version, min_member_key_version FROM chatrooms
           WHERE id = ANY($1::uuid[]) AND deleted_at IS NULL ORDER BY id FOR NO KEY UPDATE""",
        chatroom_ids,
    )
    return {row["id"]: RoomRow(*row.values()) for row in rows}


_FACTS = """
SELECT m.role, m.muted_until, statement_timestamp() AS now, u.username, u.display_name, u.avatar_url,
       k.reply_to IS NULL OR EXISTS (
           SELECT 1 FROM messages r WHERE r.chatroom_id = k.chatroom_id AND r.id = k.reply_to) AS reply_exists,
       d.chatroom_id, d.seq, d.id, d.sender_id, d.client_id, d.message_type, d.reply_to, d.key_version,
       d.nonce, d.sealed, d.created_at, d.edited_at, d.recalled_at
FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::uuid[])
     WITH ORDINALITY AS k(chatroom_id, sender_id, client_id, reply_to, place)
LEFT JOIN members m ON m.chatroom_id = k.chatroom_id AND m.user_id = k.sender_id
LEFT JOIN users u ON u.id = m.user_id
LEFT JOIN messages d ON d.chatroom_id = k.chatroom_id AND d.sender_id = k.sender_id AND d.client_id = k.client_id
ORDER BY k.place
"""


async def _read_facts(conn: Connection, sends: list[Send]) -> list[Any]:
    return await conn.fetch(
        _FACTS,
        [send.chatroom_id for send in sends],
        [send.sender_id for send in sends],
        [send.client_id for send in sends],
        [send.reply_to for send in sends],
    )


async def _read_files(conn: Connection, sends: list[Send]) -> list[dict[UUID, Status]]:
    """Of each send's files, those that its sender may send."""
    pairs = [(send.sender_id, file_id) for send in sends for file_id in send.file_ids]
    if not pairs:
        return [{}] * len(sends)
    sendable = await files.lock_sendable(conn, *map(list, zip(*pairs, strict=True)))
    return [{id: status for id in send.file_ids if (status := sendable.get((send.sender_id, id)))} for send in sends]


async def fly_change(conn: Connection, chatroom_id: UUID, change: Change, heads: dict[UUID, int]) -> Changed:
    """Fills `heads` once something is written, so that a broken COMMIT leaves a trace to follow."""
    room = (await _lock(conn, [chatroom_id])).get(chatroom_id)
    changed = await change(conn, room, _now())
    await _write_events(conn, changed.events)
    heads.update({event.chatroom_id: event.seq - 1 for event in reversed(changed.events)})
    return changed


async def fly_sends(conn: Connection, sends: list[Send], heads: dict[UUID, int]) -> list[Decision | Exception]:
    """The outcome of each send, in order. Fills `heads` with the seq before, where something is written."""
    rooms = await _lock(conn, list({send.chatroom_id for send in sends}))
    sendable = await _read_files(conn, sends)
    outcomes = _decide(sends, rooms, await _read_facts(conn, sends), sendable)
    messages = [o.message for o in outcomes if isinstance(o, Decision) and o.message is not None]
    if messages:
        await _write_messages(conn, messages)
        heads.update({message.chatroom_id: message.seq - 1 for message in reversed(messages)})
    return outcomes


def _decide(
    sends: list[Send], rooms: dict[UUID, RoomRow], rows: list[Any], sendable: list[dict[UUID, Status]]
) -> list[Decision | Exception]:
    """Applies each send's rules in order."""
    numbers = Numbers({room.id: room.last_seq for room in rooms.values()})
    outcomes: list[Decision | Exception] = []
    for send, row, its_files in zip(sends, rows, sendable, strict=True):
        try:
            outcomes.append(numbers.decide(send, _facts(rooms.get(send.chatroom_id), send, row, its_files)))
        except Exception as error:
            outcomes.append(_refusal(error))
    return outcomes


class Numbers:
    """Numbers the messages of a flight, after the heads of their chatrooms; a twin in it is a duplicate too."""

    def __init__(self, heads: dict[UUID, int]) -> None:
        self._heads = heads
        self._written: dict[tuple[UUID, UUID, str], StoredMessage] = {}

    def decide(self, send: Send, facts: Facts) -> Decision:
        """What the send comes to in its turn. Raises what its rules raise, and takes no number then."""
        chatroom_id, client_id = send.chatroom_id, send.client_id
        facts.seq = self._heads.get(chatroom_id, 0) + 1
        if client_id and (twin := self._written.get((chatroom_id, send.sender_id, client_id))):
            facts.duplicate = twin
        decision = send.decide(facts)
        if decision.message is not None:
            self._heads[chatroom_id] = facts.seq
            if client_id:
                self._written[chatroom_id, send.sender_id, client_id] = decision.message
        return decision


def _refusal(error: Exception) -> ChatError:
    if isinstance(error, ChatError):
        return error
    log.error("the rules of a send failed", exc_info=error)
    return ChatError("INTERNAL_ERROR")


def _facts(room: RoomRow | None, send: Send, row: Any, its_files: dict[UUID, Status]) -> Facts:
    sender = None
    if row["role"] is not None:
        sender = User(
            id=send.sender_id,
            username=row["username"],
            display_name=row["display_name"],
            avatar_url=row["avatar_url"],
        )
    duplicate = None if row["id"] is None else stored_message(row)
    return Facts(
        room, sender, row["role"], row["muted_until"], duplicate, row["reply_exists"], its_files, 0, row["now"]
    )


_WRITE_MESSAGES = """
WITH new AS (
    SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::uuid[], $4::uuid[], $5::text[], $6::text[], $7::uuid[],
                         $8::int[], $9::bytea[], $10::bytea[], $11::timestamptz[])
        AS n(chatroom_id, seq, id, sender_id, client_id, message_type, reply_to, key_version, nonce, sealed, created_at)
), written AS (
    INSERT INTO messages (chatroom_id, seq, id, sender_id, client_id, message_type, reply_to,
                          key_version, nonce, sealed, created_at)
    SELECT * FROM new
), announced AS (
    INSERT INTO events (chatroom_id, seq, kind, message_id, created_at)
    SELECT chatroom_id, seq, 'message_received', id, created_at FROM new
)
UPDATE chatrooms c SET last_seq = h.seq, message_count = c.message_count + h.count
FROM (SELECT chatroom_id, max(seq) AS seq, count(*) AS count FROM new GROUP BY chatroom_id) h
WHERE c.id = h.chatroom_id
"""


async def _write_messages(conn: Connection, messages: list[StoredMessage]) -> None:
    await conn.execute(
        _WRITE_MESSAGES,
        [m.chatroom_id for m in messages],
        [m.seq for m in messages],
        [m.id for m in messages],
        [m.sender_id for m in messages],
        [m.client_id for m in messages],
        [m.message_type for m in messages],
        [m.reply_to for m in messages],
        [m.key_version for m in messages],
        [m.nonce for m in messages],
        [m.sealed for m in messages],
        [m.created_at for m in messages],
    )
    if places := [(m.chatroom_id, m.id, file_id) for m in messages for file_id in m.file_ids]:
        await files.add_to_messages(conn, *map(list, zip(*places, strict=True)))


async def _write_events(conn: Connection, events: Sequence[CommittedEvent]) -> None:
    now = _now()
    for event in events:
        await conn.execute(
            """WITH head AS (UPDATE chatrooms SET last_seq = $2 WHERE id = $1)
               INSERT INTO events (chatroom_id, seq, kind, data, adds, removes, created_at)
               VALUES ($1, $2, $3, $4, $5, $6, $7)""",
            event.chatroom_id,
            event.seq,
            event.kind,
            msgspec.to_builtins(event.data),
            list(event.adds) or None,
            list(event.removes) or None,
            now,
        )
        if event.adds:
            await control.write(conn, MembersAdded(event.chatroom_id, event.seq, event.adds))
