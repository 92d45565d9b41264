from __future__ import annotations

import asyncio

from tests.e2e.conftest import StartServer
from tests.e2e.server import Server
from tests.e2e.socket_client import on_all_transports, socket_client

LIMIT = {"PARLEY_LIMIT_OUTBOX": "2000", "PARLEY_SLOW_CONSUMER": "0.5"}
DEADLINE = 1.5
"""Seconds; three times as long as a reader who lags is given."""


async def test_an_answer_above_the_limit(start_server: StartServer) -> None:
    """A client that reads a page larger than an outbox may be is not slow: events go on, and it is not closed."""
    await on_all_transports(await start_server(**LIMIT), _answer_above_the_limit)


async def _answer_above_the_limit(server: Server) -> None:
    ann, bob = await server.people(2)
    room = await server.chatroom(ann, bob)
    async with socket_client(server) as a, socket_client(server) as b:
        await a.authenticate(ann.token)
        await b.authenticate(bob.token)
        for _ in range(3):
            await a.say(room, "x" * 1000)
        page = await b.ask("fetch_messages", {"chatroom_id": str(room)})
        assert len(page["data"]["messages"]) == 3
        await asyncio.sleep(DEADLINE)
        ack = await a.say(room, "still there?")
        while (heard := await b.until("message_received"))["seq"] < ack["data"]["message"]["seq"]:
            pass
        assert heard["data"]["message"]["content"] == "still there?"


async def test_a_sync_above_the_limit(start_server: StartServer) -> None:
    """Events that are left out behind a large replay are announced at once, though the socket never filled up."""
    await on_all_transports(await start_server(**LIMIT), _sync_above_the_limit)


async def _sync_above_the_limit(server: Server) -> None:
    ann, bob = await server.people(2)
    room = await server.chatroom(ann, bob)
    async with socket_client(server) as a:
        await a.authenticate(ann.token)
        for _ in range(10):
            await a.say(room, "x" * 1000)
        async with socket_client(server) as b:
            await b.authenticate(bob.token)
            for round in range(20):
                await b.send("sync", {"chatrooms": {str(room): 0}}, id=f"s{round}")
                await a.say(room, "meanwhile")
            await b.until("synced", id="s19")
            await asyncio.sleep(DEADLINE)
            await b.send("ping", id="p")
            assert (await b.until("pong", id="p"))["event"] == "pong"
