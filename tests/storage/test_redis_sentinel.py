"""The bus behind Sentinel: when the primary dies, nodes meet at the replica that follows it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from storage.redis_client import AWAY, connect
from tests.storage.test_redis_bus import ears, event, hearing, until
from tests.valkey import Sentinel, Valkey


class Watched(NamedTuple):
    """A primary, a replica, and the Sentinel that watches them."""

    primary: Valkey
    replica: Valkey
    sentinel: Sentinel

    @property
    def url(self) -> str:
        """In the form of REDIS_URL, with a Sentinel before it that nobody reaches."""
        return f"redis+sentinel://127.0.0.1:1,127.0.0.1:{self.sentinel.port}/main"


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    """They run, and the Sentinel knows of the replica."""
    primary = Valkey(tmp_path / "primary", repl_diskless_sync_delay="0")
    replica = Valkey(tmp_path / "replica", replicaof=f"127.0.0.1 {primary.port}")
    servers = Watched(primary, replica, Sentinel(tmp_path / "sentinel", primary))
    for server in servers:
        server.start()
    yield servers
    for server in servers:
        server.stop()


async def _replicated(watched: Watched) -> None:
    """Until the replica is one that can take over, and the Sentinel knows."""
    async with asyncio.timeout(60):
        while watched.replica.ask("INFO", "replication")["master_link_status"] != "up":
            await asyncio.sleep(0.02)
        while not watched.sentinel.ask("SENTINEL REPLICAS", "main"):
            await asyncio.sleep(0.02)


async def test_failover(watched: Watched) -> None:
    """Nodes find the primary through any Sentinel that answers; when it dies they hear each other soon again."""
    await _replicated(watched)
    async with ears(watched.url) as ear:
        here, there = ear(), ear()
        await hearing(here, there)
        here.bus.publish([event(1)])
        await until(lambda: there.seqs() == [1])
        watched.primary.kill()
        await asyncio.to_thread(watched.sentinel.fail_over)
        async with asyncio.timeout(60):
            while not (here.restored and there.restored):
                await asyncio.sleep(0.02)
        assert watched.replica.ask("INFO", "replication")["role"] == "master"
        here.bus.publish([event(2)])
        await until(lambda: there.seqs() == [1, 2])


async def test_an_unknown_service(watched: Watched) -> None:
    """A service that no Sentinel knows is a Redis that is away."""
    client = connect(watched.url.replace("/main", "/other"))
    with pytest.raises(AWAY):
        await client.get("key")
    await client.aclose()
