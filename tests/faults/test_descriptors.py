"""A node runs out of file descriptors."""

from __future__ import annotations

import asyncio
import sys
from contextlib import AsyncExitStack
from resource import RLIMIT_NOFILE

import psutil  # type: ignore[import-untyped]
import pytest

from bench.faults.addresses import dial
from tests.faults.cluster import until
from tests.faults.conftest import MakeCluster

pytestmark = [
    pytest.mark.timeout(240),
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux changes the limits of a running process"),
]

SPARE = 8
"""Files that the node may still open."""


async def test_no_more_files(cluster: MakeCluster) -> None:
    """Strangers take all that there are: who is connected goes on, new ones wait, and come in when there is room."""
    made = await cluster(1)
    node = made.nodes[0]
    load = await made.load()
    process = psutil.Process(node.server.pid)
    await made.note_levels()
    async with load.running():
        await load.acked(40)
        soft, hard = process.rlimit(RLIMIT_NOFILE)
        process.rlimit(RLIMIT_NOFILE, (process.num_fds() + SPARE, hard))
        async with AsyncExitStack() as strangers:
            for _ in range(4 * SPARE):
                _, writer = await dial(node.address, 1024)
                strangers.callback(writer.close)
            await until(lambda: process.num_fds() < process.rlimit(RLIMIT_NOFILE)[0] and "there are some left")
            await load.acked(100)
            made.balancer.reset_lines(0.5)
            await asyncio.sleep(1.0)
        await load.acked(100)
        process.rlimit(RLIMIT_NOFILE, (soft, hard))
    await made.judge(load)
