"""A server of the load generator's own, for all its tests: what starts it is under test as well."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from bench.display import Display
from bench.stage import Stage, staged
from bench.target import Target, target
from tests.bench.running import Running


@pytest.fixture(scope="module")
def running() -> Iterator[Target]:
    """A Parley on a fresh data directory, as `python -m bench` starts it without --url."""
    with asyncio.Runner() as runner:
        server = target(None, apart=False)
        yield runner.run(server.__aenter__())
        runner.run(server.__aexit__(None, None, None))


@pytest.fixture(scope="module")
def bench(running: Target) -> Iterator[asyncio.Runner]:
    """What runs scenarios on the one server, with two generator processes that all tests of a file share."""
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def stage(bench: asyncio.Runner, running: Target) -> Iterator[Stage]:
    """That of two processes."""
    staging = staged(Running(running), 2, Display())
    yield bench.run(staging.__aenter__())
    bench.run(staging.__aexit__(None, None, None))
