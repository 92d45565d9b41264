"""A node is stopped past its lease and goes on: what it lost meanwhile it does not touch."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import AsyncExitStack

import pytest

from storage.leases import LEASE
from tests.e2e.socket_client import socket_client
from tests.faults.conftest import MakeCluster

pytestmark = pytest.mark.timeout(240)

LONG = pytest.param(20, marks=[pytest.mark.faults, pytest.mark.timeout(1200)])


@pytest.mark.parametrize("times", [1, LONG])
async def test_stopped_past_its_lease(cluster: MakeCluster, times: int) -> None:
    """Its clients go on elsewhere; what they had sent it is in no history unless they sent it again.

    It delivers and acks nothing on the sockets that it still had.
    """
    made = await cluster(2)
    load = await made.load()
    await made.note_levels()
    async with load.running():
        for turn in range(times):
            await load.acked(40)
            node = made.nodes[turn % 2]
            other = made.nodes[1 - turn % 2]
            async with AsyncExitStack() as stack:
                old = await stack.enter_async_context(socket_client(node.server))
                ready = await old.authenticate(made.people[0].token)
                await old.send("ping", {})
                await old.until("pong")
                heard = old.received
                os.kill(node.server.pid, signal.SIGSTOP)
                try:
                    for room in made.rooms:
                        ghost = {"chatroom_id": str(room), "content": f"ghost {turn}"}
                        await old.send("send_message", ghost, "ghost")
                    made.balancer.reset_lines()
                    new = await stack.enter_async_context(socket_client(other.server))
                    await new.until("hello")
                    which = {key: ready[key] for key in ("session_id", "resume_token")}
                    await new.send("resume", {**which, "received": heard, "token": made.people[0].token})
                    assert (await new.recv(20))["event"] == "session_reset"
                    async with asyncio.timeout(60):
                        await asyncio.gather(asyncio.sleep(LEASE + 2), load.acked(40))
                finally:
                    os.kill(node.server.pid, signal.SIGCONT)
                before = old.received
                assert (await old.closed(60))[0] in (4005, 4203)
                assert old.received == before
            await load.acked(40)
            await made.spread()
    await made.judge(load)  # a ghost in history would be unexpected
