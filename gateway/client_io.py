"""The client's shell: it carries out what the state machine asks, on asyncio and the websockets library."""

from __future__ import annotations

import asyncio
import inspect
import logging
import random
from collections.abc import Awaitable, Callable

import msgspec
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as open_socket
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, NegotiationError
from websockets.typing import Subprotocol

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
from gateway.client_state import ClientState
from protocol.codec import ClientFrame, Codec
from protocol.commands import Command
from protocol.errors import ChatError, CloseCode
from protocol.events import Event

Token = str | Callable[[], str | Awaitable[str]]
"""An access token, or a function (plain or async) that returns a fresh one."""

MAX_FRAME = 16 * 1024 * 1024
"""Bytes of the largest frame taken from the server: a full page of history is about 2 MiB."""

FRAME_OVERHEAD = 256
"""Bytes that the envelope of a command takes at most, beside its data."""

CLOSE_TIMEOUT = 2.0
"""Seconds that the closing handshake may take."""

ABNORMAL = 1006
"""The close code of a connection that broke, or never was (RFC 6455, 7.4.1)."""

logger = logging.getLogger("parley.client")


class ClientIO:
    """Runs one ClientState: one task reads, one writes, one timer ticks."""

    def __init__(self, url: str, token: Token, codec: Codec) -> None:
        self._loop = asyncio.get_running_loop()
        self.state = ClientState(self._loop.time(), random.random)
        self.inbox = Inbox()
        self._url = url
        self._token = token
        self._codec = codec
        self._socket: ClientConnection | None = None
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
                logger.warning("%s: %s; connecting again", self._url, reason)
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
        if self._socket is not None:
            self._socket.transport.abort()

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
            token = self._token() if callable(self._token) else self._token
            effects = self.state.authorize(await token if inspect.isawaitable(token) else token)
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
            socket = await open_socket(
                self._url,
                subprotocols=[Subprotocol(f"parley.v1.{self._codec.name}")],
                compression=None,
                ping_interval=None,  # the state has a heartbeat of its own
                close_timeout=CLOSE_TIMEOUT,
                max_size=MAX_FRAME,
            )
        except (OSError, TimeoutError, InvalidHandshake) as error:
            return self._no_connection(error)
        try:
            return await self._talk(socket)
        finally:
            await socket.close()

    def _no_connection(self, error: Exception) -> tuple[int, str]:
        if isinstance(error, NegotiationError):
            return CloseCode.bad_version, str(error)
        if isinstance(error, InvalidStatus) and _final(error.response.status_code):
            return CloseCode.forbidden, str(error)
        logger.warning("%s cannot be reached: %s; trying again", self._url, error)
        return ABNORMAL, str(error)

    async def _talk(self, socket: ClientConnection) -> tuple[int, str]:
        if socket.subprotocol is None:
            return CloseCode.bad_version, "the server does not speak Parley's protocol"
        self._socket = socket
        self._outgoing = asyncio.Queue()
        writer = asyncio.create_task(self._write(socket, self._outgoing))
        try:
            self._do(self.state.connected(self._loop.time()))
            await self._read(socket)
        except ConnectionClosed:
            pass  # its code tells the rest
        except msgspec.MsgspecError as error:
            return CloseCode.bad_frame, f"the server sent what this client cannot read: {error}"
        finally:
            self._socket = None
            writer.cancel()
        return socket.close_code or ABNORMAL, socket.close_reason or ""

    async def _read(self, socket: ClientConnection) -> None:
        while self.state.phase != "ended":
            payload = await socket.recv(decode=False)
            self._do(self.state.receive(self._codec.decode_server(payload), self._loop.time()))
            if self.inbox.crowded:
                await self._wait_for_room()

    async def _wait_for_room(self) -> None:
        """Leaves the rest to the server's slow-reader limits, unless an answer is awaited: it may be behind events."""
        self.state.pause()
        while self.inbox.crowded and not self._answers:
            self._may_read.clear()
            await self._may_read.wait()
        self.state.unpause(self._loop.time())

    async def _write(self, socket: ClientConnection, outgoing: asyncio.Queue[ClientFrame[Command]]) -> None:
        try:
            while True:
                frame = await outgoing.get()
                await socket.send(self._codec.encode(frame), text=not self._codec.binary)
        except ConnectionClosed:
            pass  # the reading side notices, too


def _final(status: int) -> bool:
    """Whether an HTTP answer to the upgrade would be the same next time: 4xx, but for timeouts and rate limits."""
    return 400 <= status < 500 and status not in (408, 425, 429)
