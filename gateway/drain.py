"""A stop that loses nothing: no new work, what is in flight is committed and acked, sockets are closed in turn.

Where other nodes are, sessions go to them first. Each client is told when to open
a connection there, one after the other, and is served here until it has resumed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence, Sized

from gateway.chat import Chat
from gateway.deadlines import REASONS
from gateway.neighbours import Neighbours
from gateway.services import Services
from gateway.session import Session
from protocol.errors import CloseCode
from protocol.events import Migrate

log = logging.getLogger(__name__)

SLOT = 0.05
"""Seconds between two groups of closes, so that clients do not all come back in the same moment."""
PATIENCE = 5.0
"""Seconds beyond the drain's own that commands in flight may take in all, such as when the database hangs."""
LAST_WORDS = 0.2
"""Seconds for the last close frames to leave."""
HEARING = 0.1
"""Seconds to hear from others that they are stopping too, as when all workers are told to at once."""
TOLD_AT_ONCE = 100
"""Sessions that are told to move before others get their turn of the loop."""


async def drain(
    services: Services, chat: Chat, servers: Sequence[asyncio.AbstractServer], neighbours: Neighbours
) -> None:
    """Stops listening, hands sessions to other nodes, and closes the rest as `draining`, spread over PARLEY_DRAIN.

    With other nodes it takes sessions / PARLEY_RECONNECT_RATE + 2 × PARLEY_DRAIN seconds at most, and ends as soon
    as they have all sessions.
    """
    chat.ready = False
    for server in servers:
        server.close()
    saying = asyncio.create_task(neighbours.say_stopping())
    if neighbours:
        await asyncio.sleep(HEARING)
    if neighbours:
        await _Departure(services, neighbours).run()
    await _send_home(services)
    await asyncio.sleep(LAST_WORDS)
    saying.cancel()


class _Departure:
    """The way to other nodes. It is given up when there are none left.

    A session's turn is its place in the line, divided by the rate. Then its client
    moves; who has not, PARLEY_DRAIN seconds later, is closed. Sessions stay, with
    or without a socket, until they are resumed elsewhere or the same time has passed again.
    """

    def __init__(self, services: Services, neighbours: Neighbours) -> None:
        self._services = services
        self._hub = services.hub
        self._neighbours = neighbours
        self._sessions = [session for session in self._hub.links if not session.opening]
        self._rate = services.config.reconnect_rate
        self._overlap = services.config.drain
        self._now = asyncio.get_running_loop().time
        self._begun = self._now()
        self._end = self._turn(len(self._sessions)) + 2 * self._overlap

    def _turn(self, place: int) -> float:
        return self._begun + place / self._rate

    async def run(self) -> None:
        """Returns when all sessions are gone, or at the end of their time."""
        log.info("moving sessions to other nodes", extra={"sessions": len(self._sessions)})
        await self._tell()
        group = max(1, int(self._rate * SLOT))
        for place in range(0, len(self._sessions), group):
            await self._wait(self._turn(place) + self._overlap, self._hub.links)
            await self._close(self._sessions[place : place + group])
        await self._close(list(self._hub.links))  # those that were still opening at the beginning
        await self._wait(self._end, self._hub.sessions)
        log.info("sessions have moved", extra={"left": len(self._hub.sessions)})

    async def _tell(self) -> None:
        for place, session in enumerate(self._sessions):
            if place % TOLD_AT_ONCE == 0:
                await asyncio.sleep(0)
            after = max(0.0, self._turn(place) - self._now())
            told = Migrate(
                after_ms=int(after * 1000),
                resume_token=session.resume_token,
                overlap_ms=int(self._overlap * 1000),
            )
            session.push_uncounted(session.wire.chunk("migrate", told))
            self._hub.mark(session)

    async def _wait(self, until: float, left: Sized) -> None:
        while left and self._neighbours and self._now() < until:  # noqa: ASYNC110 - three things end it, none tells
            await asyncio.sleep(min(SLOT, until - self._now()))

    async def _close(self, sessions: list[Session]) -> None:
        """Closes sockets only: the sessions can still be resumed elsewhere. Without others they are sent home later."""
        if self._neighbours:
            await _finish(self._services, sessions, self._end + PATIENCE)
            for session in sessions:
                if (link := self._hub.links.get(session)) is not None:
                    link.close(CloseCode.draining, REASONS[CloseCode.draining])


async def _send_home(services: Services) -> None:
    """Closes all sessions, spread over the drain's time; they end with this process."""
    seconds = services.config.drain
    deadline = asyncio.get_running_loop().time() + seconds + PATIENCE
    sessions = list(services.hub.links)
    slots = max(1, int(seconds / SLOT))
    for slot in range(min(slots, len(sessions))):
        await _end(services, sessions[slot::slots], deadline)
        await asyncio.sleep(SLOT)
    await _end(services, list(services.hub.links), deadline)


async def _end(services: Services, sessions: list[Session], deadline: float) -> None:
    await _finish(services, sessions, deadline)
    for session in sessions:
        services.hub.close(session, CloseCode.draining, REASONS[CloseCode.draining])


async def _finish(services: Services, sessions: list[Session], deadline: float) -> None:
    """Sessions take no more commands; returns when those that they took are done."""
    links = [link for session in sessions if (link := services.hub.links.get(session)) is not None]
    work = [task for link in links if (task := link.finish()) is not None]
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout_at(deadline):
            await asyncio.gather(*work, return_exceptions=True)
            await services.journal.drain()
