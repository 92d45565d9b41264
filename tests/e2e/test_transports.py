"""The Python client over every transport: the same object, the same behaviour."""

from __future__ import annotations

import asyncio
from typing import Literal

import pytest

from gateway.client import connect
from tests.e2e.server import Person, Server

Codec = Literal["json", "msgpack"]


@pytest.fixture
def server(common_server: Server) -> Server:
    """The common server; every test here makes rooms of its own."""
    return common_server


def addresses(server: Server) -> list[str]:
    """Every way in."""
    return [server.ws, f"{server.ws}?key=discover", server.tcp, server.sealed]


@pytest.mark.parametrize("codec", ["json", "msgpack"])
@pytest.mark.parametrize("way", range(4), ids=["ws", "ws-noise", "tcp", "tcp-noise"])
async def test_client(server: Server, crowd: list[Person], way: int, codec: Codec) -> None:
    """Sending, hearing and reading history, with frames from a few bytes to above what one Noise message holds."""
    ann, bob = crowd[:2]
    room = await server.chatroom(ann, bob)
    texts = ["hello", "x" * 16_384, *(f"message {n}" for n in range(20)), *("y" * 16_000 for _ in range(6))]
    url = addresses(server)[way]
    async with connect(url, ann.token, codec=codec) as one, connect(server.ws, bob.token) as two:
        sent = await asyncio.gather(*(one.send_message(room, text) for text in texts))
        assert [s.message.content for s in sent] == texts
        heard: list[str] = []
        async with asyncio.timeout(20):
            while len(heard) < len(texts):
                event = await anext(two)
                if event.event == "message_received":
                    heard.append(event.data.message.content)
        assert heard == texts
        page = await one.fetch_messages(room, limit=100)  # above 65,535 bytes: several Noise messages
        assert [m.content for m in page.messages] == texts[::-1]
