"""The quick way of a flight: what is remembered counts for nothing once somebody else has written."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from uuid_utils.compat import uuid7

from storage import rooms, wrapped_keys
from storage.database import Connection
from storage.flights import Changed, Facts, RoomRow
from tests.storage.book import Book, Entry, beside, change, event, outcomes

NOW = datetime(2026, 1, 1, tzinfo=UTC)


async def _warm(book: Book) -> None:
    """Everything about both members is remembered."""
    await outcomes([book.send(room, person) for room in (0, 1) for person in (0, 1)])


async def _shown(book: Book) -> tuple[int | str, Facts]:
    """What Ann's next send comes to, and what its rules saw last."""
    entry = Entry(book.rooms[0], book.people[0])
    (outcome,) = await outcomes([book.put(entry)])
    return outcome, entry.facts[-1]


@asynccontextmanager
async def _waiting(book: Book) -> AsyncIterator[Connection]:
    """A transaction of somebody else. At the end it is committed, but not before a statement waits for its locks."""
    async with book.db.transaction() as conn:
        yield conn
        await _until_one_waits(conn)


async def _until_one_waits(conn: Connection) -> None:
    async with asyncio.timeout(30):
        while not await conn.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
            await asyncio.sleep(0.001)


Alter = Callable[[Connection, UUID, UUID], Awaitable[Any]]

ALTERATIONS: dict[str, tuple[Alter, Callable[[Facts], bool]]] = {
    "removed": (rooms.remove_member, lambda facts: facts.role is None),
    "muted": (lambda conn, room, ann: rooms.mute(conn, room, ann, 60), lambda facts: facts.muted_until is not None),
    "promoted": (
        lambda conn, room, ann: rooms.set_role(conn, room, ann, "moderator"),
        lambda facts: facts.role == "moderator",
    ),
    "deleted": (lambda conn, room, _: rooms.mark_deleted(conn, room, NOW), lambda facts: facts.room is None),
    "encrypted": (
        lambda conn, room, _: rooms.update(conn, room, {"encryption_enabled": True}, NOW),
        lambda facts: facts.room is not None and facts.room.encryption_enabled,
    ),
    "newer key": (
        lambda conn, room, _: wrapped_keys.set_version(conn, room, 3),
        lambda facts: facts.room is not None and facts.room.member_key_version == 3,
    ),
    "key out of use": (
        lambda conn, room, _: wrapped_keys.retire(conn, room, 4),
        lambda facts: facts.room is not None and facts.room.min_member_key_version == 5,
    ),
}
SILENT = ("newer key", "key out of use")
"""What may happen without an event."""


def _alter(name: str, book: Book) -> Callable[[Connection, RoomRow, Any], Awaitable[Changed]]:
    async def run(conn: Connection, room: RoomRow, _: Any) -> Changed:
        await ALTERATIONS[name][0](conn, room.id, book.people[0])
        return Changed(None, () if name in SILENT else [event(room)])

    return run


class TestAnotherNode:
    async def test_before_the_flight(self, book: Book) -> None:
        """What another node has changed in a chatroom, a send sees that comes after it, events or none."""
        other = beside(book)
        for name, (_, is_seen) in ALTERATIONS.items():
            await book.renew_room()
            await _warm(book)
            await other.journal.change(book.rooms[0], change(_alter(name, book)))
            assert is_seen((await _shown(book))[1]), name

    async def test_during_the_flight(self, book: Book) -> None:
        """A change that is committed while the send's statement waits for its lock counts, too."""
        for name, (alter, is_seen) in ALTERATIONS.items():
            await book.renew_room()
            await _warm(book)
            async with _waiting(book) as conn:
                await alter(conn, book.rooms[0], book.people[0])
                if name not in SILENT:
                    await conn.execute("UPDATE chatrooms SET last_seq = last_seq + 1 WHERE id = $1", book.rooms[0])
                sending = asyncio.create_task(_shown(book))
            assert is_seen((await sending)[1]), name

    async def test_a_message_of_theirs(self, book: Book) -> None:
        """Numbers go on from what another node has written, and its chatrooms alone take longer."""
        await _warm(book)
        other = beside(book)
        assert await outcomes([other.send(), other.send()]) == [3, 4]
        assert await outcomes([book.send(), book.send(1), book.send()]) == [5, 3, 6]
        assert (await book.seqs())[2] == 6

    async def test_their_duplicate(self, book: Book) -> None:
        """A retry of what another node has written is a duplicate, and the rest of its flight lands."""
        await _warm(book)
        assert (await beside(book).send(client_id="same")).seq == 3
        assert await outcomes([book.send(), book.send(client_id="same"), book.send(1)]) == [4, 3, 3]

    async def test_their_duplicate_at_the_same_time(self, book: Book) -> None:
        """Two nodes that have the same message at once write it once."""
        await _warm(book)
        other = beside(book)
        await _warm(other)
        found = await outcomes([node.send(client_id=f"{n}") for n in range(20) for node in (book, other)])
        assert found[::2] == found[1::2]
        assert sorted({int(seq) for seq in found}) == list(range(5, 25))


class TestWhatElseIsLooked:
    async def test_profile(self, book: Book) -> None:
        """A message bears the name that its sender has at that moment."""
        await _warm(book)
        await book.execute("UPDATE users SET display_name = 'Anne' WHERE username = 'ann'")
        _, facts = await _shown(book)
        assert facts.sender is not None
        assert facts.sender.display_name == "Anne"

    async def test_reply_to_nothing(self, book: Book) -> None:
        """A reply to what is not there is shown as one; the chatroom's other sends keep their order."""
        await _warm(book)
        entry = Entry(book.rooms[0], book.people[0], reply_to=uuid7())
        futures = [book.send(), book.put(entry), book.send(), book.send(1)]
        assert await outcomes(futures) == [3, "MESSAGE_NOT_FOUND", 4, 3]

    async def test_end_of_a_mute(self, book: Book) -> None:
        """Who was muted once is remembered like others, and like others seen when they are muted again."""
        await book.execute("UPDATE members SET muted_until = now() - interval '1 hour'")
        await _warm(book)
        assert (await _shown(book))[0] == 3
        await beside(book).journal.change(book.rooms[0], change(_alter("muted", book)))
        _, facts = await _shown(book)
        assert facts.muted_until is not None
        assert facts.muted_until > facts.now

    async def test_too_much_to_remember(self, book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
        """When more is remembered than may be, all of it is forgotten, and nobody notices."""
        monkeypatch.setattr("storage.known.ROLES", 1)
        await _warm(book)
        assert await outcomes([book.send(room, person) for room in (0, 1) for person in (0, 1)]) == [3, 4, 3, 4]


class TestTheWayItself:
    async def test_takes_no_lock_that_outlives_it(self, book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
        """What is remembered needs no transaction that is begun and ended by itself."""
        await _warm(book)
        monkeypatch.setattr(book.db, "transaction", None)
        assert await outcomes([book.send(), book.send(1, 1)]) == [3, 3]

    @pytest.mark.parametrize(("table", "forgotten", "doubted"), [("members", True, False), ("messages", False, True)])
    async def test_connection_lost(self, book: Book, table: str, forgotten: bool, doubted: bool) -> None:
        """When the connection breaks while it reads or writes, the send is to be tried again, and then it lands."""
        await _warm(book)
        if forgotten:
            await beside(book).send()  # after which there is something to read again
        head = 2 + forgotten
        async with book.db.transaction() as conn:
            await conn.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
            sending = book.send()
            await _until_one_waits(conn)
            await conn.execute("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE NOT granted")
            assert await outcomes([sending]) == ["SERVICE_UNAVAILABLE"]
        assert book.doubts == [{book.rooms[0]: head} if doubted else {}]
        assert await outcomes([book.send()]) == [head + 1]

    async def test_connection_lost_between_flights(self, book: Book) -> None:
        """A connection that broke while nobody used it is opened again, at worst after one flight is to be tried again.

        What was remembered of the server behind it is not trusted with the one that answers now, which may have been
        restored from a copy.
        """
        await _warm(book)
        await book.execute(f"DELETE FROM members WHERE user_id = '{book.people[0]}'")
        await book.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND state = 'idle'"
        )
        found = [*await outcomes([book.send(person=1)]), *await outcomes([book.send(person=1), book.send()])]
        assert found in ([3, 4, "CHATROOM_NOT_FOUND"], ["SERVICE_UNAVAILABLE", 3, "CHATROOM_NOT_FOUND"])
