"""Group commit of durable events: what arrives while a commit is under way goes together with the next.

A room belongs to one lane, and a lane flies one transaction at a time: lock the
rooms in id order, read what the rules need, let them decide, write everything,
COMMIT, and only then settle and publish. `seq` is taken under the room's lock,
so commit order is seq order and there are no holes.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
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
from storage.database import Connection, Database
from storage.messages import StoredMessage, stored_message

log = logging.getLogger(__name__)

FLIGHT = 256
"""Sends in one transaction. Measured with `python -m bench durable`; larger ones only add latency."""
QUEUE = 20_000
"""Entries that may wait in a lane; beyond that the database is not keeping up and senders are told."""


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


class CommittedEvent(Struct, frozen=True):
    """A durable event on its way to those who hear the chatroom. `adds` begin to hear it, `removes` cease to."""

    chatroom_id: UUID
    seq: int
    kind: str
    data: Event
    adds: tuple[UUID, ...] = ()
    removes: tuple[UUID, ...] = ()


class Facts(Struct):
    """What the rules of a send may look at; read in the transaction that writes."""

    room: RoomRow | None
    sender: User | None
    role: Role | None
    duplicate: StoredMessage | None
    reply_exists: bool
    seq: int
    now: datetime


class Decision(Struct, frozen=True):
    """What a send comes to. Without `message` nothing is written, as for a duplicate."""

    result: Event
    message: StoredMessage | None = None
    event: CommittedEvent | None = None


Settle = Callable[[Any], None]
"""Takes the result, or the exception, once it is certain."""


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


class _SendEntry(Struct):
    send: Send
    settle: Settle


@dataclass(slots=True)
class _ChangeEntry:
    chatroom_id: UUID
    change: Change
    settle: Settle


@dataclass(slots=True)
class _Mark:
    """A place in the queue: settled when everything before it is."""

    settle: Settle


class Journal:
    """The one way in for everything durable. `publish` is called after each commit, in seq order.

    `doubt` is called with rooms and their seq before a flight whose COMMIT may or
    may not have happened, because the connection broke. `observe` gets the size
    and the seconds of each flight that landed.
    """

    def __init__(
        self,
        database: Database,
        publish: Callable[[list[CommittedEvent]], None],
        doubt: Callable[[dict[UUID, int]], None],
        observe: Callable[[int, float], None],
        lanes: int = 2,
    ) -> None:
        self._lanes = [_Lane(database, publish, doubt, observe) for _ in range(lanes)]

    def send(self, send: Send, settle: Settle) -> None:
        """Queues a message. `settle` is called once: with the result after COMMIT, or with the exception."""
        self._lane(send.chatroom_id).put(_SendEntry(send, settle))

    async def change(self, chatroom_id: UUID, change: Change) -> Any:
        """Runs a change under the chatroom's lock, in its turn among the sends, and returns its result."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._lane(chatroom_id).put(_ChangeEntry(chatroom_id, change, settle_future(future)))
        return await future

    async def drain(self) -> None:
        """Waits until everything that is queued now is settled; what comes meanwhile does not hold it up."""
        for lane in self._lanes:
            await lane.drain()

    def _lane(self, chatroom_id: UUID) -> _Lane:
        return self._lanes[chatroom_id.int % len(self._lanes)]


def settle_future(future: asyncio.Future[Any]) -> Settle:
    """A Settle that resolves a future; a waiter who has gone away is no error."""

    def settle(outcome: Any) -> None:
        if future.done():
            return
        if isinstance(outcome, BaseException):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)

    return settle


class _Lane:
    """A queue and the one flight that empties it."""

    def __init__(
        self,
        database: Database,
        publish: Callable[[list[CommittedEvent]], None],
        doubt: Callable[[dict[UUID, int]], None],
        observe: Callable[[int, float], None],
    ) -> None:
        self._database = database
        self._publish = publish
        self._doubt = doubt
        self._observe = observe
        self._queue: deque[_SendEntry | _ChangeEntry | _Mark] = deque()
        self._task: asyncio.Task[None] | None = None

    def put(self, entry: _SendEntry | _ChangeEntry) -> None:
        if len(self._queue) >= QUEUE:
            entry.settle(ChatError("SERVICE_UNAVAILABLE", "Too many messages are waiting.", retry_after=1.0))
            return
        self._queue.append(entry)
        if self._task is None:
            self._task = asyncio.create_task(self._fly())

    async def drain(self) -> None:
        if self._task is None:
            return
        passed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append(_Mark(settle_future(passed)))
        await asyncio.wait({passed, self._task}, return_when=asyncio.FIRST_COMPLETED)

    async def _fly(self) -> None:
        try:
            while self._queue:
                entry = self._queue[0]
                if isinstance(entry, _SendEntry):
                    await self._fly_sends(self._next_sends())
                    continue
                self._queue.popleft()
                if isinstance(entry, _ChangeEntry):
                    await self._fly_change(entry)
                else:
                    entry.settle(None)
        finally:
            self._task = None

    def _next_sends(self) -> list[_SendEntry]:
        """The sends before the next change: a change may alter what a later send is allowed."""
        sends: list[_SendEntry] = []
        while self._queue and len(sends) < FLIGHT and isinstance(entry := self._queue[0], _SendEntry):
            sends.append(entry)
            self._queue.popleft()
        return sends

    async def _fly_sends(self, entries: list[_SendEntry]) -> None:
        started = time.perf_counter()
        heads: dict[UUID, int] = {}
        try:
            async with self._database.transaction() as conn:
                outcomes = await _write_sends(conn, entries, heads)
        except ChatError as error:
            self._doubt(heads)
            _settle_all(entries, error)
            return
        except Exception as error:
            await self._isolate(entries, error)
            return
        self._observe(len(entries), time.perf_counter() - started)
        results = [outcome.result if isinstance(outcome, Decision) else outcome for outcome in outcomes]
        events = [o.event for o in outcomes if isinstance(o, Decision) and o.event is not None]
        self._land([entry.settle for entry in entries], results, events)

    async def _isolate(self, entries: list[_SendEntry], error: Exception) -> None:
        """One entry that the database refuses must not take the others down: fly each alone."""
        if len(entries) == 1:
            log.error("a send failed", exc_info=error)
            entries[0].settle(ChatError("INTERNAL_ERROR"))
            return
        for entry in entries:
            await self._fly_sends([entry])

    async def _fly_change(self, entry: _ChangeEntry) -> None:
        started = time.perf_counter()
        heads: dict[UUID, int] = {}
        try:
            async with self._database.transaction() as conn:
                changed = await _write_change(conn, entry, heads)
        except ChatError as error:
            self._doubt(heads)
            entry.settle(error)
            return
        except Exception as error:
            log.error("a change failed", exc_info=error)
            entry.settle(ChatError("INTERNAL_ERROR"))
            return
        self._observe(1, time.perf_counter() - started)
        self._land([entry.settle], [changed.result], list(changed.events))

    def _land(self, settles: list[Settle], results: list[Any], events: list[CommittedEvent]) -> None:
        """Acks first, then the events: a sender knows its message before it hears it.

        What is committed is done: a listener's failure must not stop the lane, nor keep the news from the others.
        """
        for settle, result in zip(settles, results, strict=True):
            try:
                settle(result)
            except Exception:
                log.exception("an answer could not be given")
        try:
            self._publish(events)
        except Exception:
            log.exception("committed events could not be published; the sweep will find them")


def _settle_all(entries: list[_SendEntry], error: Exception) -> None:
    for entry in entries:
        entry.settle(error)


def _now() -> datetime:
    return datetime.now(UTC)


async def _lock(conn: Connection, chatroom_ids: Sequence[UUID]) -> dict[UUID, RoomRow]:
    """Locks rows in id order, so that two flights never wait for each other."""
    rows = await conn.fetch(
        """SELECT id, kind, owner_id, last_seq, member_count, max_members, encryption_enabled FROM chatrooms
           WHERE id = ANY($1::uuid[]) AND deleted_at IS NULL ORDER BY id FOR NO KEY UPDATE""",
        chatroom_ids,
    )
    return {row["id"]: RoomRow(*row.values()) for row in rows}


_FACTS = """
SELECT m.role, u.username, u.display_name, u.avatar_url,
       k.reply_to IS NULL OR EXISTS (
           SELECT 1 FROM messages r WHERE r.chatroom_id = k.chatroom_id AND r.id = k.reply_to) AS reply_exists,
       d.chatroom_id, d.seq, d.id, d.sender_id, d.client_id, d.message_type, d.reply_to, d.key_version,
       d.nonce, d.sealed, d.created_at, d.edited_at
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


async def _write_change(conn: Connection, entry: _ChangeEntry, heads: dict[UUID, int]) -> Changed:
    """Fills `heads` once something is written, so that a broken COMMIT leaves a trace to follow."""
    room = (await _lock(conn, [entry.chatroom_id])).get(entry.chatroom_id)
    changed = await entry.change(conn, room, _now())
    await _write_events(conn, changed.events)
    heads.update({event.chatroom_id: event.seq - 1 for event in reversed(changed.events)})
    return changed


async def _write_sends(
    conn: Connection, entries: list[_SendEntry], heads: dict[UUID, int]
) -> list[Decision | Exception]:
    sends = [entry.send for entry in entries]
    rooms = await _lock(conn, list({send.chatroom_id for send in sends}))
    outcomes = _decide(sends, rooms, await _read_facts(conn, sends), _now())
    messages = [o.message for o in outcomes if isinstance(o, Decision) and o.message is not None]
    if messages:
        await _write_messages(conn, messages)
        heads.update({message.chatroom_id: message.seq - 1 for message in reversed(messages)})
    return outcomes


def _decide(
    sends: list[Send], rooms: dict[UUID, RoomRow], rows: list[Any], now: datetime
) -> list[Decision | Exception]:
    """Applies each send's rules in order, numbering as it goes; a twin in the same flight is a duplicate too."""
    heads = {room.id: room.last_seq for room in rooms.values()}
    written: dict[tuple[UUID, UUID, str], StoredMessage] = {}
    outcomes: list[Decision | Exception] = []
    for send, row in zip(sends, rows, strict=True):
        twin = written.get((send.chatroom_id, send.sender_id, send.client_id)) if send.client_id else None
        facts = _facts(rooms.get(send.chatroom_id), send, row, twin, heads.get(send.chatroom_id, 0) + 1, now)
        try:
            decision = send.decide(facts)
        except Exception as error:
            outcomes.append(_refusal(error))
            continue
        outcomes.append(decision)
        if decision.message is not None:
            heads[send.chatroom_id] = decision.message.seq
            if send.client_id:
                written[send.chatroom_id, send.sender_id, send.client_id] = decision.message
    return outcomes


def _refusal(error: Exception) -> ChatError:
    if isinstance(error, ChatError):
        return error
    log.error("the rules of a send failed", exc_info=error)
    return ChatError("INTERNAL_ERROR")


def _facts(room: RoomRow | None, send: Send, row: Any, twin: StoredMessage | None, seq: int, now: datetime) -> Facts:
    sender = None
    if row["role"] is not None:
        sender = User(
            id=send.sender_id,
            username=row["username"],
            display_name=row["display_name"],
            avatar_url=row["avatar_url"],
        )
    if twin is None and row["id"] is not None:
        twin = stored_message(row)
    return Facts(room, sender, row["role"], twin, row["reply_exists"], seq, now)


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
