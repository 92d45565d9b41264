"""Limits that hold for users and addresses: over both doors, behind proxies, and on all nodes together."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from uuid import uuid4

import aiohttp
import pytest

from tests.e2e.conftest import StartServer
from tests.e2e.raw import RawSocket, head
from tests.e2e.server import PASSWORD, Server
from tests.e2e.socket_client import socket_client
from tests.valkey import Valkey

Node = Callable[[], Awaitable[Server]]


@pytest.fixture
async def node(database_url: str, valkey: Valkey, tmp_path: Path) -> AsyncIterator[Node]:
    """Starts one more node on the same database and Valkey, with three requests a minute."""
    async with AsyncExitStack() as stack:
        started = 0

        async def start() -> Server:
            nonlocal started
            started += 1
            directory = tmp_path / str(started)
            directory.mkdir()
            settings = {
                "REDIS_URL": valkey.url,
                "PARLEY_DATA": str(tmp_path / "data"),  # for the keys
                "PARLEY_LIMIT_REQUESTS": "3",
                "PARLEY_PROXIES": "127.0.0.1",
            }
            server = Server(directory, database_url, settings)
            await server.start()
            stack.push_async_callback(server.stop)
            return server

        yield start


async def test_nodes_and_doors_share_limits(node: Node, valkey: Valkey) -> None:
    """A user has three requests on all nodes together, and so has an address, where guesses on sockets are some."""
    one, other = await node(), await node()
    address, token = "", ""
    seen: list[int | str] = []
    for address in (f"198.51.100.{number}" for number in range(1, 9)):
        token, seen = await _use_up(one, other, address)
        if seen == USED_UP:
            break  # a Redis that takes more than 50 ms once, as on a busy machine, is let alone for a while
    assert seen == USED_UP
    valkey.kill()
    assert await _get(one, address, token) == 429
    assert await _get(one, address) == 429
    assert await _get(one, "198.51.100.99") == 401
    for server in (one, other):
        assert "Traceback" not in server.logs()


USED_UP = [200, 200, 200, 429, 429, "AUTH_TOKEN_INVALID", "AUTH_TOKEN_INVALID", 429, "RATE_LIMIT_EXCEEDED"]
"""A user's requests, and then those of the address that the registration came from."""


async def _use_up(one: Server, other: Server, address: str) -> tuple[str, list[int | str]]:
    name = f"user-{uuid4().hex[:12]}"
    body = {"username": name, "email": f"{name}@example.com", "password": PASSWORD}
    headers = {"X-Forwarded-For": address}
    async with (
        aiohttp.ClientSession() as http,
        http.post(f"{one.http}/auth/register", json=body, headers=headers) as answer,
    ):
        token = (await answer.json())["data"]["access_token"]
    seen: list[int | str] = [await _get(server, address, token) for server in (one, other, one, other, one)]
    seen += [await _guess(server, address) for server in (other, one)]
    seen.append(await _get(other, address))
    seen.append(await _guess(other, address))
    return token, seen


async def _get(server: Server, forwarded: str, token: str | None = None, source: str = "127.0.0.1") -> int:
    """The status of a request from this address of ours."""
    connector = aiohttp.TCPConnector(local_addr=(source, 0))
    headers = {"X-Forwarded-For": forwarded} | ({"Authorization": f"Bearer {token}"} if token else {})
    async with (
        aiohttp.ClientSession(connector=connector) as http,
        http.get(f"{server.http}/users/me", headers=headers) as answer,
    ):
        return answer.status


async def _guess(server: Server, forwarded: str) -> str:
    """The code for a token that is none."""
    async with socket_client(server.ws, additional_headers={"X-Forwarded-For": forwarded}) as client:
        await client.until("hello")
        await client.send("authenticate", {"token": "a guess"})
        code: str = (await client.until("error"))["data"]["code"]
        assert await client.closed() == (4102 if code == "RATE_LIMIT_EXCEEDED" else 4001, code)
        return code


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has all of 127.0.0.0/8 without being asked")
async def test_clients_behind_a_proxy(start_server: StartServer) -> None:
    """Whom a trusted proxy names has a limit of their own, on both doors; whom anyone else names has not."""
    server = await start_server(
        PARLEY_PROXIES="127.0.0.1, 10.0.0.0/8",
        PARLEY_LIMIT_REQUESTS="2",
        PARLEY_LIMIT_UNAUTHENTICATED="2",
        PARLEY_AUTH_DEADLINE="60",
    )
    proxy, stranger = "127.0.0.1", "127.0.0.2"
    ada, bob, third = "198.51.100.1", "203.0.113.5, 198.51.100.2, 10.1.2.3", "198.51.100.3"
    assert [await _get(server, ada, source=proxy) for _ in range(3)] == [401, 401, 429]
    assert [await _get(server, bob, source=proxy) for _ in range(3)] == [401, 401, 429]
    assert await _get(server, "198.51.100.2", source=proxy) == 429
    assert [await _get(server, third, source=stranger) for _ in range(3)] == [401, 401, 429]
    assert await _get(server, "198.51.100.4", source=stranger) == 429
    assert await _get(server, third, source=proxy) == 401
    async with AsyncExitStack() as stack:

        async def upgrade(source: str, forwarded: str) -> int:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port, local_addr=(source, 0))
            stack.callback(writer.close)
            raw = RawSocket(reader, writer)
            raw.send(head(**{"X-Forwarded-For": forwarded}))
            return (await raw.response())[0]

        assert [await upgrade(proxy, ada) for _ in range(3)] == [101, 101, 429]
        assert [await upgrade(proxy, bob) for _ in range(3)] == [101, 101, 429]
        assert [await upgrade(stranger, third) for _ in range(3)] == [101, 101, 429]
        assert await upgrade(stranger, "198.51.100.4") == 429
        assert await upgrade(proxy, third) == 101
        assert await upgrade(proxy, "no address") == 101
    assert "Traceback" not in server.logs()
