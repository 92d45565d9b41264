"""A stop that loses nothing: no new work, what is in flight is committed and acked, sockets are closed in turn."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

from gateway.chat import Chat
from gateway.services import Services
from gateway.session import Session
from protocol.errors import CloseCode

SLOT = 0.05
"""Seconds between two groups of closes, so that clients do not all come back in the same moment."""
PATIENCE = 5.0
"""Seconds beyond the drain's own that commands in flight may take in all, such as when the database hangs."""
LAST_WORDS = 0.2
"""Seconds for the last close frames to leave."""


async def drain(services: Services, chat: Chat, servers: Sequence[asyncio.AbstractServer], seconds: float) -> None:
    """Stops listening, then closes sessions as `draining`, spread over `seconds`, each when its commands are done."""
    chat.ready = False
    for server in servers:
        server.close()
    deadline = asyncio.get_running_loop().time() + seconds + PATIENCE
    sessions = list(services.hub.links)
    slots = max(1, int(seconds / SLOT))
    for slot in range(min(slots, len(sessions))):
        await _send_away(services, sessions[slot::slots], deadline)
        await asyncio.sleep(SLOT)
    await _send_away(services, list(services.hub.links), deadline)
    await asyncio.sleep(LAST_WORDS)


async def _send_away(services: Services, sessions: list[Session], deadline: float) -> None:
    links = [link for session in sessions if (link := services.hub.links.get(session)) is not None]
    work = [task for link in links if (task := link.finish()) is not None]
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout_at(deadline):
            await asyncio.gather(*work, return_exceptions=True)
            await services.journal.drain()
    for session in sessions:
        services.hub.close(session, CloseCode.draining, "the server is stopping")
