"""Group commit: what goes into the journal together lands together, in order, and one bad entry harms nobody else."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Any

import pytest
from uuid_utils.compat import uuid7

from protocol.errors import ChatError
from storage import journal as module
from storage.database import Connection, Database
from storage.flights import Changed, RoomRow
from storage.standing import Standing
from tests.storage.book import Book, Entry, beside, change, event, outcomes


class TestNumbering:
    async def test_order(self, book: Book) -> None:
        """Sends get their numbers in the order they came, without holes, in one flight."""
        assert await outcomes([book.send() for _ in range(50)]) == list(range(1, 51))
        assert book.flights == [50]
        assert await book.seqs() == (list(range(1, 51)), list(range(1, 51)), 50)
        assert book.published == [(book.rooms[0], seq) for seq in range(1, 51)]

    async def test_each_room_counts_for_itself(self, book: Book) -> None:
        """In a flight of several chatrooms each has numbers of its own."""
        assert await outcomes([book.send(room) for room in (0, 1, 0, 0, 1)]) == [1, 1, 2, 3, 2]
        assert book.flights == [5]
        assert [await book.seqs(room) for room in (0, 1)] == [([1, 2, 3], [1, 2, 3], 3), ([1, 2], [1, 2], 2)]

    async def test_what_waits_goes_together(self, book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
        """What arrives while a flight is under way goes with the next, which takes no more than fit."""
        monkeypatch.setattr(module, "FLIGHT", 4)
        first = book.send()
        await asyncio.sleep(0)
        rest = [book.send() for _ in range(6)]
        assert await outcomes([first, *rest]) == [1, 2, 3, 4, 5, 6, 7]
        assert book.flights == [1, 4, 2]

    async def test_two_journals(self, book: Book) -> None:
        """Two nodes that write to one chatroom take turns under its lock: no number twice, none left out."""
        other = beside(book)
        futures = []
        for _ in range(20):
            futures += [writer.send(room) for writer in (book, other) for room in (0, 1)]
            await asyncio.sleep(0.001)
        await outcomes(futures)
        expected = list(range(1, 41))
        assert [await book.seqs(room) for room in (0, 1)] == [(expected, expected, 40)] * 2
        assert sorted(book.published + other.published) == sorted((room, n) for room in book.rooms for n in expected)

    async def test_refused_sends_leave_no_hole(self, book: Book) -> None:
        """A send that the rules refuse gets its error, and no number; so does one whose rules fail."""
        futures = [
            book.send(),
            book.send(refuse=ChatError("MESSAGE_TOO_LONG")),
            book.send(refuse=RuntimeError("a mistake of ours")),
            book.send(),
        ]
        assert await outcomes(futures) == [1, "MESSAGE_TOO_LONG", "INTERNAL_ERROR", 2]
        assert await book.seqs() == ([1, 2], [1, 2], 2)

    async def test_acks_before_events(self, book: Book) -> None:
        """Senders are answered before anyone hears of their messages."""
        await outcomes([book.send() for _ in range(3)])
        assert book.order == ["settled"] * 3 + ["published"] * 3

    async def test_durable_before_the_ack(self, book: Book) -> None:
        """At the moment a send is settled its message is committed."""
        seen: list[int] = []
        future = book.send()
        checked = asyncio.Event()

        async def look() -> None:
            ((count,),) = await book.rows("SELECT count(*) FROM messages")
            seen.append(count)
            checked.set()

        future.add_done_callback(lambda _: asyncio.ensure_future(look()))
        await checked.wait()
        assert seen == [1]


class TestFacts:
    async def test_what_the_rules_see(self, book: Book) -> None:
        """A member is shown with role and profile, a stranger with neither; a reply's target is looked for."""
        await book.send()
        ((message_id,),) = await book.rows("SELECT id FROM messages")
        entries = [
            Entry(book.rooms[0], book.people[1], reply_to=message_id),
            Entry(book.rooms[0], book.people[1], reply_to=uuid7()),
            Entry(book.rooms[1], book.people[1], reply_to=message_id),
            Entry(book.rooms[0], book.people[2]),
            Entry(uuid7(), book.people[0]),
        ]
        await asyncio.gather(*(book.put(entry) for entry in entries), return_exceptions=True)
        shown = [entry.facts[-1] for entry in entries]
        assert [facts.reply_exists for facts in shown] == [True, False, False, True, True]
        assert [facts.role for facts in shown] == ["member", "member", "member", None, None]
        assert [facts.sender.username if facts.sender else None for facts in shown] == ["bob", "bob", "bob", None, None]
        assert [facts.room is None for facts in shown] == [False, False, False, False, True]


class TestDuplicates:
    async def test_twins_in_one_flight(self, book: Book) -> None:
        """Copies of one send in one flight write one message, and all are told of that one."""
        futures = [book.send(client_id="same"), book.send(client_id="other"), book.send(client_id="same")]
        assert await outcomes(futures) == [1, 2, 1]
        assert book.flights == [3]
        assert await book.seqs() == ([1, 2], [1, 2], 2)

    async def test_later_copy(self, book: Book) -> None:
        """A copy in a later flight finds the first message; nothing is written or published."""
        await book.send(client_id="same")
        published = list(book.published)
        assert (await book.send(client_id="same")).seq == 1
        assert book.published == published
        assert await book.seqs() == ([1], [1], 1)

    async def test_scope(self, book: Book) -> None:
        """The id belongs to one sender in one chatroom: others may use the same."""
        futures = [book.send(room, person, client_id="same") for room in (0, 1) for person in (0, 1)]
        assert await outcomes(futures) == [1, 2, 1, 2]

    async def test_twin_of_a_refused_one(self, book: Book) -> None:
        """A send that was refused has written nothing that a copy could find."""
        futures = [book.send(client_id="same", refuse=ChatError("MESSAGE_TOO_LONG")), book.send(client_id="same")]
        assert await outcomes(futures) == ["MESSAGE_TOO_LONG", 1]


class TestPoison:
    async def test_only_the_poison_fails(self, book: Book) -> None:
        """An entry that the database refuses fails alone: the others of its flight land, in order, without a hole."""
        futures = [book.send(), book.send(nonce=None), book.send(1), book.send()]
        assert await outcomes(futures) == [1, "INTERNAL_ERROR", 1, 2]
        assert await book.seqs() == ([1, 2], [1, 2], 2)
        assert book.published == [(book.rooms[0], 1), (book.rooms[1], 1), (book.rooms[0], 2)]
        assert await book.send() is not None

    async def test_nothing_of_it_reaches_the_log(self, book: Book, caplog: pytest.LogCaptureFixture) -> None:
        """The failure is logged once, without the values of the row."""
        await outcomes([book.send(), book.send(nonce=None, client_id="planted-client-id")])
        assert [record.getMessage() for record in caplog.records] == ["a send failed"]
        assert "planted-client-id" not in caplog.text
        assert b"sealed".hex() not in caplog.text


class TestChanges:
    async def test_alone_and_in_turn(self, book: Book) -> None:
        """A change flies alone between the sends before and after it, and these see what it did."""

        async def remove_ann(conn: Connection, room: RoomRow, _: datetime) -> Changed:
            await conn.execute("DELETE FROM members WHERE chatroom_id = $1 AND user_id = $2", room.id, book.people[0])
            return Changed("removed", [event(room)])

        first = book.send()
        await asyncio.sleep(0)  # it is on its way, so that all of the following wait together
        before = [book.send(), book.send()]
        changing = asyncio.create_task(book.journal.change(book.rooms[0], change(remove_ann)))
        await asyncio.sleep(0)
        after = [book.send(), book.send(person=1), book.send(1)]
        assert await outcomes([first, *before, *after]) == [1, 2, 3, "CHATROOM_NOT_FOUND", 5, 1]
        assert await changing == "removed"
        assert book.flights == [1, 2, 1, 1, 2]  # the other chatroom need not wait for the lock
        assert await book.seqs() == ([1, 2, 3, 5], [1, 2, 3, 4, 5], 5)

    async def test_refused(self, book: Book) -> None:
        """A change that is refused undoes what it did, and the journal goes on."""

        async def refuse(conn: Connection, room: RoomRow, _: datetime) -> Changed:
            await conn.execute("DELETE FROM members WHERE chatroom_id = $1", room.id)
            raise ChatError("CHATROOM_OWNER_REQUIRED")

        with pytest.raises(ChatError, match="CHATROOM_OWNER_REQUIRED"):
            await book.journal.change(book.rooms[0], change(refuse))
        assert (await book.send()).seq == 1

    async def test_broken(self, book: Book) -> None:
        """A change with a mistake in it is an internal error to its caller, and harms nobody else."""

        async def fail(conn: Connection, room: RoomRow, _: datetime) -> Changed:
            await conn.execute("SELECT nonsense")
            raise AssertionError

        with pytest.raises(ChatError, match="INTERNAL_ERROR"):
            await book.journal.change(book.rooms[0], change(fail))
        assert (await book.send()).seq == 1

    async def test_several_events(self, book: Book) -> None:
        """A change may have several events, one number each; they are published in order after the answer."""

        async def two(conn: Connection, room: RoomRow, _: datetime) -> Changed:
            return Changed(None, [event(room, 1), event(room, 2)])

        await book.send()
        await book.journal.change(book.rooms[0], change(two))
        assert (await book.send()).seq == 4
        assert book.published == [(book.rooms[0], seq) for seq in (1, 2, 3, 4)]

    async def test_no_such_room(self, book: Book) -> None:
        """A change of a chatroom that is not there is run, and told so."""

        async def look(conn: Connection, room: RoomRow | None, _: datetime) -> Changed:
            return Changed(room)

        assert await book.journal.change(uuid7(), look) is None


_DIE_AT_COMMIT = """
CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END $$;
CREATE CONSTRAINT TRIGGER die AFTER UPDATE ON chatrooms DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION die();
"""


class TestDoubt:
    async def test_broken_commit(self, book: Book) -> None:
        """When the connection breaks in COMMIT, all are told to try again, and the heads before it are doubted."""
        await outcomes([book.send(), book.send(), book.send(1)])
        await book.execute(_DIE_AT_COMMIT)
        futures = [book.send(), book.send(1), book.send()]
        assert await outcomes(futures) == ["SERVICE_UNAVAILABLE"] * 3
        assert book.doubts == [{book.rooms[0]: 2, book.rooms[1]: 1}]
        assert len(book.published) == 3
        await book.execute("DROP TRIGGER die ON chatrooms")
        assert (await book.send()).seq == 3

    async def test_retry_after(self, book: Book) -> None:
        """The error says when to come back."""
        await book.execute(_DIE_AT_COMMIT)
        with pytest.raises(ChatError) as refusal:
            await book.send()
        assert refusal.value.retry_after
        assert refusal.value.kind.retryable

    async def test_broken_change(self, book: Book) -> None:
        """The same for a change."""

        async def one(conn: Connection, room: RoomRow, _: datetime) -> Changed:
            return Changed(None, [event(room, 1), event(room, 2)])

        await book.send()
        await book.execute(_DIE_AT_COMMIT)
        with pytest.raises(ChatError, match="SERVICE_UNAVAILABLE"):
            await book.journal.change(book.rooms[0], change(one))
        assert book.doubts == [{book.rooms[0]: 1}]

    async def test_landed_after_all(self, book: Book, db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        """If the commit had happened, a retry finds its message; only the doubt can still tell the others of it."""
        lost = _AnswerLost(db)
        monkeypatch.setattr(book.journal._lanes[0], "_database", lost)
        assert await outcomes([book.send(client_id="same")]) == ["SERVICE_UNAVAILABLE"]
        assert book.doubts == [{book.rooms[0]: 0}]
        assert book.published == []
        lost.lose = False
        assert (await book.send(client_id="same")).seq == 1
        assert await book.seqs() == ([1], [1], 1)


class _AnswerLost:
    """A database whose answer to COMMIT is lost."""

    losses = 0

    def __init__(self, database: Database) -> None:
        self._database = database
        self.lose = True

    async def renew(self, standing: Standing) -> bool:
        """The connection is there."""
        return await self._database.renew(standing)

    async def read(self, standing: Standing, query: str, *args: Any) -> list[Any]:
        """Reads are answered."""
        return await self._database.read(standing, query, *args)

    async def write(self, standing: Standing, losses: int, query: str, *args: Any) -> list[Any]:
        """Commits, and says that it may not have."""
        written = await self._database.write(standing, losses, query, *args)
        if self.lose:
            raise ChatError("SERVICE_UNAVAILABLE", retry_after=1.0)
        return written

    def transaction(self) -> AbstractAsyncContextManager[Connection]:
        """The locked way is not disturbed."""
        return self._database.transaction()


async def _no_change(conn: Connection, room: RoomRow | None, now: datetime) -> Changed:
    """Writes nothing."""
    return Changed(None)


class _Pause:
    """The guard of a node that is paused during a flight, and finds then that it has lost a session."""

    losses = 0

    async def passed(self) -> None:
        """It was paused before its first commit."""
        self.losses = 1


class TestQueue:
    async def test_a_pause(self, book: Book) -> None:
        """What was queued before a session was lost in a pause is refused; what comes later is committed."""
        book.db.guard(_Pause())
        sends = [book.send(client_id="in flight")]
        await asyncio.sleep(0)
        sends += [book.send(client_id="queued"), asyncio.ensure_future(book.journal.change(book.rooms[0], _no_change))]
        for send in sends:
            with pytest.raises(ChatError, match="SERVICE_UNAVAILABLE"):
                await send
        assert (await book.send(client_id="later")).seq == 1
        assert await book.seqs() == ([1], [1], 1)

    async def test_drain(self, book: Book) -> None:
        """A drain returns when everything that was queued is settled."""
        futures = [book.send(room) for room in (0, 1) for _ in range(300)]
        await book.journal.drain()
        assert all(future.done() for future in futures)

    async def test_drain_under_load(self, book: Book) -> None:
        """A drain does not wait for what is queued after it: senders who never pause cannot hold it up."""

        async def keep_sending() -> None:
            while True:
                book.send()
                await asyncio.sleep(0.0005)

        first = book.send()
        sending = asyncio.create_task(keep_sending())
        try:
            async with asyncio.timeout(5):
                await book.journal.drain()
            assert first.done()
        finally:
            sending.cancel()

    async def test_drain_of_nothing(self, book: Book) -> None:
        """A journal that has nothing to do is drained already."""
        await book.journal.drain()

    async def test_full(self, book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
        """When too much waits, a send is refused at once, to be tried again; what waits still lands."""
        monkeypatch.setattr(module, "QUEUE", 2)
        assert await outcomes([book.send() for _ in range(3)]) == [1, 2, "SERVICE_UNAVAILABLE"]

    async def test_waiter_gone(self, book: Book) -> None:
        """A sender who no longer waits does not keep the message from being written."""
        future = book.send()
        future.cancel()
        await book.journal.drain()
        assert await book.seqs() == ([1], [1], 1)
