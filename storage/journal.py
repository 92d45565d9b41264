"""Group commit of durable events: what arrives while a commit is under way goes together with the next.

A room belongs to one lane, and a lane flies one transaction at a time; only after
COMMIT the entries are settled and the events published. What happens inside a
transaction is in `storage.flights`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from msgspec import Struct

from protocol.errors import ChatError
from storage.database import RETRY_SECONDS, Database
from storage.events import CommittedEvent
from storage.flights import Change, Decision, Send, fly_change, fly_sends
from storage.known import Known
from storage.quick_flights import fly_quickly

log = logging.getLogger(__name__)

FLIGHT = 256
"""Sends in one transaction at most, so that a long queue does not make one long wait for everyone in it."""
QUICK_TRIES = 2
"""How often a flight goes the quick way: where another node wrote meanwhile, the second time mostly finds it quiet."""
QUEUE = 20_000
"""Entries that may wait in a lane; beyond that the database is not keeping up and senders are told."""

Settle = Callable[[Any], None]
"""Takes the result, or the exception, once it is certain."""


class _SendEntry(Struct):
    send: Send
    settle: Settle
    losses: int  # of the database's guard when it was queued


@dataclass(slots=True)
class _ChangeEntry:
    chatroom_id: UUID
    change: Change
    settle: Settle
    losses: int


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
        lanes: int = 1,
    ) -> None:
        self._database = database
        self._lanes = [_Lane(database, publish, doubt, observe) for _ in range(lanes)]

    def send(self, send: Send, settle: Settle) -> None:
        """Queues a message. `settle` is called once: with the result after COMMIT, or with the exception."""
        self._lane(send.chatroom_id).put(_SendEntry(send, settle, self._database.losses))

    async def change(self, chatroom_id: UUID, change: Change) -> Any:
        """Runs a change under the chatroom's lock, in its turn among the sends, and returns its result."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._lane(chatroom_id).put(_ChangeEntry(chatroom_id, change, settle_future(future), self._database.losses))
        return await future

    @property
    def busy(self) -> bool:
        """Whether something is being committed, or waits to be."""
        return any(lane.busy for lane in self._lanes)

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
        self._standing = database.standing()
        self._known = Known()

    @property
    def busy(self) -> bool:
        return self._task is not None

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
                if not isinstance(entry, _Mark) and entry.losses != self._database.losses:
                    self._queue.popleft()  # it may be a lost session's, from before the pause
                    entry.settle(ChatError("SERVICE_UNAVAILABLE", retry_after=RETRY_SECONDS))
                    continue
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
        """The quick way, and again where somebody else wrote meanwhile; what it can't do goes the locked way."""
        locked: list[_SendEntry] = []
        for _ in range(QUICK_TRIES):
            entries, for_the_other = await self._fly_quickly(entries)
            locked += for_the_other
            if not entries:
                break
        if locked := locked + entries:
            await self._fly_locked(locked)

    async def _fly_quickly(self, entries: list[_SendEntry]) -> tuple[list[_SendEntry], list[_SendEntry]]:
        """Returns what may try it again, and what should not."""
        started = time.perf_counter()
        heads: dict[UUID, int] = {}
        sends = [entry.send for entry in entries]
        try:
            outcomes = await fly_quickly(self._database, self._standing, self._known, sends, heads)
        except ChatError as error:
            self._doubt(heads)
            _settle_all(entries, error)
            return [], []
        except Exception as error:  # nothing is written; such as a client_id that the sender has used before
            log.debug("a flight goes the locked way", exc_info=error)
            return [], entries
        landed = [(entry, outcome) for entry, outcome in zip(entries, outcomes, strict=True) if outcome is not None]
        if landed:
            self._land_sends([entry for entry, _ in landed], [outcome for _, outcome in landed], started)
            if len(landed) == len(entries):
                return [], []
        left = [entry for entry, outcome in zip(entries, outcomes, strict=True) if outcome is None]
        return [e for e in left if e.send.chatroom_id in heads], [e for e in left if e.send.chatroom_id not in heads]

    async def _fly_locked(self, entries: list[_SendEntry]) -> None:
        started = time.perf_counter()
        heads: dict[UUID, int] = {}
        try:
            async with self._database.transaction() as conn:
                outcomes = await fly_sends(conn, [entry.send for entry in entries], heads)
        except ChatError as error:
            self._doubt(heads)
            _settle_all(entries, error)
            return
        except Exception as error:
            await self._isolate(entries, error)
            return
        finally:
            for entry in entries:
                self._known.forget(entry.send.chatroom_id)
        self._land_sends(entries, outcomes, started)

    def _land_sends(self, entries: list[_SendEntry], outcomes: Sequence[Decision | Exception], started: float) -> None:
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
            await self._fly_locked([entry])

    async def _fly_change(self, entry: _ChangeEntry) -> None:
        started = time.perf_counter()
        heads: dict[UUID, int] = {}
        self._known.forget(entry.chatroom_id)
        try:
            async with self._database.transaction() as conn:
                changed = await fly_change(conn, entry.chatroom_id, entry.change, heads)
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
