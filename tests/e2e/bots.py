"""Bots for tests: made by REST, as their owners do."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

from tests.e2e.server import Person, Server


async def make_bot(server: Server, owner: Person, *scopes: str, **fields: Any) -> Person:
    """A new bot of the owner's; its API key takes the place of a token."""
    body = {"username": f"bot-{uuid4().hex[:12]}", "scopes": list(scopes or ("read", "write")), **fields}
    data = await server.data("POST", "/bots", owner.token, body)
    return Person(UUID(data["bot"]["id"]), data["bot"]["username"], data["api_key"], "")
