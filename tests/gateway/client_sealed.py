"""The server's end of a Noise line, on a real socket, for tests of the client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from websockets.asyncio.server import ServerConnection, serve
from websockets.typing import Subprotocol

from crypto.noise import PrivateKey
from gateway.envelope import Envelope, accept
from gateway.urls import key_text
from protocol.framing import PREFACE_BYTES, Preface, frame

SERVER = PrivateKey(b"s" * 32)
KEY = key_text(SERVER.public)
LIMIT = 65_536

OnSocket = Callable[[ServerConnection, Envelope], Awaitable[None]]
OnStream = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def sealed_websocket(then: OnSocket) -> AsyncIterator[str]:
    """Shakes hands with whoever comes, then does what the test wants. Yields the URL."""

    async def converse(socket: ServerConnection) -> None:
        preface = Preface.parse(await socket.recv(decode=False))
        accepted = accept(preface, SERVER, await socket.recv(decode=False), bytes, LIMIT)
        await socket.send(accepted.answer)
        await then(socket, accepted.envelope)

    async with serve(converse, "127.0.0.1", 0, subprotocols=[Subprotocol("parley.v1.noise")]) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        yield f"ws://127.0.0.1:{port}/ws?key={KEY}"


@asynccontextmanager
async def listening(serve_one: OnStream) -> AsyncIterator[int]:
    """Serves each connection, closes it afterwards, and yields the port."""
    open_ones: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def serve_and_close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        open_ones[task] = writer
        try:
            await serve_one(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            del open_ones[task]
            writer.close()

    server = await asyncio.start_server(serve_and_close, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for writer in open_ones.values():
            writer.transport.abort()
        await asyncio.gather(*open_ones)


async def shake_hands(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, key: PrivateKey = SERVER) -> Envelope:
    """The server's half on TCP. Raises NoiseBroken for a client that expects another key."""
    preface = Preface.parse(await reader.readexactly(PREFACE_BYTES))
    length = int.from_bytes(await reader.readexactly(4), "big")
    accepted = accept(preface, key, await reader.readexactly(length), frame, LIMIT)
    writer.write(accepted.answer)
    return accepted.envelope
