"""A connection of its own for one who uses it all the time, with its statements prepared.

Beside the pool it saves taking and giving back a connection each time. It heals as the pool
does: a connection that broke is left, and the next statement opens another.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextlib import suppress
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
    "jit": "off",
}
"""What differs from the pool's connections: its statements are few, short, and always name their rows by key."""


class Standing:
    """For one task at a time. What it raises is the driver's own: whoever uses it translates."""

    def __init__(self, opener: Opener) -> None:
        self._opener = opener
        self._connection: asyncpg.Connection[asyncpg.Record] | None = None
        self._statements: dict[str, Statement] = {}

    async def renew(self) -> bool:
        """Opens the connection, unless it is open; whether it had to."""
        if self._connection is not None and not self._connection.is_closed():
            return False
        self._statements.clear()
        self._connection = await self._opener(SETTINGS)
        return True

    async def prepared(self, query: str) -> Statement:
        """The statement, on a connection that is open; it is sent ahead once for each connection."""
        assert self._connection is not None
        statement = self._statements.get(query)
        if statement is None:
            statement = self._statements[query] = await self._connection.prepare(query)
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
