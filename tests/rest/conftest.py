"""A server on a free port of the loopback, with the stand-in behind it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest

from gateway.rates import Rates
from rest.app import make_app
from rest.server import HttpServer
from rest.settings import RestSettings
from tests.rest.stand_in import INFO, StandInChat

ADA_SIGNED = {"Authorization": "Bearer ada-token"}


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: Any
    text: str
    body: Any

    @property
    def code(self) -> str:
        """The error code, of an answer that is a well-formed refusal."""
        assert self.body["success"] is False
        assert set(self.body["error"]) >= {"code", "message", "details"}
        return str(self.body["error"]["code"])


@dataclass
class Server:
    """A running server, and a client of it."""

    chat: StandInChat
    port: int
    http: aiohttp.ClientSession
    factory: HttpServer
    observed: list[tuple[str, str, int, float]] = field(default_factory=list)

    async def ask(self, method: str, path: str, **options: Any) -> Answer:
        """One request, signed by Ada unless `headers` are given."""
        options.setdefault("headers", ADA_SIGNED)
        async with self.http.request(method, f"http://127.0.0.1:{self.port}{path}", **options) as response:
            text = await response.text()
            body = await response.json() if response.content_type == "application/json" and text else None
            return Answer(response.status, response.headers, text, body)

    @asynccontextmanager
    async def raw(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """A bare connection."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            yield reader, writer
        finally:
            writer.close()


Serve = Callable[..., Awaitable[Server]]


async def _metrics() -> bytes:
    return b"up 1\n"


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Starts a server with other settings than the usual ones."""
    async with AsyncExitStack() as stack:

        async def start(requests_per_minute: int = 1000, **changes: Any) -> Server:
            chat = StandInChat(rates=Rates(requests_per_minute, time.monotonic))
            known: dict[str, Any] = {"version": "1.2.3", "public_url": "http://chat.example", "info": INFO}
            settings = RestSettings(**(known | changes))
            observed: list[tuple[str, str, int, float]] = []
            app = make_app(chat, settings, _metrics, lambda *seen: observed.append(seen))
            http = await HttpServer.start(app, settings)
            stack.push_async_callback(http.stop, 0.1)
            listener = await asyncio.get_running_loop().create_server(http, "127.0.0.1", 0)
            stack.callback(listener.close)
            client = await stack.enter_async_context(aiohttp.ClientSession())
            return Server(chat, listener.sockets[0].getsockname()[1], client, http, observed)

        yield start


@pytest.fixture
async def server(serve: Serve) -> Server:
    """A server with the usual settings."""
    return await serve()
