"""The client's shell: it carries out what the state machine asks, on asyncio and an open line."""

from __future__ import annotations

import asyncio
import inspect
import logging
import random
from collections.abc import Awaitable, Callable

import msgspec

from gateway.client_effects import (
    Answer,
    ClientClosed,
    Connect,
    Deliver,
    Drop,
    Effect,
    End,
    FetchToken,
    Opened,
    Refuse,
    Send,
)
from gateway.client_inbox import Inbox
from gateway.client_lines import ABNORMAL, Line, LineClosed
from gateway.client_state import ClientState
from protocol.codec import ClientFrame, Codec
from protocol.commands import Command
from protocol.errors import ChatError, CloseCode
from protocol.events import Event

Token = str | Callable[[], str | Awaitable[str]]
"""An access token or API key, or a function (plain or async) that returns a fresh one."""

FRAME_OVERHEAD = 256
"""Bytes that the envelope of a command takes at most, beside its data."""

SENT_AT_ONCE = 64
"""Commands that go out in one write at most."""

logger = logging.getLogger("parley.client")


class ClientIO:
    """Runs one ClientState: one task reads, one writes, one timer ticks."""

    def __init__(self, name: str, open_line: Callable[[], Awaitable[Line]], token: Token | None, codec: Codec) -> None:
        self._loop = asyncio.get_running_loop()
        self.state = ClientState(self._loop.time(), random.random)
        self.inbox = Inbox()
        self._name = name
        self._open_line = open_line
        self._token = token
        self._codec = codec
        self._line: Line | None = None
        self._outgoing: asyncio.Queue[ClientFrame[Command]] = asyncio.Queue()
        self._answers: dict[str, asyncio.Future[Event | None]] = {}
        self._opened: asyncio.Future[None] = self._loop.create_future()
        self._connect = asyncio.Event()
        self._may_read = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._fetching: asyncio.Task[None] | None = None
        self._running: asyncio.Task[None] | None = None
        self._closed: ClientClosed | None = None

    # --- for the user --------------------------------------------------------------------------

    async def open(self) -> None:
        """Waits for the first session. Raises ClientClosed if the server does not want this client."""
        self._running = asyncio.create_task(self._run())
        self._arm()
        await asyncio.shield(self._opened)

    async def ask(self, command: Command) -> Event | None:
        """The result of a command. Raises ChatError if it is refused, ClientClosed if the client ends first."""
        if self._closed is not None:
            raise self._closed
        self._check_size(command)
        id, effects = self.state.submit(command)
        answer: asyncio.Future[Event | None] = self._loop.create_future()
        self._answers[id] = answer
        self._do(effects)
        self.may_read()
        try:
            return await answer
        finally:
            del self._answers[id]
            self.state.abandon(id)

    def _check_size(self, command: Command) -> None:
        """The server closes the connection of someone who sends larger frames than it takes."""
        if len(self._codec.encode(command)) + FRAME_OVERHEAD > self.state.max_frame_bytes:
            raise ChatError("VALIDATION_LENGTH_EXCEEDED", "The command is larger than a frame may be.")

    def may_read(self) -> None:
        """The inbox has room again, or an answer is waited for."""
        self._may_read.set()

    async def close(self) -> None:
        """Ends the client; calls that still wait raise ClientClosed."""
        tasks = [task for task in (self._running, self._fetching) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._do(self.state.end(1000, "closed by the user"))

    # --- the state's wishes --------------------------------------------------------------------

    def _do(self, effects: list[Effect]) -> None:
        for effect in effects:
            self._do_one(effect)
        self._arm()

    def _do_one(self, effect: Effect) -> None:
        match effect:
            case Deliver(event):
                self.inbox.put(event)
            case Send(frame):
                self._outgoing.put_nowait(frame)
            case Answer(id, result):
                self._settle(id, result)
            case Refuse(id, error):
                self._settle(id, error)
            case _:
                self._do_rarely(effect)

    def _do_rarely(self, effect: Effect) -> None:
        match effect:
            case Connect():
                self._connect.set()
            case FetchToken() if self._fetching is None:
                self._fetching = asyncio.create_task(self._fetch_token())
            case Opened() if not self._opened.done():
                self._opened.set_result(None)
            case Drop(reason):
                logger.warning("%s: %s; connecting again", self._name, reason)
                self._cut()
            case End(error):
                self._end(error)

    def _settle(self, id: str, outcome: Event | Exception | None) -> None:
        answer = self._answers.get(id)
        if answer is None or answer.done():
            return
        if isinstance(outcome, Exception):
            answer.set_exception(outcome)
        else:
            answer.set_result(outcome)

    def _end(self, error: ClientClosed) -> None:
        self._closed = error
        for id in self._answers:
            self._settle(id, error)
        self.inbox.end(error)
        if not self._opened.done():
            self._opened.set_exception(error)
            self._opened.exception()  # nobody may be waiting any more
        self._cut()

    def _cut(self) -> None:
        if self._line is not None:
            self._line.abort()

    # --- time ----------------------------------------------------------------------------------

    def _arm(self) -> None:
        """Keeps one timer. One that fires too early does no harm, so it is only ever moved forward."""
        deadline = self.state.deadline
        if deadline is not None and (self._timer is None or self._timer.when() > deadline):
            self._disarm()
            self._timer = self._loop.call_at(deadline, self._tick)
        elif deadline is None:
            self._disarm()

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        self._timer = None
        self._do(self.state.tick(self._loop.time()))

    # --- the token -----------------------------------------------------------------------------

    async def _fetch_token(self) -> None:
        try:
            given = self._token() if callable(self._token) else self._token
            token = await given if inspect.isawaitable(given) else given
            effects = self.state.authorize(token)
        except (OSError, TimeoutError) as error:
            effects = self.state.unauthorized(f"no token: {error!r}")
        except Exception as error:
            effects = self._token_failed(error)
        self._fetching = None
        self._do(effects)

    def _token_failed(self, error: Exception) -> list[Effect]:
        if isinstance(error, ChatError) and error.kind.retryable:
            return self.state.unauthorized(f"no token: {error}")
        return self.state.end(CloseCode.auth_failed, f"no token: {error!r}")

    # --- the connection ------------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            while self.state.phase != "ended":
                await self._connect.wait()
                self._connect.clear()
                code, reason = await self._converse()
                self._do(self.state.disconnected(code, reason, self._loop.time()))
        except Exception as error:
            logger.exception("the client failed")
            self._do(self.state.end(CloseCode.bad_frame, repr(error)))

    async def _converse(self) -> tuple[int, str]:
        """One connection from its beginning to its end: how it was closed, and why."""
        try:
            line = await self._open_line()
        except LineClosed as closed:
            if closed.code == ABNORMAL:
                logger.warning("%s: %s; trying again", self._name, closed.reason)
            return closed.code, closed.reason
        try:
            return await self._talk(line)
        finally:
            await line.close()

    async def _talk(self, line: Line) -> tuple[int, str]:
        self._line = line
        self._outgoing = asyncio.Queue()
        writer = asyncio.create_task(self._write(line, self._outgoing))
        try:
            self._do(self.state.connected(self._loop.time()))
            return await self._read(line)
        except LineClosed as closed:
            return closed.code, closed.reason
        except msgspec.MsgspecError as error:
            return CloseCode.bad_frame, f"the server sent what this client cannot read: {error}"
        finally:
            self._line = None
            writer.cancel()

    async def _read(self, line: Line) -> tuple[int, str]:
        while self.state.phase != "ended":
            payload = await line.receive()
            self._do(self.state.receive(self._codec.decode_server(payload), self._loop.time()))
            if self.inbox.crowded:
                await self._wait_for_room()
        return ABNORMAL, ""

    async def _wait_for_room(self) -> None:
        """Leaves the rest to the server's slow-reader limits, unless an answer is awaited: it may be behind events."""
        self.state.pause()
        while self.inbox.crowded and not self._answers:
            self._may_read.clear()
            await self._may_read.wait()
        self.state.unpause(self._loop.time())

    async def _write(self, line: Line, outgoing: asyncio.Queue[ClientFrame[Command]]) -> None:
        try:
            while True:
                frames = [await outgoing.get()]
                while len(frames) < SENT_AT_ONCE and not outgoing.empty():
                    frames.append(outgoing.get_nowait())
                await line.send([self._codec.encode(frame) for frame in frames])
        except LineClosed:
            pass  # the reading side notices, too
