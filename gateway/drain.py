"""A stop that loses nothing: no new work, what is in flight is committed and acked, sockets are closed in turn."""

from __future__ import annotations

import asyncio

from gateway.chat import Chat
from gateway.services import Services
from protocol.errors import CloseCode

SLOT = 0.05
"""Seconds between two groups of closes, so that clients do not all come back in the same moment."""
LAST_WORDS = 0.2
"""Seconds for the last close frames to leave."""


async def drain(services: Services, chat: Chat, server: asyncio.AbstractServer, seconds: float) -> None:
    """Stops listening, finishes commits and acks, then closes sessions as `draining`, spread over `seconds`."""
    chat.ready = False
    server.close()
    await services.journal.drain()
    sessions = list(services.hub.links)
    slots = max(1, int(seconds / SLOT))
    for slot in range(min(slots, len(sessions))):
        for session in sessions[slot::slots]:
            services.hub.close(session, CloseCode.draining, "the server is stopping")
        await asyncio.sleep(SLOT)
    await services.journal.drain()
    await asyncio.sleep(LAST_WORDS)
