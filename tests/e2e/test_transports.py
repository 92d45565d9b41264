"""The Python client over every transport: the same object, the same behaviour."""

from __future__ import annotations

import asyncio
import base64
from typing import Literal
from uuid import UUID, uuid4

import msgspec
import pytest

from crypto.noise import PrivateKey
from gateway.client import ChatError, ClientClosed, connect
from gateway.client_address import parse_address
from gateway.client_lines import open_line
from protocol.codec import JSON
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


@pytest.mark.parametrize("way", [1, 3], ids=["ws-noise", "tcp-noise"])
async def test_a_bot_is_known_by_its_key(server: Server, crowd: list[Person], way: int) -> None:
    """A bot that shows its key in the handshake needs no token, but for files; it resumes, and is out when its owner
    revokes it.
    """
    key = PrivateKey.new()
    body = {
        "username": f"bot-{uuid4().hex[:8]}",
        "scopes": ["read", "write"],
        "public_key": base64.b64encode(key.public).decode(),
    }
    made = await server.data("POST", "/bots", crowd[0].token, body)
    bot_id = made["bot"]["id"]
    room = await server.chatroom(crowd[0])
    url = addresses(server)[way]
    async with connect(url, private_key=key.secret) as bot:
        await server.data("POST", f"/chatrooms/{room}/members", crowd[0].token, {"user_ids": [bot_id]})
        async with asyncio.timeout(10):
            while room not in bot.chatrooms:
                await anext(bot)
        assert (await bot.send_message(room, "by key alone")).message.user_id == UUID(bot_id)
        with pytest.raises(ChatError, match="AUTH_REQUIRED"):
            await bot.upload_file(__file__)
        await server.call("DELETE", f"/bots/{bot_id}", crowd[0].token)
        with pytest.raises(ClientClosed, match="this key has ended"):  # as it was told, not by trying again
            async with asyncio.timeout(2):
                while True:
                    await anext(bot)
    with pytest.raises(ClientClosed, match="AUTH_TOKEN_INVALID"):
        async with asyncio.timeout(10), connect(url, private_key=key.secret):
            pass


async def test_a_stranger_key_is_no_bot(server: Server) -> None:
    """A key that no bot has is refused like a wrong token; under NK there is no key at all."""
    with pytest.raises(ClientClosed, match="AUTH_TOKEN_INVALID"):
        async with asyncio.timeout(10), connect(server.sealed, private_key=PrivateKey.new().secret):
            pass
    async with asyncio.timeout(10):
        line = await open_line(parse_address(server.tcp), JSON)
        await line.send([b'{"event": "authenticate"}'])
        frames = [msgspec.json.decode(await line.receive()) for _ in range(3)]
        await line.close()
    assert [frame["event"] for frame in frames] == ["hello", "error", "closing"]
    assert frames[1]["data"]["code"] == "AUTH_REQUIRED"
