"""Sessions come and go through the door: what may happen between two of its steps."""

from __future__ import annotations

from pathlib import Path

import pytest

from protocol.commands import Logout
from protocol.errors import ChatError
from tests.e2e.node import Reader, running_node


async def test_a_sign_out_between_token_and_session(database_url: str, tmp_path: Path) -> None:
    """Who signs out after the token was looked at and before the session is known gets no session."""
    async with running_node(database_url, tmp_path) as node:
        actor, token = await node.user("ann")
        await node.chat.handle(actor, Logout())
        with pytest.raises(ChatError, match="AUTH_TOKEN_INVALID"):
            await node.door.open(actor, Reader(node, token), node.wire)
        assert not node.hub.sessions
        assert not node.hub.links
