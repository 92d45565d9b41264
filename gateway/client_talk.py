"""One connection of a client from its beginning to its end: a line, and what is read from and written to it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import msgspec

from gateway.client_lines import ABNORMAL, Line, LineClosed
from protocol.codec import ClientFrame, Codec, ServerFrame
from protocol.commands import Command
from protocol.errors import CloseCode

SENT_AT_ONCE = 64
"""Commands that go out in one write at most."""


class Talk:
    """Runs in a task of its own. `run` returns how the line ended: its close code and the reason."""

    def __init__(self, open_line: Callable[[], Awaitable[Line]], codec: Codec) -> None:
        self._open_line = open_line
        self._codec = codec
        self._line: Line | None = None
        self._outgoing: asyncio.Queue[ClientFrame[Command]] = asyncio.Queue()
        self._writer: asyncio.Task[None] | None = None
        self.task: asyncio.Task[None] | None = None

    async def run(
        self, opened: Callable[[Talk], None], heard: Callable[[Talk, ServerFrame], Awaitable[bool]]
    ) -> tuple[int, str]:
        """Opens the line and hands each frame to `heard`, until that returns False. Says goodbye at the end."""
        try:
            line = self._line = await self._open_line()
        except LineClosed as closed:
            return closed.code, closed.reason
        self._writer = asyncio.create_task(self._write(line))
        try:
            opened(self)
            while await heard(self, self._codec.decode_server(await line.receive())):
                pass
        except LineClosed as closed:
            return closed.code, closed.reason
        except msgspec.MsgspecError as error:
            return CloseCode.bad_frame, f"the server sent what this client cannot read: {error}"
        finally:
            self._writer.cancel()
            await line.close()
        return ABNORMAL, ""

    @property
    def is_open(self) -> bool:
        """Whether there was a line at all."""
        return self._line is not None

    def send(self, frame: ClientFrame[Command]) -> None:
        """Writes a frame, after those that wait already."""
        self._outgoing.put_nowait(frame)

    def hush(self) -> None:
        """Writes no more."""
        if self._writer is not None:
            self._writer.cancel()

    def abort(self) -> None:
        """Breaks it off, without a goodbye."""
        if self._line is not None:
            self._line.abort()
        elif self.task is not None:
            self.task.cancel()

    async def _write(self, line: Line) -> None:
        with contextlib.suppress(LineClosed):  # the reading side notices, too
            while True:
                frames = [await self._outgoing.get()]
                while len(frames) < SENT_AT_ONCE and not self._outgoing.empty():
                    frames.append(self._outgoing.get_nowait())
                await line.send([self._codec.encode(frame) for frame in frames])
