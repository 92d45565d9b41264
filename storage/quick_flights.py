"""The quick way of a flight: decided on what is remembered, written by one statement, where that still holds.

The statement is a transaction by itself: no lock outlives it, and it takes one trip
to the server and back. It takes the chatrooms' locks by updating their rows, as they were
when they were read; `storage.known` says why that is enough to know who may write. What
it leaves out is for the locked way, which reads everything anew: a chatroom that somebody
else has changed, and every answer but a new message.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from operator import attrgetter
from typing import Any
from uuid import UUID

from storage.database import Database
from storage.flights import Decision, Numbers, Send
from storage.known import READ, Known
from storage.messages import StoredMessage
from storage.standing import Standing

_WRITE = """
WITH head AS (
    UPDATE chatrooms c SET last_seq = h.seq + h.count, message_count = c.message_count + h.count
    FROM unnest($1::uuid[], $2::xid[], $3::bigint[], $4::int[])
         WITH ORDINALITY AS h(id, version, seq, count, place)
    WHERE c.id = h.id AND c.xmin = h.version AND c.last_seq = h.seq
      AND (SELECT count(*) FROM unnest($5::uuid[], $6::xid[]) AS k(id, version)
           JOIN users u ON u.id = k.id AND u.xmin = k.version) = cardinality($5)
      AND c.id <> ALL (ARRAY(
           SELECT k.chatroom_id FROM unnest($7::uuid[], $8::uuid[]) AS k(chatroom_id, id)
           WHERE NOT EXISTS (SELECT FROM messages r WHERE r.chatroom_id = k.chatroom_id AND r.id = k.id)))
    RETURNING h.place, c.xmin AS version
), written AS (
    INSERT INTO messages (chatroom_id, seq, id, sender_id, client_id, message_type, reply_to,
                          key_version, nonce, sealed, created_at)
    SELECT ($1)[n.place], n.seq, n.id, n.sender_id, n.client_id, n.message_type, n.reply_to,
           n.key_version, n.nonce, n.sealed, to_timestamp(n.created_at)
    FROM unnest($9::int[], $10::bigint[], $11::uuid[], $12::uuid[], $13::text[], $14::text[], $15::uuid[],
                $16::int[], $17::bytea[], $18::bytea[], $19::float8[])
         AS n(place, seq, id, sender_id, client_id, message_type, reply_to, key_version, nonce, sealed, created_at)
    WHERE n.place = ANY (ARRAY(SELECT place FROM head))
    RETURNING chatroom_id, seq, id, created_at
), announced AS (
    INSERT INTO events (chatroom_id, seq, kind, message_id, created_at)
    SELECT chatroom_id, seq, 'message_received', id, created_at FROM written
)
SELECT place, version FROM head
"""
"""Chatrooms come in the order of their ids, and so do their locks. Two senders' duplicates break a unique key."""


async def fly_quickly(
    database: Database, standing: Standing, known: Known, sends: Sequence[Send], heads: dict[UUID, int]
) -> list[Decision | None]:
    """What each send came to, and None where the locked way has to find out.

    Fills `heads` with the seq before, where something may be written. Raises ChatError SERVICE_UNAVAILABLE when that is
    not known, and whatever the database refuses; then nothing is written.
    """
    losses = database.losses
    if await database.renew(standing):
        known.clear()
    if missing := known.missing(sends):
        known.learn(await database.read(standing, READ, *map(list, zip(*missing, strict=True))))
    outcomes = _decide(known, sends)
    flight = _Flight(known, [o.message for o in outcomes if o is not None and o.message is not None])
    if not flight.rooms:
        return outcomes
    heads.update((chatroom_id, room.seq) for chatroom_id, room in flight.rooms.items())
    flight.land(await database.write(standing, losses, _WRITE, *flight.arguments()))
    return [o if send.chatroom_id in known.rooms else None for send, o in zip(sends, outcomes, strict=True)]


def _decide(known: Known, sends: Sequence[Send]) -> list[Decision | None]:
    """Applies the rules to what is remembered. A chatroom goes one way with all its sends, which keeps their order."""
    numbers = Numbers({id: room.seq for send in sends if (room := known.rooms.get(id := send.chatroom_id))})
    outcomes: list[Decision | None] = []
    left: set[UUID] = set()
    for send in sends:
        outcome = None if send.chatroom_id in left else _try(numbers, send, known)
        if outcome is None:
            left.add(send.chatroom_id)
        outcomes.append(outcome)
    if not left:
        return outcomes
    return [None if send.chatroom_id in left else outcome for send, outcome in zip(sends, outcomes, strict=True)]


def _try(numbers: Numbers, send: Send, known: Known) -> Decision | None:
    """A refusal on what is only remembered would be none: the locked way finds it again, or has no reason for it."""
    facts = None if send.file_ids else known.facts(send)
    if facts is None:
        return None
    try:
        return numbers.decide(send, facts)
    except Exception:
        return None


class _Flight:
    """Messages, and what is remembered of their chatrooms, in the order of the locks."""

    def __init__(self, known: Known, messages: list[StoredMessage]) -> None:
        self._known = known
        self._messages = messages
        ids = sorted({message.chatroom_id for message in messages}, key=attrgetter("int"))
        self.rooms = {id: known.rooms[id] for id in ids}
        self._counts = Counter(message.chatroom_id for message in messages)

    def arguments(self) -> tuple[list[Any], ...]:
        """Those of _WRITE."""
        messages, rooms = self._messages, self.rooms
        users = [self._known.users[id] for id in {message.sender_id for message in messages}]
        replies = [(message.chatroom_id, message.reply_to) for message in messages if message.reply_to is not None]
        places = {chatroom_id: place for place, chatroom_id in enumerate(rooms, start=1)}
        return (
            list(rooms),
            [room.version for room in rooms.values()],
            [room.seq for room in rooms.values()],
            [self._counts[chatroom_id] for chatroom_id in rooms],
            [known.user.id for known in users],
            [known.version for known in users],
            [chatroom_id for chatroom_id, _ in replies],
            [message_id for _, message_id in replies],
            [places[message.chatroom_id] for message in messages],
            [message.seq for message in messages],
            [message.id for message in messages],
            [message.sender_id for message in messages],
            [message.client_id for message in messages],
            [message.message_type for message in messages],
            [message.reply_to for message in messages],
            [message.key_version for message in messages],
            [message.nonce for message in messages],
            [message.sealed for message in messages],
            [message.created_at.timestamp() for message in messages],  # a quarter of what the driver takes for a time
        )

    def land(self, written: list[Any]) -> None:
        """Remembers the chatrooms as they were written, and forgets those that had changed."""
        versions = {row["place"]: row["version"] for row in written}
        for place, (chatroom_id, room) in enumerate(self.rooms.items(), start=1):
            if place in versions:
                room.version = versions[place]
                room.seq += self._counts[chatroom_id]
            else:
                self._known.forget(chatroom_id)
