"""How long a cut session is kept."""

from __future__ import annotations

import asyncio

from tests.e2e.conftest import StartServer
from tests.e2e.server import Server
from tests.e2e.socket_client import SocketClient, on_all_transports, socket_client

WINDOW = 2.0


async def test_window(start_server: StartServer) -> None:
    """A cut session is kept for the resume window, counted from its last cut, and no longer."""
    await on_all_transports(await start_server(PARLEY_RESUME_WINDOW=str(WINDOW)), _window)


async def _window(server: Server) -> None:
    (ann,) = await server.people(1)
    async with socket_client(server) as client:
        ready = await client.authenticate(ann.token)
        client.cut()
    async with socket_client(server) as client:
        assert await _resume(client, ready) == "resumed"
        await asyncio.sleep(0.6 * WINDOW)
        client.cut()
    await asyncio.sleep(0.6 * WINDOW)  # the window of the first cut has passed, that of the second has not
    async with socket_client(server) as client:
        assert await _resume(client, ready) == "resumed"
        client.cut()
    await asyncio.sleep(1.2 * WINDOW)
    async with socket_client(server) as client:
        assert await _resume(client, ready) == "session_reset"


async def _resume(client: SocketClient, ready: dict[str, str]) -> str:
    await client.until("hello")
    asked = {"session_id": ready["session_id"], "resume_token": ready["resume_token"], "received": 0}
    await client.send("resume", asked)
    return str((await client.recv())["event"])
