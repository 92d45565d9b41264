"""Fixtures: a running server on a database of the test's own."""

from __future__ import annotations

import logging
import os
import random
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import asyncpg
import pytest
import pytest_asyncio

from tests.e2e.lines import TRANSPORTS, Transport
from tests.e2e.server import Person, Server

log = logging.getLogger(__name__)

StartServer = Callable[..., Awaitable[Server]]


@pytest.fixture
def dice() -> random.Random:
    """What a test leaves to chance; PARLEY_SEED=… repeats a run."""
    seed = int(os.environ.get("PARLEY_SEED") or random.randrange(2**32))
    log.warning("PARLEY_SEED=%d", seed)
    return random.Random(seed)


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> Transport:
    """Each transport in turn: a test that asks for it runs over all of them."""
    chosen: Transport = request.param
    return chosen


@pytest.fixture
async def start_server(database_url: str, tmp_path: Path) -> AsyncIterator[StartServer]:
    """Starts a server with these settings (environment variables); it is stopped after the test."""
    async with AsyncExitStack() as stack:

        async def start(**settings: str) -> Server:
            server = Server(tmp_path, database_url, settings)
            await server.start()
            stack.push_async_callback(server.stop)
            return server

        yield start


@pytest.fixture
async def server(start_server: StartServer) -> Server:
    """A server with generous limits."""
    return await start_server()


@asynccontextmanager
async def server_of_its_own(
    server_url: str,
    tmp_path_factory: pytest.TempPathFactory,
    name: str,
    *arguments: str,
    trust: ssl.SSLContext | None = None,
    **settings: str,
) -> AsyncIterator[Server]:
    """A server that several tests share, on a database of this name. Nothing may have gone wrong inside it."""
    admin = await asyncpg.connect(server_url, database="postgres")
    await admin.execute(f"CREATE DATABASE {name} TEMPLATE parley")
    url = server_url.replace("/parley?", f"/{name}?")
    server = Server(tmp_path_factory.mktemp(name), url, settings, arguments, trust=trust)
    await server.start()
    yield server
    await server.stop()
    await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await admin.close()
    assert "Traceback" not in server.logs()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def common_server(server_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    """One server with generous limits, for all tests that only add accounts and chatrooms of their own."""
    async with server_of_its_own(server_url, tmp_path_factory, "common") as server:
        yield server


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def crowd(common_server: Server) -> list[Person]:
    """Six accounts on the common server, for tests that need people but not new ones."""
    return await common_server.people(6)
