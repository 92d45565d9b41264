"""One client on one socket, whatever the transport: commands in order, answers, deadlines. `opening` lets it in.

A pump turns its transport's bytes into payloads and calls `receive`; what goes
out is written through the `Link` it passes. Commands of a session are taken in
order: a send goes into the journal at once, anything that has to wait goes
through an `Inbox`.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from typing import Any

from msgspec import Struct

from gateway.actor import Actor
from gateway.deadlines import REASONS, Deadlines, Due
from gateway.door import Door
from gateway.inbox import Inbox
from gateway.limits import Bucket
from gateway.link import Socket
from gateway.opening import Opening
from gateway.session import Session
from gateway.wire import Wire
from protocol.codec import BadFrame, Request
from protocol.commands import Authenticate, Goodbye, Ping, Resume, SendMessage
from protocol.errors import ChatError, CloseCode
from protocol.events import Hello, Pong, Synced, TokenExpiring

log = logging.getLogger(__name__)

CLOSE_SECONDS = 3.0
"""What a client gets to answer a close before the socket is dropped."""
STRIKES = 60
"""Commands refused in a row for coming too fast, after which the connection is closed."""
EARLY_FRAMES = 64
"""Frames that a client may send before its session is open; each costs an answer and is nobody's."""
PINGS = (12_000, 400)
"""Pings a minute, and at once: far above what a client needs that reports every 256 frames of a flood."""


class Connection:
    """The state of one connection."""

    __slots__ = (
        "_abort_at",
        "_address",
        "_closing",
        "_deadlines",
        "_door",
        "_early",
        "_finishing",
        "_inbox",
        "_link",
        "_peer_key",
        "_pings",
        "_session",
        "_wire",
        "due",
    )

    def __init__(
        self, door: Door, link: Socket, wire: Wire, address: str, peer_key: bytes | None = None
    ) -> None:  # `peer_key`: what the client's Noise handshake proved to hold
        self._door = door
        self._link = link
        self._wire = wire
        self._address = address
        self._peer_key = peer_key
        self._session: Session | None = None
        self._inbox: Inbox[Request | BadFrame] | None = None
        self._deadlines = Deadlines(door.wheel.now())
        self._finishing = False
        self._closing = False
        self._abort_at = 0.0
        self._early = 0
        self._pings: Bucket | None = None
        self.due = 0

    # --- what the pump calls -----------------------------------------------------------------

    def hello(self) -> bytes:
        """What the client is told first."""
        config = self._door.config
        hello = Hello(
            server="parley",
            heartbeat_interval=config.heartbeat_interval,
            auth_deadline=config.auth_deadline,
            max_frame_bytes=config.limit_frame,
            resume_window=config.resume_window,
        )
        return self._wire.chunk("hello", hello).data

    def begin(self, token: str | None) -> None:
        """A token that came with the request opens a session without waiting for a frame."""
        self._door.wheel.schedule(self, self._next_due(self._door.wheel.now()))
        if token:
            self._put(Request("authenticate", None, Authenticate(token=token)))

    def receive(self, payload: bytes | bytearray | memoryview) -> None:
        """A client frame's payload."""
        self.touch()
        if self._closing or self._finishing:
            return
        request: Request | BadFrame
        try:
            request = self._wire.codec.decode(payload)
        except BadFrame as error:
            request = error.with_traceback(None)  # which would keep the payload for as long as it waits
        if self._session is None and not self._may_come_early():
            return
        if self._inbox is None and self._door.fence.clear and self._at_once(request):
            return
        self._put(request)

    def _may_come_early(self) -> bool:
        self._early += 1
        if self._early > EARLY_FRAMES:
            self.close(CloseCode.rate_limited, "too many frames before the session was open")
        return not self._closing

    def touch(self) -> None:
        """Something came from the client: it lives."""
        self._deadlines.touch(self._door.wheel.now())

    def drained(self) -> None:
        """The socket takes more."""
        if self._session is not None:
            self._door.hub.outboxes.flush_now(self._session)
            if not self._session.stuck:
                self._deadlines.drained()

    def stuck(self) -> None:
        """The reader has begun to lag: from now on it has a deadline."""
        if not self._link.paused:
            # The socket may take all that waits and never fill up; then nothing else would say that it has drained.
            asyncio.get_running_loop().call_soon(self.drained)
        now = self._door.wheel.now()
        if self._deadlines.stuck(now):
            self._door.wheel.schedule(self, self._next_due(now))

    def lost(self, *, clean: bool) -> None:
        """The socket is gone. After a clean goodbye nobody will resume."""
        self._closing = True
        self._take_no_more()
        if self._session is None:
            self._door.known(self._address)
        elif clean and self._door.hub.links.get(self._session) is self._link:
            self._door.hub.forget(self._session)
        else:
            self._door.cut(self._session, self._link)

    def finish(self) -> asyncio.Task[None] | None:
        """Takes no more commands: not being counted as handled, they are sent again, elsewhere."""
        self._finishing = True
        self._take_no_more()
        return None if self._inbox is None else self._inbox.worker

    def _leave(self) -> None:
        """The client says goodbye: nobody will resume."""
        self._last_words()
        if self._session is not None:
            self._door.hub.forget(self._session)
        self._link.hang_up()
        self._abort_later()

    def close(self, code: CloseCode, reason: str) -> None:
        """Sends what waits, says why, and gives the client a moment to close its end."""
        if self._closing:
            return
        self._last_words()
        self._link.send_close(code, reason)
        self._door.metrics.closed(code.name)
        self._abort_later()

    def _abort_later(self) -> None:
        self._abort_at = self._door.wheel.now() + CLOSE_SECONDS
        self._door.wheel.schedule(self, self._abort_at)

    def _last_words(self) -> None:
        """Takes no more; what waits is written, if the socket takes it."""
        self._closing = True
        self._take_no_more()
        session = self._session
        if session is not None and self._door.hub.links.get(session) is self._link and self._may_write():
            self._link.write(session.take())

    def _may_write(self) -> bool:
        """Whether the socket takes more, and the session is certainly ours."""
        return not self._link.paused and self._door.fence.clear

    # --- commands, in order ------------------------------------------------------------------

    def _at_once(self, request: Request | BadFrame) -> bool:
        """Takes what needs no waiting, without a task. Only while nothing waits, to keep the order."""
        session = self._session
        if session is None or self._outbox_full():
            return False
        if isinstance(request, BadFrame):
            self._take_bad(request)
            return True
        command = request.command
        if type(command) is SendMessage and self._door.chat.can_begin(command):
            if self._admit(request):
                self._begin_send(session, request.id, command)
            return True
        if type(command) is Ping:
            self._pong(request.id, command)
            return True
        return False

    def _put(self, request: Request | BadFrame) -> None:
        if self._inbox is None:
            self._inbox = Inbox(request, self._take, self._outbox_full, self._read, self._taken)
        else:
            self._inbox.put(request)

    def _take_no_more(self) -> None:
        if self._inbox is not None:
            self._inbox.stop()

    def _read(self, on: bool) -> None:
        if on:
            self._link.resume_reading()
        else:
            self._link.pause_reading()

    def _taken(self, failure: Exception | None) -> None:
        """Nothing waits any more."""
        self._inbox = None
        if failure is not None:
            log.error("a connection failed", exc_info=failure)
            self.close(CloseCode.internal, "something went wrong inside Parley")
        elif not self._closing:
            self._link.resume_reading()

    async def _take(self, request: Request | BadFrame) -> None:
        await self._door.fence.passed()
        if not self._closing:
            await self._take_now(request)

    async def _take_now(self, request: Request | BadFrame) -> None:
        if isinstance(request, BadFrame):
            self._take_bad(request)
        elif isinstance(request.command, Authenticate | Resume):
            await self._opening().come_in(request.id, request.command)
        elif isinstance(request.command, Ping):
            self._pong(request.id, request.command)
        elif isinstance(request.command, Goodbye):
            self._leave()
        elif self._session is None:
            self.refuse(request.id, ChatError("AUTH_REQUIRED"))
        elif self._admit(request):
            await self._command(self._session, request)

    def _admit(self, request: Request) -> bool:
        """Counts the frame as handled, and the command against the session's rate."""
        assert self._session is not None
        self._session.handled += 1
        return self.within_rate(self._session, request.id)

    def within_rate(self, session: Session, id: str | None) -> bool:
        """Whether the session may give another command now; tells the client where it may not."""
        now = self._deadlines.last_seen
        if session.bucket is None:
            session.bucket = Bucket(self._door.config.limit_commands, self._door.config.limit_burst, now)
        wait = session.bucket.take(now)
        if not wait:
            return True
        self.answer_error(session, id, ChatError("RATE_LIMIT_EXCEEDED", retry_after=round(wait, 3)))
        if session.bucket.refused > STRIKES:
            self.close(CloseCode.rate_limited, "too many commands")
        return False

    async def _command(self, session: Session, request: Request) -> None:
        command = request.command
        session.pending += 1
        try:
            if isinstance(command, SendMessage):
                await self._door.chat.prepare(Actor.of(session), command)
                self._begin_send(session, request.id, command)
                return
            answer = await self._door.chat.handle(Actor.of(session), command)
        except ChatError as error:
            self.answer_error(session, request.id, error)
            return
        finally:
            session.pending -= 1
        self._answer(session, request.id, answer)

    def _begin_send(self, session: Session, id: str | None, command: SendMessage) -> None:
        def settle(outcome: Any) -> None:
            session.pending -= 1
            if isinstance(outcome, ChatError):
                self.answer_error(session, id, outcome)
            else:
                self._answer(session, id, outcome)

        if session.moved:  # another node took it while we read: the client learns there what became of the command
            return
        session.pending += 1
        self._door.chat.begin(Actor.of(session), command, settle)

    def _take_bad(self, error: BadFrame) -> None:
        if self._session is None:
            self.refuse(error.frame_id, error)
        elif self._admit(Request("", error.frame_id, Ping())):
            self.answer_error(self._session, error.frame_id, error)

    def _answer(self, session: Session, id: str | None, answer: Struct | None) -> None:
        """An answer belongs to the session, not to this socket: it waits for a resume if need be."""
        event = "synced" if isinstance(answer, Synced) else "ack"
        self._door.hub.send(session, session.wire.chunk(event, answer, id=id))
        self._mind_outbox(session)

    def answer_error(self, session: Session, id: str | None, error: ChatError) -> None:
        """A refusal is counted as answers are."""
        self._door.hub.send(session, session.wire.error(error, id))
        self._mind_outbox(session)

    def _outbox_full(self) -> bool:
        """Whether so many answers lie unread that what the client asks next has to wait."""
        session = self._session
        return session is not None and session.queued > session.limits.outbox

    def _mind_outbox(self, session: Session) -> None:
        """Answers are never dropped; who does not read them is not read from, and has a deadline."""
        if session.queued > session.limits.outbox and session.attached:
            session.stuck = True
            self.stuck()

    def refuse(self, id: str | None, error: ChatError) -> None:
        """An error before there is a session to count it in."""
        self._link.write(self._wire.error(error, id).data)

    def _pong(self, id: str | None, command: Ping) -> None:
        session = self._session
        if session is None:
            self._link.write(self._wire.chunk("pong", Pong(handled=0), id=id).data)
            return
        if not self._may_ping():
            return
        if command.received is not None and not session.acknowledge(command.received):
            error = ChatError(
                "VALIDATION_INVALID_VALUE",
                "There were not so many frames.",
                details={"field": "received", "sent": session.sent},
            )
            self.answer_error(session, id, error)
            return
        session.push_uncounted(self._wire.chunk("pong", Pong(handled=session.handled), id=id))
        self._door.hub.mark(session)

    def _may_ping(self) -> bool:
        now = self._deadlines.last_seen
        if self._pings is None:
            self._pings = Bucket(*PINGS, now)
        if self._pings.take(now):
            self.close(CloseCode.rate_limited, "too many pings")
        return not self._closing

    def _opening(self) -> Opening:
        return Opening(self, self._door, self._link, self._wire, self._address, self._peer_key)

    # --- what an opening calls ---------------------------------------------------------------

    @property
    def closing(self) -> bool:
        """Whether nothing more is taken."""
        return self._closing

    @property
    def session(self) -> Session | None:
        """What is open."""
        return self._session

    def enter(self, session: Session) -> None:
        """A session is open from now on."""
        self._session = session
        self._deadlines.entered()
        self._door.known(self._address)
        self._door.wheel.schedule(self, self._next_due(self._door.wheel.now()))

    def renewed(self) -> None:
        """The session has a new token."""
        self._deadlines.renewed()

    # --- deadlines ---------------------------------------------------------------------------

    def tick(self, now: float) -> float | None:
        """Does what is due; called by the wheel."""
        if self._closing:
            if now < self._abort_at:  # the wheel had filed us for something else
                return self._abort_at
            self._link.abort()
            return None
        while not self._closing and (due := self._deadlines.due(self._door.config, now, self._token_left())):
            self._do(due)
        return None if self._closing else self._next_due(now)

    def _do(self, due: Due) -> None:
        if isinstance(due, CloseCode):
            self.close(due, REASONS[due])
        elif due == "ping":
            self._link.ping()
        elif (session := self._session) is not None and session.token_expires_at is not None:
            data = TokenExpiring(expires_at=session.token_expires_at)
            self._door.hub.send(session, self._wire.chunk("token_expiring", data))

    def _next_due(self, now: float) -> float:
        return self._deadlines.next(self._door.config, now, self._token_left())

    def _token_left(self) -> float | None:
        """Seconds the session's token is good for, by the clock on the wall, as tokens are. A bot's key is for ever."""
        if self._session is None:
            return None
        expires = self._session.token_expires_at
        return math.inf if expires is None else expires.timestamp() - time.time()
