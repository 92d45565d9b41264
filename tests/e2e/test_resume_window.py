"""How long a cut session is kept."""

from __future__ import annotations

import asyncio

from tests.e2e.conftest import StartServer
from tests.e2e.server import Server
from tests.e2e.socket_client import SocketClient, socket_client


async def test_window(start_server: StartServer) -> None:
    """A cut session is kept for the resume window and no longer; a resume begins a new one."""
    server = await start_server(PARLEY_RESUME_WINDOW="1")
    (ann,) = await server.people(1)
    async with socket_client(server.ws) as client:
        ready = await client.authenticate(ann.token)
        client.cut()
    await asyncio.sleep(0.4)
    async with socket_client(server.ws) as client:
        assert await _resume(client, ready) == "resumed"
        await asyncio.sleep(1.2)  # the end of the first cut has passed meanwhile
        await client.send("ping")
        assert (await client.recv())["event"] == "pong"
        client.cut()
    await asyncio.sleep(1.5)
    assert await _verdict(server, ready) == "session_reset"


async def _resume(client: SocketClient, ready: dict[str, str]) -> str:
    await client.until("hello")
    asked = {"session_id": ready["session_id"], "resume_token": ready["resume_token"], "received": 0}
    await client.send("resume", asked)
    return str((await client.recv())["event"])


async def _verdict(server: Server, ready: dict[str, str]) -> str:
    async with socket_client(server.ws) as client:
        return await _resume(client, ready)
