"""A server of the load generator's own, for all its tests: what starts it is under test as well."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from bench.target import Target, target


@pytest.fixture(scope="module")
def running() -> Iterator[Target]:
    """A Parley on a fresh data directory, as `python -m bench` starts it without --url."""
    with asyncio.Runner() as runner:
        server = target(None, apart=False)
        yield runner.run(server.__aenter__())
        runner.run(server.__aexit__(None, None, None))
