"""Load that is judged: users who write at random moments and hear everything.

Everything random comes from one seed. What is sent when depends on it alone; what
the server makes of it, and when, does not.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from uuid import UUID

from bench.faults.by_client import ClientTalker
from bench.faults.checker import Report, check
from bench.faults.history import History
from bench.faults.raw import RawTalker
from bench.faults.talker import Member, Talker
from gateway.client import ChatError, ClientClosed

LOOK = 0.02
"""Seconds between two looks at whether everything has come."""


class Load:
    """All members of a run, writing `rate` messages a second together into chatrooms that all of them are in.

    The first member talks by the Python client: it reads the history at the end.
    """

    def __init__(self, members: Sequence[Member], rooms: Sequence[UUID], *, rate: float, seed: int) -> None:
        self.history = History()
        self._rooms = list(rooms)
        each = rate / len(members)
        self._reader = ClientTalker(members[0], rooms, self.history, seed, each)
        self.talkers: list[Talker] = [
            self._reader,
            *((RawTalker if one.raw else ClientTalker)(one, rooms, self.history, seed, each) for one in members[1:]),
        ]
        self._writing, self._stop = asyncio.Event(), asyncio.Event()

    @property
    def acks(self) -> int:
        """How many messages are on disk, as far as anybody here knows."""
        return sum(talker.acks for talker in self.talkers)

    @asynccontextmanager
    async def running(self, *, settle: float = 90.0) -> AsyncIterator[None]:
        """Load inside the block; afterwards up to `settle` seconds until all is answered, read and heard.

        What is not there by then is the checker's to find.
        """
        tasks = [asyncio.create_task(talker.run(self._writing, self._stop)) for talker in self.talkers]
        try:
            for talker in self.talkers:
                await talker.opened.wait()
            self._writing.set()
            yield
            self._stop.set()
            with suppress(TimeoutError, ChatError, ClientClosed):
                async with asyncio.timeout(settle):
                    await self._settle()
        finally:
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
        for error in ended:
            if isinstance(error, Exception):
                raise error

    async def acked(self, more: int, within: float = 60.0) -> None:
        """Waits until so many more messages are acked. Raises TimeoutError."""
        wanted = self.acks + more
        async with asyncio.timeout(within):
            while self.acks < wanted:
                await asyncio.sleep(LOOK)

    async def read(self) -> dict[UUID, int]:
        """Reads the history of every chatroom; the seqs of their newest events. Raises ChatError, ClientClosed."""
        return {room: await self._reader.read(room) for room in self._rooms}

    def judge(self) -> Report:
        """What the checker says."""
        return check(self.history)

    async def _settle(self) -> None:
        while any(talker.waits() for talker in self.talkers):
            await asyncio.sleep(LOOK)
        heads = await self.read()
        while any(talker.seqs.get(room, 0) < head for talker in self.talkers for room, head in heads.items()):
            await asyncio.sleep(LOOK)
