"""Many resumes of one session at once, on two nodes: it has one owner, and its events come once."""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack
from typing import Any
from uuid import UUID

import pytest

from tests.e2e.lines import Ended
from tests.e2e.server import Person
from tests.e2e.socket_client import SocketClient, socket_client
from tests.faults.cluster import Cluster
from tests.faults.conftest import MakeCluster

pytestmark = pytest.mark.timeout(240)

REPLACED = 4005
PATIENCE = 20.0

LONG = pytest.param(500, marks=[pytest.mark.faults, pytest.mark.timeout(3600)])


async def _resume(client: SocketClient, ready: dict[str, Any], received: int) -> str:
    """What came of it: `resumed`, `session_reset`, or `closed`."""
    which = {"session_id": ready["session_id"], "resume_token": ready["resume_token"], "received": received}
    try:
        await client.send("resume", which)
        frame = await client.recv(PATIENCE)
    except Ended as ended:
        return f"closed with {ended.code}"
    return str(frame["data"].get("reason", frame["event"]))


async def _owns(client: SocketClient, room: UUID, text: str) -> bool:
    """Whether the session still goes on here: then it hears this message, once."""
    try:
        while (await client.until("message_received", timeout=PATIENCE))["data"]["message"]["content"] != text:
            pass
    except Ended as ended:
        return ended.code != REPLACED
    return True


async def _round(made: Cluster, ann: Person, bob: SocketClient, room: UUID, dice: random.Random, number: int) -> int:
    """How many have the session in the end."""
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(socket_client(dice.choice(made.servers)))
        ready = await first.authenticate(ann.token)
        await bob.say(room, f"{number} heard")
        await first.until("message_received")
        await bob.say(room, f"{number} missed")
        clients = [
            await stack.enter_async_context(socket_client(dice.choice(made.servers)))
            for _ in range(dice.randint(2, 10))
        ]
        for client in clients:
            await client.until("hello")
        outcomes = await asyncio.gather(*(_resume(client, ready, first.received) for client in clients))
        await bob.say(room, f"{number} after")
        resumed = [client for client, outcome in zip(clients, outcomes, strict=True) if outcome == "resumed"]
        owners = sum(await asyncio.gather(*(_owns(client, room, f"{number} after") for client in resumed)))
        assert owners == 1 or (owners == 0 and "node_gone" in outcomes), (owners, outcomes)
        return owners


@pytest.mark.parametrize("rounds", [20, LONG])
async def test_one_owner(cluster: MakeCluster, dice: random.Random, rounds: int) -> None:
    """Two to ten connections on two nodes ask for a session at once: one has it in the end, whoever came first.

    It is nobody's where a node had no time to answer within half a second, and then somebody was told so.
    """
    made = await cluster(2)
    ann, bob = await made.nodes[0].server.people(2)
    room = await made.nodes[0].server.chatroom(ann, bob)
    async with socket_client(made.nodes[1].server) as talking:
        await talking.authenticate(bob.token)
        owned = [await _round(made, ann, talking, room, dice, number) for number in range(rounds)]
    assert 1 in owned
    assert all("Traceback" not in server.logs() for server in made.servers)
