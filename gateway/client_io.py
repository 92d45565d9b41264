"""The client's shell: it carries out what the state machine asks, on asyncio and an open line."""

from __future__ import annotations

import asyncio
import inspect
import logging
import random
from collections.abc import Awaitable, Callable

from gateway.client_effects import (
    Answer,
    ClientClosed,
    Connect,
    ConnectNext,
    Deliver,
    Drop,
    DropNext,
    Effect,
    End,
    FetchToken,
    Opened,
    Refuse,
    Send,
    Switch,
)
from gateway.client_inbox import Inbox
from gateway.client_lines import ABNORMAL, Line
from gateway.client_state import ClientState
from gateway.client_talk import Talk
from protocol.codec import Codec, ServerFrame
from protocol.commands import Command
from protocol.errors import ChatError, CloseCode
from protocol.events import Event

Token = str | Callable[[], str | Awaitable[str]]
"""An access token or API key, or a function (plain or async) that returns a fresh one."""

FRAME_OVERHEAD = 256
"""Bytes that the envelope of a command takes at most, beside its data."""

logger = logging.getLogger("parley.client")


class ClientIO:
    """Runs one ClientState: a Talk for each connection, of which there may be two for a moment, and one timer."""

    def __init__(self, name: str, open_line: Callable[[], Awaitable[Line]], token: Token | None, codec: Codec) -> None:
        self._loop = asyncio.get_running_loop()
        self.state = ClientState(self._loop.time(), random.random)
        self.inbox = Inbox()
        self._name = name
        self._open_line = open_line
        self._token = token
        self._codec = codec
        self._talk: Talk | None = None
        self._next: Talk | None = None
        self._former: Talk | None = None
        self._talks: set[Talk] = set()
        self._answers: dict[str, asyncio.Future[Event | None]] = {}
        self._opened: asyncio.Future[None] = self._loop.create_future()
        self._may_read = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._fetching: asyncio.Task[None] | None = None
        self._closed: ClientClosed | None = None

    # --- for the user --------------------------------------------------------------------------

    async def open(self) -> None:
        """Waits for the first session. Raises ClientClosed if the server does not want this client."""
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
        while tasks := self._tasks():  # a timer may begin another meanwhile
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        self._do(self.state.end(1000, "closed by the user"))

    def _tasks(self) -> list[asyncio.Task[None]]:
        tasks = (self._fetching, *(talk.task for talk in self._talks))
        return [task for task in tasks if task is not None and not task.done()]

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
                if self._talk is not None:
                    self._talk.send(frame)
            case Answer(id, result):
                self._settle(id, result)
            case Refuse(id, error):
                self._settle(id, error)
            case _:
                self._do_rarely(effect)

    def _do_rarely(self, effect: Effect) -> None:
        match effect:
            case FetchToken() if self._fetching is None:
                self._fetching = asyncio.create_task(self._fetch_token())
            case Opened():
                self._retire()
                if not self._opened.done():
                    self._opened.set_result(None)
            case End(error):
                self._end(error)
            case _:
                self._connect_or_drop(effect)

    def _connect_or_drop(self, effect: Effect) -> None:
        match effect:
            case Connect():
                self._talk = self._begin()
            case ConnectNext():
                self._next = self._begin()
            case Switch():
                self._switch()
            case Drop(reason) if self._talk is not None:
                logger.warning("%s: %s; connecting again", self._name, reason)
                self._talk.abort()
            case DropNext(reason) if self._next is not None:
                logger.info("%s: the second connection is dropped: %s", self._name, reason)
                self._next.abort()

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
        for talk in list(self._talks):
            talk.abort()

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
            effects = self.state.authorize(await self._given_token())
        except (OSError, TimeoutError) as error:
            effects = self.state.unauthorized(f"no token: {error!r}")
        except Exception as error:
            effects = self._token_failed(error)
        self._fetching = None
        self._do(effects)

    async def _given_token(self) -> str | None:
        given = self._token() if callable(self._token) else self._token
        return await given if inspect.isawaitable(given) else given

    async def fresh_token(self) -> str:
        """A token for what goes beside the socket. Raises ChatError."""
        try:
            token = await self._given_token()
        except (OSError, TimeoutError) as error:
            raise ChatError("SERVICE_UNAVAILABLE", f"no token: {error!r}") from error
        if token is None:
            raise ChatError("AUTH_REQUIRED", "Files go by HTTP, which takes a token or an API key, and no private key.")
        return token

    def _token_failed(self, error: Exception) -> list[Effect]:
        if isinstance(error, ChatError) and error.kind.retryable:
            return self.state.unauthorized(f"no token: {error}")
        return self.state.end(CloseCode.auth_failed, f"no token: {error!r}")

    # --- the connections -----------------------------------------------------------------------

    def _begin(self) -> Talk:
        talk = Talk(self._open_line, self._codec)
        talk.task = asyncio.create_task(self._run(talk))
        self._talks.add(talk)
        return talk

    async def _run(self, talk: Talk) -> None:
        try:
            code, reason = await talk.run(self._begun, self._heard)
        except Exception as error:
            logger.exception("the client failed")
            self._do(self.state.end(CloseCode.bad_frame, repr(error)))
        else:
            self._over(talk, code, reason)
        finally:
            self._talks.discard(talk)

    def _begun(self, talk: Talk) -> None:
        now = self._loop.time()
        if talk is self._talk:
            self._do(self.state.connected(now))
        elif talk is self._next:
            self._do(self.state.next.connected(now))

    async def _heard(self, talk: Talk, frame: ServerFrame) -> bool:
        """Whether more is wanted. What the former connection says will come again, as missed frames."""
        now = self._loop.time()
        if talk is self._talk:
            self._do(self.state.receive(frame, now))
            if self.inbox.crowded:
                await self._wait_for_room(talk)
        elif talk is self._next:
            self._do(self.state.next.receive(frame, now))
        return self.state.phase != "ended"

    def _over(self, talk: Talk, code: int, reason: str) -> None:
        if not talk.is_open and code == ABNORMAL:
            logger.warning("%s: %s; trying again", self._name, reason)
        if talk is self._talk:
            self._talk = None
            self._retire()
            self._do(self.state.disconnected(code, reason, self._loop.time()))
        elif talk is self._next:
            self._next = None
            self._do(self.state.next.disconnected(self._loop.time()))

    async def _wait_for_room(self, talk: Talk) -> None:
        """Leaves the rest to the server's slow-reader limits, unless an answer is awaited: it may be behind events."""
        self.state.pause()
        while talk is self._talk and self.inbox.crowded and not self._answers:
            self._may_read.clear()
            await self._may_read.wait()
        if talk is self._talk:
            self.state.unpause(self._loop.time())

    def _switch(self) -> None:
        self._former, self._talk, self._next = self._talk, self._next, None
        if self._former is not None:
            self._former.hush()

    def _retire(self) -> None:
        if self._former is not None:
            self._former.abort()
            self._former = None
