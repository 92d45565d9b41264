from __future__ import annotations

import asyncio
import signal

import pytest

from gateway.client import Client, connect
from tests.e2e.bots import make_bot
from tests.e2e.program import running
from tests.e2e.server import Server


async def heard(client: Client, count: int) -> list[tuple[str, str]]:
    """The next messages: who, and what."""
    found: list[tuple[str, str]] = []
    async with asyncio.timeout(20):
        async for event in client:
            if event.event == "message_received":
                found.append((event.data.message.username, event.data.message.content))
            if len(found) == count:
                break
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_echo(common_server: Server, number: signal.Signals) -> None:
    """It answers those who say its word, in order, not itself; two copies answer once; it stops when told."""
    ann = await common_server.person()
    bot = await make_bot(common_server, ann)
    room = await common_server.chatroom(ann, bot)
    async with (
        connect(common_server.ws, ann.token) as client,
        running("echo_bot.py", bot.token, common_server.ws) as one,
        running("echo_bot.py", bot.token, common_server.ws) as two,
    ):
        for program in (one, two):
            await program.prints(f"{bot.username} listens in 1 chatrooms")
        for text in ("!echo one", "nothing", "!echo !echo two", "!echo three"):
            await client.send_message(room, text)
        said = await heard(client, 7)
        for program in (one, two):
            await program.stop(number)
        await client.send_message(room, "the end")
        assert await heard(client, 1) == [(ann.username, "the end")]
    assert [text for name, text in said if name == bot.username] == ["one", "!echo two", "three"]
