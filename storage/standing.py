"""A connection of its own for one who uses it all the time, with its statements prepared.

Beside the pool it saves taking and giving back a connection each time. It heals as the pool
does: a connection that broke is left, and the next statement opens another.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeAlias

import asyncpg
from asyncpg.prepared_stmt import PreparedStatement

Statement: TypeAlias = "PreparedStatement[asyncpg.Record]"

Opener: TypeAlias = "Callable[[dict[str, str]], Coroutine[Any, Any, asyncpg.Connection[asyncpg.Record]]]"
"""Opens a connection with these settings."""

CLOSE_SECONDS = 5.0
"""What the server gets to take a farewell."""

SETTINGS = {
    "plan_cache_mode": "force_generic_plan",  # a plan is made once, not for each number of rows
    "enable_seqscan": "off",  # and it is right however tables grow: row after row by index, in the order given
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "enable_bitmapscan": "off",
    "enable_sort": "off",
    "jit": "off",
}
"""What differs from the pool's connections: its statements are few, short, and always name their rows by key."""


class Standing:
    """For one task at a time. What it raises is the driver's own: whoever uses it translates."""

    def __init__(self, opener: Opener) -> None:
        self._opener = opener
        self._connection: asyncpg.Connection[asyncpg.Record] | None = None
        self._statements: dict[str, Statement] = {}

    @property
    def connection(self) -> asyncpg.Connection[asyncpg.Record]:
        """The connection, which has to be open."""
        assert self._connection is not None
        return self._connection

    async def renew(self) -> bool:
        """Opens the connection, unless it is open; whether it had to."""
        if self._connection is not None and not self._connection.is_closed():
            return False
        self._statements.clear()
        self._connection = await self._opener(SETTINGS)
        return True

    async def prepared(self, query: str) -> Statement:
        """The statement, on a connection that is open; it is sent ahead once for each connection."""
        statement = self._statements.get(query)
        if statement is None:
            statement = self._statements[query] = await self.connection.prepare(query)
        return statement

    def leave(self) -> None:
        """Drops a connection of which nobody knows what the server makes of it."""
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None

    async def close(self) -> None:
        """Says goodbye."""
        if self._connection is not None:
            with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                await self._connection.close(timeout=CLOSE_SECONDS)
            self.leave()


class Standings:
    """A few of them, which many use by turns. The next one is used when all before it are in use."""

    def __init__(self, opener: Opener, most: int) -> None:
        self._all = [Standing(opener) for _ in range(most)]
        self._resting = list(self._all)
        self._turns = asyncio.Semaphore(most)
        self._closed = False

    @asynccontextmanager
    async def turn(self, patience: float) -> AsyncIterator[Standing]:
        """One of them. Raises TimeoutError when none is free within so many seconds; InterfaceError after `close`."""
        if self._closed:
            raise asyncpg.InterfaceError("the database is closed")
        async with asyncio.timeout(patience):
            await self._turns.acquire()
        standing = self._resting.pop()
        try:
            yield standing
        finally:
            self._resting.append(standing)
            self._turns.release()

    async def close(self) -> None:
        """Waits for those in use, then says goodbye on all. From now on there are no turns."""
        self._closed = True
        for _ in self._all:
            await self._turns.acquire()
        for standing in self._all:
            await standing.close()
