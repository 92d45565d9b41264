"""Fixtures: a running server on a database of the test's own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import asyncpg
import pytest
import pytest_asyncio

from tests.e2e.server import Person, Server

StartServer = Callable[..., Awaitable[Server]]


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


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def common_server(server_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    """One server with generous limits, for all tests that only add accounts and chatrooms of their own."""
    admin = await asyncpg.connect(server_url, database="postgres")
    await admin.execute("CREATE DATABASE common TEMPLATE parley")
    server = Server(tmp_path_factory.mktemp("common"), server_url.replace("/parley?", "/common?"), {})
    await server.start()
    yield server
    await server.stop()
    await admin.execute("DROP DATABASE common WITH (FORCE)")
    await admin.close()
    assert "Traceback" not in server.logs()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def crowd(common_server: Server) -> list[Person]:
    """Six accounts on the common server, for tests that need people but not new ones."""
    return await common_server.people(6)
