"""Fixtures: a cluster of real nodes, and the dice that all that is random comes from."""

from __future__ import annotations

import logging
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.e2e.conftest import start_server as start_server  # a fixture
from tests.faults.cluster import Cluster
from tests.faults.disks import mounted_disk
from tests.valkey import Valkey

log = logging.getLogger(__name__)

MakeCluster = Callable[..., Awaitable[Cluster]]


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of its own, which PostgreSQL's account owns."""
    with mounted_disk() as disk:
        yield disk


@pytest.fixture
def seed() -> int:
    """A new one for each test; PARLEY_SEED=… repeats a run."""
    given = int(os.environ.get("PARLEY_SEED") or random.randrange(2**32))
    log.warning("PARLEY_SEED=%d", given)
    return given


@pytest.fixture
def dice(seed: int) -> random.Random:
    """What a test itself leaves to chance."""
    return random.Random(seed)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Clients come back sooner than they would: these tests are about what they find then."""
    monkeypatch.setattr("gateway.client_commands.RETRY_BASE", 0.05)
    monkeypatch.setattr("gateway.client_commands.DELAY_CAP", 0.5)
    caplog.set_level(logging.ERROR, "parley.client")  # it says each time that the server cannot be reached


@pytest.fixture
async def cluster(
    database_url: str, valkey: Valkey, tmp_path: Path, dice: random.Random, seed: int
) -> AsyncIterator[MakeCluster]:
    """Starts so many nodes on one database and one Valkey; they are stopped after the test."""
    async with AsyncExitStack() as stack:

        async def make(
            count: int, *, redis_url: str | None = valkey.url, database: str = database_url, **more: object
        ) -> Cluster:
            made = Cluster(tmp_path, database, redis_url, dice, seed)
            stack.push_async_callback(made.close)
            for _ in range(count):
                await made.add(**more)  # type: ignore[arg-type]
            await made.open()
            return made

        yield make
