"""What resumes on other nodes leave behind in Redis, and what they must leave alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio

from tests.e2e.server import Person, Server
from tests.e2e.socket_client import SocketClient, socket_client
from tests.valkey import Valkey

PATIENCE = 15.0
"""Seconds for what takes two at most on a machine that has nothing else to do."""


@pytest.fixture
async def nodes(database_url: str, tmp_path: Path, valkey: Valkey) -> AsyncIterator[list[Server]]:
    """Two nodes that share a database, keys and a Valkey."""
    async with AsyncExitStack() as stack:
        started = []
        for number in range(2):
            directory = tmp_path / f"node-{number}"
            directory.mkdir()
            settings = {"REDIS_URL": valkey.url, "PARLEY_DATA": str(tmp_path / "data")}
            node = Server(directory, database_url, settings)
            await node.start()
            stack.push_async_callback(node.stop)
            started.append(node)
        yield started
    assert not any("Traceback" in node.logs() for node in started)


async def opened(stack: AsyncExitStack, node: Server, person: Person) -> tuple[SocketClient, dict[str, Any]]:
    """A session on a node."""
    client = await stack.enter_async_context(socket_client(node))
    return client, await client.authenticate(person.token)


async def resumed(stack: AsyncExitStack, node: Server, ready: dict[str, Any], token: str | None = None) -> Any:
    """A connection to the node, and its answer to a resume of the session."""
    client = await stack.enter_async_context(socket_client(node))
    await client.until("hello")
    which = {"session_id": ready["session_id"], "resume_token": ready["resume_token"], "received": 0}
    await client.send("resume", {**which, "token": token})
    return client, await client.recv()


async def test_claims_end(nodes: list[Server], valkey: Valkey) -> None:
    """Redis forgets the claims on a session that is over, whoever has resumed it and whoever tries to later.

    A session goes on where it is when it is resumed with somebody else's token.
    """
    here, there = nodes
    ann, bob = await here.people(2)
    async with AsyncExitStack() as stack:
        client, ready = await opened(stack, here, ann)
        _, answer = await resumed(stack, there, ready, bob.token)
        assert (answer["event"], answer["data"]["reason"]) == ("session_reset", "unknown_session")
        await asyncio.sleep(2.5)  # two beats: by then a node drops what it has lost
        assert (await client.ask("list_chatrooms"))["event"] == "ack"
        moved, answer = await resumed(stack, there, ready)
        assert answer["event"] == "resumed"
        assert any(await claims(valkey))
        await moved.send("goodbye")
        await moved.closed()
        await until_none(valkey)
        for node in (there, here):
            _, answer = await resumed(stack, node, ready)
            assert (answer["event"], answer["data"]["reason"]) == ("session_reset", "unknown_session")
        await until_none(valkey)


async def claims(valkey: Valkey) -> list[Any]:
    """The digests of the sessions that Redis has claims on."""
    async with redis.asyncio.Redis.from_url(valkey.url) as client:
        names = [field async for key in client.scan_iter("parley:claims:*") for field in await client.hkeys(key)]
    return [name for name in names if name != b"changes"]


async def until_none(valkey: Valkey) -> None:
    """Waits until no claim is left."""
    async with asyncio.timeout(PATIENCE):
        while await claims(valkey):
            await asyncio.sleep(0.1)
