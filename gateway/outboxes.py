"""Outboxes that became dirty are written once, at the end of this turn of the event loop, each with one write."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from uuid import UUID

from gateway.fence import Fence
from gateway.link import Link
from gateway.session import Session
from protocol.events import Lagging


class Outboxes:
    """Hands what waits in sessions to their sockets. `links` has the socket of each session that has one."""

    def __init__(self, links: dict[Session, Link], fence: Fence) -> None:
        self._links = links
        self._fence = fence
        self._loop = asyncio.get_running_loop()
        self._dirty: list[Session] = []
        self._flush_scheduled = False

    def mark(self, session: Session) -> None:
        """The session has something to write."""
        if not session.dirty:
            session.dirty = True
            self._dirty.append(session)
            self._schedule_flush()

    def mark_many(self, sessions: Iterable[Session]) -> None:
        """All of these have something to write."""
        dirty = self._dirty
        for session in sessions:
            if not session.dirty:
                session.dirty = True
                dirty.append(session)
        self._schedule_flush()

    def _schedule_flush(self) -> None:
        if self._dirty and not self._flush_scheduled:
            self._flush_scheduled = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        if not self._fence.clear:  # some of these sessions may be others' by now
            self._fence.then(self._flush)
            return
        self._flush_scheduled = False
        dirty, self._dirty = self._dirty, []
        for session in dirty:
            session.dirty = False
            link = self._links.get(session)
            if link is not None and session.outbox and not link.paused:
                link.write(session.take())

    def flush_now(self, session: Session) -> None:
        """The socket takes more: sends what waits, and says what was left out meanwhile."""
        link = self._links.get(session)
        if link is None or link.paused:
            return
        if not self._fence.clear:
            self.mark(session)
            return
        if session.outbox:
            link.write(session.take())
        if not link.paused and (lagging := session.drained()) is not None:
            self._tell_lagging(session, link, lagging)

    def remind_lagging(self, session: Session) -> None:
        """A resumed session still has to sync what it was too slow for before the cut."""
        _say(session, session.lagging or {})

    def _tell_lagging(self, session: Session, link: Link, lagging: dict[UUID, int]) -> None:
        _say(session, lagging)
        if session.outbox:
            link.write(session.take())


def _say(session: Session, lagging: dict[UUID, int]) -> None:
    for room_id, seq in lagging.items():
        session.push_uncounted(session.wire.chunk("lagging", Lagging(chatrooms={room_id: seq})))
