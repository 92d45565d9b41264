"""Bytes of uploads that are on their way in here: a line that has gone silent does not keep what it brought."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterator
from contextlib import contextmanager
from uuid import UUID

from protocol.errors import ChatError

SILENCE = 1.0
"""Seconds after which a line that brings nothing may be ended for another."""


class Arriving:
    """The body of one request, which may be ended from outside while nothing comes."""

    def __init__(self, body: AsyncIterable[bytes]) -> None:
        self._body = body
        self._waiting: asyncio.Timeout | None = None
        self._since = 0.0
        self.over = asyncio.Event()
        """What it brought is kept, or dropped."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """What comes. Raises ChatError REQUEST_TIMEOUT when it is ended, and what the body raises."""
        pieces = aiter(self._body)
        while True:
            self._since = asyncio.get_running_loop().time()
            try:
                async with asyncio.timeout(None) as self._waiting:
                    piece = await anext(pieces)
            except StopAsyncIteration:
                return
            except TimeoutError:
                raise ChatError("REQUEST_TIMEOUT", "Another request goes on with this upload.") from None
            finally:
                self._waiting = None
            yield piece

    def end_if_silent(self) -> bool:
        """Ends it, if nothing has come for a while. Says whether it does."""
        now = asyncio.get_running_loop().time()
        if self._waiting is None or now - self._since < SILENCE:
            return False
        self._waiting.reschedule(now)
        return True


class Arrivals:
    """All of them, by the upload that they belong to."""

    def __init__(self) -> None:
        self._bodies: dict[UUID, set[Arriving]] = {}

    @contextmanager
    def arriving(self, file_id: UUID, body: AsyncIterable[bytes]) -> Iterator[Arriving]:
        """The body, known here while the context is open."""
        one = Arriving(body)
        self._bodies.setdefault(file_id, set()).add(one)
        try:
            yield one
        finally:
            self._bodies[file_id].discard(one)
            if not self._bodies[file_id]:
                del self._bodies[file_id]
            one.over.set()

    async def end_silent(self, file_id: UUID) -> bool:
        """Ends the silent ones of an upload; when this returns, what they brought is kept. Says if there were any."""
        silent = [one for one in self._bodies.get(file_id, ()) if one.end_if_silent()]
        for one in silent:
            await one.over.wait()
        return bool(silent)
