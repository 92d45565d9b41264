"""A node is killed at one exact moment: proxies see the bytes that mark it, and kill before they go on."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from contextlib import suppress

import pytest

from bench.faults.proxy import Line, Trigger
from tests.faults.cluster import Cluster, Node
from tests.faults.conftest import MakeCluster

pytestmark = pytest.mark.timeout(240)

COMMITTED = b"D\0\0\0\x1a\0\2\0\0\0\x08"
"""How the answer to a flight's statement begins, which comes when it is committed: DataRow, its 26 bytes, two columns,
the first of them of eight bytes (PostgreSQL's protocol, 54.7). No other statement's rows are so."""
PUBLISH = b"PUBLISH\r\n$48\r\nparley:room:"
"""How a node begins to tell the others of a chatroom's event: the channel's name has 48 bytes."""

Moment = Callable[[Node], Trigger]


def _before_the_ack(node: Node) -> Trigger:
    """PostgreSQL has committed, and its word does not reach the node any more."""
    assert node.postgres
    return node.postgres.on("down", COMMITTED, _kill(node))


def _before_the_publish(node: Node) -> Trigger:
    """The node knows of the commit, and the other node never hears of it."""
    assert node.redis
    return node.redis.on("up", PUBLISH, _kill(node))


async def _come(made: Cluster, moment: Trigger) -> None:
    """Waits for the moment. It cannot come while all who write happen to be on the other node: they go round again."""
    for _ in range(20):
        with suppress(TimeoutError):
            await asyncio.wait_for(moment.fired.wait(), 3)
            return
        await made.spread()
    raise AssertionError("nobody wrote on this node")


def _kill(node: Node) -> Callable[[Line], None]:
    return lambda _: os.kill(node.server.pid, signal.SIGKILL)


LONG = pytest.param(100, marks=[pytest.mark.faults, pytest.mark.timeout(1800)])


@pytest.mark.parametrize("rounds", [2, LONG])
async def test_killed_behind_a_commit(cluster: MakeCluster, rounds: int) -> None:
    """Killed between COMMIT and ack, and between COMMIT and publish: the message is there once, and all hear it."""
    made = await cluster(2, postgres=True, redis=True)
    load = await made.load()
    await made.note_levels()
    async with load.running():
        for turn in range(rounds):
            node = made.nodes[turn % 2]
            for moment in (_before_the_ack, _before_the_publish):
                await load.acked(20)
                await _come(made, moment(node))
                assert node.server.process
                await asyncio.wait_for(node.server.process.wait(), 60)
                await load.acked(5)
                await node.server.start()
                await made.spread()
    await made.judge(load)
