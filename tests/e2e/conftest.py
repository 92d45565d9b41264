"""Fixtures: a running server on a database of the test's own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.e2e.server import Server

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
