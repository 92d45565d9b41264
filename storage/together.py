"""Questions that many ask at once go to the database as one.

When thousands come back in the same moment, each wants to know the same of
somebody else: is the sign-in still good, which chatrooms are theirs? One query
for a hundred of them costs little more than a query for one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Generic, TypeAlias, TypeVar

from storage.database import Connection, Database

K = TypeVar("K")
V = TypeVar("V")

Ask: TypeAlias = Callable[[Connection, list[K]], Awaitable[Mapping[K, V]]]
"""A query for many keys. Keys it knows nothing of are not in the answer."""

MOST = 100
"""Keys in one query: enough that its own price is shared, and few enough that nobody waits for the others' rows."""


AT_ONCE = 2
"""Queries under way: a connection that hangs must not keep everyone waiting."""


class Together(Generic[K, V]):
    """A query that waits for those before it, and meanwhile gathers what else is asked.

    So it asks at once while there is little to do, and the size of a query follows the load. Every answer was read
    after its question was asked.
    """

    def __init__(self, database: Database, ask: Ask[K, V], most: int = MOST) -> None:
        self._database = database
        self._ask = ask
        self._most = most
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._gathering: tuple[dict[K, None], asyncio.Task[Mapping[K, V]]] | None = None

    async def get(self, key: K) -> V | None:
        """The answer for a key; None where there is none. Raises what the query raises, as for all that went with it.

        Who is cancelled does not disturb the others.
        """
        answers = await asyncio.shield(self._join(key))
        return answers.get(key)

    def _join(self, key: K) -> asyncio.Task[Mapping[K, V]]:
        if self._gathering is None or len(self._gathering[0]) >= self._most:
            keys: dict[K, None] = {}
            self._gathering = keys, asyncio.create_task(self._fly(keys))
        keys, task = self._gathering
        keys[key] = None
        return task

    async def _fly(self, keys: dict[K, None]) -> Mapping[K, V]:
        try:
            async with self._turns, self._database.look_up() as conn:
                self._close(keys)
                return await self._ask(conn, list(keys))
        finally:
            self._close(keys)

    def _close(self, keys: dict[K, None]) -> None:
        """Who asks from now on goes with the next query: this one may have read what they want to know already."""
        if self._gathering is not None and self._gathering[0] is keys:
            self._gathering = None
