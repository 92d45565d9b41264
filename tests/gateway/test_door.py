"""Sessions come and go through the door: what may happen between two of its steps."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.fence import Open
from protocol.commands import Logout
from protocol.errors import ChatError, CloseCode
from protocol.events import ChatroomDeleted
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


async def test_last_words_of_a_lost_session(database_url: str, tmp_path: Path) -> None:
    """While it is in doubt whose a session is, a close does not write what waits for it."""
    async with running_node(database_url, tmp_path) as node:
        ann, token = await node.user("ann")
        room = await node.room(ann)
        reader = Reader(node, token)
        await reader.open()
        (session,) = node.hub.sessions.values()
        node.door.fence = Doubt()
        node.hub.tell([session], "chatroom_deleted", ChatroomDeleted(chatroom_id=room, user_id=ann.user.id))
        assert session.outbox
        before = reader.received
        reader.close(CloseCode.no_pong, "no sign of life")
        assert reader.closed is CloseCode.no_pong
        assert reader.received == before


class Doubt(Open):
    """The fence of a node that has been paused and does not know yet what it has lost."""

    clear = False
