"""A WebSocket client that does nothing by itself: for tests that look at single frames."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

UNCOUNTED = {"hello", "ready", "resumed", "session_reset", "pong", "lagging", "closing"}


class SocketClient:
    """Frames as dicts, in and out."""

    def __init__(self, ws: ClientConnection) -> None:
        self.ws = ws
        self.received = 0

    async def send(self, event: str, data: dict[str, Any] | None = None, id: str | None = None) -> None:
        """Sends a frame."""
        frame: dict[str, Any] = {"event": event, "data": data or {}}
        if id is not None:
            frame["id"] = id
        await self.ws.send(json.dumps(frame, default=str))

    async def recv(self, timeout: float = 5.0) -> dict[str, Any]:
        """The next frame."""
        frame: dict[str, Any] = json.loads(await asyncio.wait_for(self.ws.recv(), timeout))
        if frame["event"] not in UNCOUNTED:
            self.received += 1
        return frame

    async def until(self, event: str, id: str | None = None, timeout: float = 5.0) -> dict[str, Any]:
        """The next frame of this event (and of this id); those before it are skipped."""
        async with asyncio.timeout(timeout):
            while True:
                frame = await self.recv(timeout)
                if frame["event"] == event and (id is None or frame.get("id") == id):
                    return frame

    async def ask(self, event: str, data: dict[str, Any] | None = None, id: str = "q") -> dict[str, Any]:
        """Sends a command and returns its `ack` or `error`."""
        await self.send(event, data, id)
        while True:
            frame = await self.recv()
            if frame.get("id") == id:
                return frame

    async def authenticate(self, token: str) -> dict[str, Any]:
        """Opens a session: `hello`, `authenticate`, `ready`. Returns the data of `ready`."""
        await self.until("hello")
        await self.send("authenticate", {"token": token})
        frame = await self.recv()
        assert frame["event"] == "ready", frame
        data: dict[str, Any] = frame["data"]
        return data

    async def say(self, chatroom_id: UUID, text: str, **more: Any) -> dict[str, Any]:
        """Sends a message and returns the answer."""
        return await self.ask("send_message", {"chatroom_id": str(chatroom_id), "content": text, **more})

    async def closed(self, timeout: float = 10.0) -> tuple[int, str]:
        """Waits for the close; its code and reason."""
        await asyncio.wait_for(self.ws.wait_closed(), timeout)
        return self.ws.close_code or 0, self.ws.close_reason or ""

    def cut(self) -> None:
        """Breaks the connection without a word."""
        self.ws.transport.abort()


@asynccontextmanager
async def socket_client(url: str, **options: Any) -> AsyncIterator[SocketClient]:
    """A connection that has not said anything yet."""
    options.setdefault("subprotocols", [Subprotocol("parley.v1.json")])
    options.setdefault("max_queue", None)  # with frames unread the library would wait ten seconds at the close
    async with connect(url, max_size=None, **options) as ws:
        yield SocketClient(ws)
