"""The model server on a real socket."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from protocol.codec import JSON, Codec
from tests.gateway.client_shapes import ROOM
from tests.gateway.client_world import ModelServer


class Served:
    """The model server on a real socket; `meet` and `reply` let a test stand in its way."""

    def __init__(self, codec: Codec = JSON) -> None:
        self.model = ModelServer(codec)
        self.model.join(ROOM)
        self.socket: ServerConnection | None = None
        self.meet: Callable[[ServerConnection], Any] | None = None
        self.reply = True
        self.status: HTTPStatus | None = None
        self.connections = 0
        self.tokens: list[str] = []
        self.port = 0
        self._server: Server | None = None

    @property
    def url(self) -> str:
        """Where it listens, as a user would write it."""
        return f"ws://127.0.0.1:{self.port}"

    async def start(self, subprotocols: list[Subprotocol] | None = None) -> None:
        """Listens, on the port of the last time if there was one."""
        offered = [Subprotocol(f"parley.v1.{self.model.codec.name}")] if subprotocols is None else subprotocols
        self._server = await serve(
            self._converse, "127.0.0.1", self.port, subprotocols=offered or None, process_request=self._answer_request
        )
        self.port = next(iter(self._server.sockets)).getsockname()[1]

    async def stop(self) -> None:
        """Cuts what is open and listens no more."""
        if self._server is not None:
            self.cut()
            self._server.close()
            await self._server.wait_closed()

    def _answer_request(self, socket: ServerConnection, request: Request) -> Response | None:
        assert request.path == "/ws"
        return None if self.status is None else socket.respond(self.status, "")

    async def _converse(self, socket: ServerConnection) -> None:
        self.connections += 1
        if self.meet is not None:
            await self.meet(socket)
            return
        self.socket = socket
        self.model.open()
        try:
            await self.flush()
            while True:
                self._receive(await socket.recv(decode=False))
                await self.flush()
        except ConnectionClosed:
            if self.socket is socket:
                self.model.cut()

    def _receive(self, payload: bytes) -> None:
        token = getattr(self.model.codec.decode(payload).command, "token", None)
        self.tokens += [token] if token else []
        if self.reply or token:
            self.model.receive(payload)
            self.model.run_syncs()

    async def flush(self) -> None:
        """Writes what the model has to say."""
        while self.socket is not None and self.model.outgoing:
            await self.socket.send(self.model.outgoing.popleft(), text=not self.model.codec.binary)

    async def say(self, count: int = 1) -> None:
        """Someone writes messages."""
        for _ in range(count):
            self.model.say(ROOM)
        await self.flush()

    def cut(self) -> None:
        """The connection breaks without a word."""
        if self.socket is not None:
            self.socket.transport.abort()

    async def close(self, code: int, reason: str = "") -> None:
        """The server ends the connection."""
        assert self.socket is not None
        await self.socket.close(code, reason)
