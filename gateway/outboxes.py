"""Outboxes with something in them are written at the end of this turn of the event loop, each with one write.

Sessions of large chatrooms are swept: a slice of them is written in each turn, so
that nobody else waits until all have been. What comes for them meanwhile goes
along in the same write, and so that more of it does, a sweep waits a little while
something is being committed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from operator import length_hint
from uuid import UUID

from gateway.fence import Fence
from gateway.link import Link
from gateway.session import Session
from gateway.wire import Outbox
from protocol.events import Lagging

SLICE = 256
"""Sockets that are written in one turn: some three milliseconds. Those of chatrooms with more are swept."""
PATIENCE = 0.02
"""Seconds that a sweep waits at most, and never longer than the last one took: at worst it halves their number."""


class Outboxes:
    """Hands what waits in sessions to their sockets. `links` has the socket of each session that has one."""

    def __init__(self, links: dict[Session, Link], fence: Fence) -> None:
        self._links = links
        self._fence = fence
        self._loop = asyncio.get_running_loop()
        self._soon: list[Session] = []
        self._crowd: dict[Session, None] = {}
        """Whom the next sweep goes to."""
        self._sweep: Iterator[Session] = iter(())
        self._began = 0.0
        self._took = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._waited = False
        self._flush_scheduled = False
        self.more_to_come: Callable[[], bool] = lambda: False
        """Whether something is being committed that a sweep may take along."""

    def mark(self, session: Session) -> None:
        """The session has something to write."""
        self._soon.append(session)
        self._schedule_flush()

    def mark_many(self, sessions: dict[Session, None]) -> None:
        """These have something to write."""
        if len(sessions) <= SLICE:
            self._soon.extend(sessions)
        else:
            self._crowd.update(sessions)
        self._schedule_flush()

    def _schedule_flush(self) -> None:
        if not self._flush_scheduled:
            self._flush_scheduled = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        if not self._fence.clear:  # some of these sessions may be others' by now
            self._fence.then(self._flush)
            return
        self._flush_scheduled = False
        soon, self._soon = self._soon, []
        self._write_all(soon)
        if self._crowd and not length_hint(self._sweep) and self._may_begin():
            self._begin()
        if length_hint(self._sweep):
            self._write_slice()

    def _may_begin(self) -> bool:
        """Whether it is time for the next sweep; else a timer says when it is at the latest."""
        if self._waited or not self._took or not self.more_to_come():
            return True
        if self._timer is None:
            self._timer = self._loop.call_later(min(self._took, PATIENCE), self._lose_patience)
        return False

    def _lose_patience(self) -> None:
        self._waited = True
        self._schedule_flush()

    def _begin(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._waited = None, False
        crowd, self._crowd = self._crowd, {}
        self._sweep, self._began = iter(list(crowd)), self._loop.time()

    def _write_slice(self) -> None:
        self._write_all(islice(self._sweep, SLICE))
        if not length_hint(self._sweep):
            self._took = self._loop.time() - self._began
        if self._crowd or length_hint(self._sweep):
            self._schedule_flush()

    def _write_all(self, sessions: Iterable[Session]) -> None:
        """The hot path."""
        links = self._links
        last: Outbox | None = None
        data = b""
        for session in sessions:
            outbox = session.outbox
            if outbox is None or (link := links.get(session)) is None or link.paused:
                continue
            if outbox is not last:
                last, data = outbox, outbox.data
            session.outbox = None
            link.write(data)

    def write(self, session: Session) -> None:
        """Writes what waits now, if the socket takes it."""
        if self._fence.clear:
            self._write_all([session])

    def flush_now(self, session: Session) -> None:
        """The socket takes more: sends what waits, and says what was left out meanwhile."""
        link = self._links.get(session)
        if link is None or link.paused:
            return
        if not self._fence.clear:
            self.mark(session)
            return
        link.write(session.take())
        if not link.paused and (lagging := session.drained()) is not None:
            self._tell_lagging(session, link, lagging)

    def remind_lagging(self, session: Session) -> None:
        """A resumed session still has to sync what it was too slow for before the cut."""
        _say(session, session.lagging or {})

    def _tell_lagging(self, session: Session, link: Link, lagging: dict[UUID, int]) -> None:
        _say(session, lagging)
        link.write(session.take())


def _say(session: Session, lagging: dict[UUID, int]) -> None:
    for room_id, seq in lagging.items():
        session.push_uncounted(session.wire.chunk("lagging", Lagging(chatrooms={room_id: seq})))
