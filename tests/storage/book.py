"""A journal with two chatrooms, and sends and changes that do as they are told."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, cast
from uuid import UUID

from uuid_utils.compat import uuid7

from protocol.errors import ChatError
from protocol.events import Done, MemberUpdated
from storage.database import Connection, Database
from storage.events import CommittedEvent
from storage.flights import Change, Changed, Decision, Facts, RoomRow
from storage.journal import Journal, settle_future
from storage.messages import StoredMessage


@dataclass
class Entry:
    """A send that writes what it is told to. `facts` is what it was shown, in each flight it was in."""

    chatroom_id: UUID
    sender_id: UUID
    client_id: str | None = None
    reply_to: UUID | None = None
    refuse: Exception | None = None
    file_ids: tuple[UUID, ...] = ()
    nonce: bytes | None = b"n" * 24
    facts: list[Facts] = field(default_factory=list)

    def decide(self, facts: Facts) -> Decision:
        """Members may write, and answer what is there."""
        self.facts.append(facts)
        if self.refuse is not None:
            raise self.refuse
        if facts.duplicate is not None:
            return Decision(Done(chatroom_id=self.chatroom_id, seq=facts.duplicate.seq))
        if facts.role is None:
            raise ChatError("CHATROOM_NOT_FOUND")
        if not facts.reply_exists:
            raise ChatError("MESSAGE_NOT_FOUND")
        message = StoredMessage(
            chatroom_id=self.chatroom_id,
            seq=facts.seq,
            id=uuid7(),
            sender_id=self.sender_id,
            client_id=self.client_id,
            message_type="text",
            reply_to=self.reply_to,
            key_version=1,
            nonce=self.nonce,  # type: ignore[arg-type]  # None is what the database refuses
            sealed=b"sealed",
            created_at=facts.now,
        )
        told = Done(chatroom_id=self.chatroom_id, seq=facts.seq)
        return Decision(told, message, CommittedEvent(self.chatroom_id, facts.seq, "message_received", told))


class Book:
    """A journal, and all it says: what it publishes and doubts, the sizes of its flights, in the order of things."""

    def __init__(self, db: Database, people: list[UUID]) -> None:
        self.people = people
        self.rooms: list[UUID] = []
        self.published: list[tuple[UUID, int]] = []
        self.doubts: list[dict[UUID, int]] = []
        self.flights: list[int] = []
        self.order: list[str] = []
        self.journal = Journal(db, self._publish, self.doubts.append, lambda size, _: self.flights.append(size), 1)
        self.db = db

    def _publish(self, events: list[CommittedEvent]) -> None:
        self.published += [(event.chatroom_id, event.seq) for event in events]
        self.order += ["published"] * len(events)

    def put(self, entry: Entry) -> asyncio.Future[Any]:
        """Queues a send."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        resolve = settle_future(future)

        def settle(outcome: Any) -> None:
            self.order.append("settled")
            resolve(outcome)

        self.journal.send(entry, settle)
        return future

    def send(self, room: int = 0, person: int = 0, **more: Any) -> asyncio.Future[Any]:
        """Queues a send of this person to this chatroom."""
        return self.put(Entry(self.rooms[room], self.people[person], **more))

    async def rows(self, sql: str, *args: Any) -> list[tuple[Any, ...]]:
        """What the database says."""
        async with self.db.acquire() as conn:
            return [tuple(row) for row in await conn.fetch(sql, *args)]

    async def renew_room(self) -> None:
        """Puts a new chatroom of the same members into the place of the first."""
        async with self.db.acquire() as conn:
            self.rooms[0] = await _room(conn, self.people[:2])

    async def execute(self, sql: str) -> None:
        """Changes the schema, to make the database refuse or fail."""
        async with self.db.acquire() as conn:
            await conn.execute(sql)

    async def seqs(self, room: int = 0) -> tuple[list[int], list[int], int]:
        """The seqs of a chatroom's messages and of its events, and its head."""
        id = self.rooms[room]
        messages = await self.rows("SELECT seq FROM messages WHERE chatroom_id = $1 ORDER BY seq", id)
        events = await self.rows("SELECT seq FROM events WHERE chatroom_id = $1 ORDER BY seq", id)
        ((head,),) = await self.rows("SELECT last_seq FROM chatrooms WHERE id = $1", id)
        return [row[0] for row in messages], [row[0] for row in events], head


async def _person(conn: Connection, name: str) -> UUID:
    id = uuid7()
    await conn.execute(
        """INSERT INTO users (id, username, username_key, email, email_key, display_name, password_hash,
                              created_at, updated_at) VALUES ($1, $2, $2, $2, $2, $2, '', now(), now())""",
        id,
        name,
    )
    return id


async def _room(conn: Connection, members: list[UUID]) -> UUID:
    id = uuid7()
    await conn.execute(
        """INSERT INTO chatrooms (id, kind, name, owner_id, is_private, max_members, member_count, encryption_enabled,
                                  auto_summary_enabled, summary_threshold, last_seq, created_at, updated_at)
           VALUES ($1, 'group', 'room', $2, true, 10, 2, false, false, 50, 0, now(), now())""",
        id,
        members[0],
    )
    await conn.execute(
        "INSERT INTO members (chatroom_id, user_id, role, joined_at) SELECT $1, unnest($2::uuid[]), 'member', now()",
        id,
        members,
    )
    return id


async def open_book(db: Database) -> Book:
    """A journal of two chatrooms whose members are Ann and Bob; Eve is in none."""
    async with db.acquire() as conn:
        people = [await _person(conn, name) for name in ("ann", "bob", "eve")]
        made = Book(db, people)
        made.rooms = [await _room(conn, people[:2]) for _ in range(2)]
    return made


def beside(book: Book) -> Book:
    """The journal of another node, with the same chatrooms."""
    other = Book(book.db, book.people)
    other.rooms = book.rooms
    return other


async def outcomes(futures: list[asyncio.Future[Any]]) -> list[int | str]:
    """The seq or the error code of each."""
    done = await asyncio.gather(*futures, return_exceptions=True)
    return [outcome.code if isinstance(outcome, ChatError) else cast("Done", outcome).seq for outcome in done]


def change(work: Callable[[Connection, RoomRow, datetime], Awaitable[Changed]]) -> Change:
    """A change of a chatroom that is there."""

    async def run(conn: Connection, room: RoomRow | None, now: datetime) -> Changed:
        assert room is not None
        return await work(conn, room, now)

    return run


def event(room: RoomRow, offset: int = 1) -> CommittedEvent:
    """A durable event for a change, numbered from the room's head."""
    data = MemberUpdated(chatroom_id=room.id, user_id=uuid7(), role="member")
    return CommittedEvent(room.id, room.last_seq + offset, "member_updated", data)
