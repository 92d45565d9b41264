"""Questions that many ask at once go to the database as one, and each gets its own answer."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pytest

from protocol.errors import ChatError
from storage.database import Connection, Database
from storage.together import AT_ONCE, Together


class Doubles:
    """A query for the doubles of numbers above zero. It can be made to wait, and fails for thirteen."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []
        self._go_on = asyncio.Event()
        self._go_on.set()

    async def __call__(self, conn: Connection, keys: list[int]) -> Mapping[int, int]:
        """Asks the database."""
        self.asked.append(keys)
        await self._go_on.wait()
        query = "SELECT k, 2 * k AS d FROM unnest($1::int[]) AS k WHERE k > 0 AND 1 / (k - 13) < 2"
        rows = await conn.fetch(query, keys)
        return {row["k"]: row["d"] for row in rows}

    @contextmanager
    def held(self) -> Iterator[None]:
        """No query ends meanwhile."""
        self._go_on.clear()
        try:
            yield
        finally:
            self._go_on.set()

    async def under_way(self, queries: int) -> None:
        """Returns when so many have begun."""
        async with asyncio.timeout(10):
            while len(self.asked) < queries:
                await asyncio.sleep(0)


async def test_what_is_asked_at_once_is_one_query(db: Database) -> None:
    """Everyone gets the answer to their own question, the same one several times too, and None where there is none."""
    doubles = Doubles()
    together = Together(db, doubles)
    assert await asyncio.gather(*map(together.get, [3, 1, 2, 1, -1])) == [6, 2, 4, 2, None]
    assert doubles.asked == [[3, 1, 2, -1]]


async def test_an_answer_is_read_after_its_question(db: Database) -> None:
    """Who asks while the same is being asked goes with the next query: what is read now may be older than they are."""
    doubles = Doubles()
    together = Together(db, doubles)
    tasks = []
    with doubles.held():
        for number in range(AT_ONCE):
            tasks.append(asyncio.create_task(together.get(1)))
            await doubles.under_way(number + 1)
        tasks += [asyncio.create_task(together.get(key)) for key in (1, 2)]
        await asyncio.sleep(0.05)
        assert doubles.asked == [[1]] * AT_ONCE  # no more queries at once, whoever waits
    assert await asyncio.gather(*tasks) == [2] * AT_ONCE + [2, 4]
    assert doubles.asked == [[1]] * AT_ONCE + [[1, 2]]


async def test_queries_have_an_end(db: Database) -> None:
    """A query has only so many keys, so that nobody waits for the answers of everyone."""
    doubles = Doubles()
    together = Together(db, doubles, most=2)
    assert await asyncio.gather(*map(together.get, range(1, 6))) == [2, 4, 6, 8, 10]
    assert sorted(doubles.asked) == [[1, 2], [3, 4], [5]]


async def test_a_failure_is_for_those_who_asked_with_it(db: Database) -> None:
    """A query that fails says so to all who went with it, and the next one is another."""
    together = Together(db, Doubles())
    outcomes = await asyncio.gather(*map(together.get, [13, 1]), return_exceptions=True)
    assert ["division by zero" in str(outcome) for outcome in outcomes] == [True, True]
    assert await together.get(1) == 2


async def test_who_is_gone_does_not_disturb(db: Database) -> None:
    """One who does not wait any longer takes nothing from those who asked with them."""
    doubles = Doubles()
    together = Together(db, doubles)
    with doubles.held():
        gone, waits = (asyncio.create_task(together.get(key)) for key in (1, 2))
        await doubles.under_way(1)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
    assert await waits == 4


async def test_a_database_that_is_away(database_url: str) -> None:
    """Everyone is told to come back."""
    database = await Database.open(database_url, 2)
    await database.close()
    together = Together(database, Doubles())
    outcomes = await asyncio.gather(*map(together.get, [1, 2]), return_exceptions=True)
    assert [isinstance(o, ChatError) and o.code for o in outcomes] == ["SERVICE_UNAVAILABLE"] * 2
