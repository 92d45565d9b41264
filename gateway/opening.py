"""How a client comes in: by a token, a key, or the session that it had."""

from __future__ import annotations

from typing import Protocol

from gateway.actor import Actor
from gateway.arrivals import Reset
from gateway.deadlines import REASONS
from gateway.door import Door
from gateway.handover import Superseded
from gateway.link import Link
from gateway.session import Session
from gateway.wire import Outbox, Wire
from protocol.commands import Authenticate, Resume
from protocol.errors import ChatError, CloseCode
from protocol.events import Authenticated, Resumed, SessionReset

_CLOSES = {
    "CONNECTION_LIMIT_EXCEEDED": CloseCode.connection_limit,
    "INTERNAL_ERROR": CloseCode.internal,
    "RATE_LIMIT_EXCEEDED": CloseCode.rate_limited,
}


class Client(Protocol):
    """The connection that somebody comes in by."""

    @property
    def closing(self) -> bool:
        """Whether nothing more is taken."""
        ...

    @property
    def session(self) -> Session | None:
        """What is open."""
        ...

    def enter(self, session: Session) -> None:
        """A session is open from now on."""
        ...

    def renewed(self) -> None:
        """The session has a new token."""
        ...

    def refuse(self, id: str | None, error: ChatError) -> None:
        """An error before there is a session to count it in."""
        ...

    def close(self, code: CloseCode, reason: str) -> None:
        """Closes."""
        ...

    def within_rate(self, session: Session, id: str | None) -> bool:
        """Whether the session may give another command now; tells the client where it may not."""
        ...

    def answer_error(self, session: Session, id: str | None, error: ChatError) -> None:
        """A refusal in an open session."""
        ...


class Opening:
    """One `authenticate` or `resume`. `peer_key` is what the client's Noise handshake proved to hold."""

    def __init__(
        self, client: Client, door: Door, link: Link, wire: Wire, address: str, peer_key: bytes | None
    ) -> None:
        self._client = client
        self._door = door
        self._link = link
        self._wire = wire
        self._address = address
        self._peer_key = peer_key

    async def come_in(self, id: str | None, command: Authenticate | Resume) -> None:
        """Opens or resumes a session when it is this client's turn; what is open already needs none."""
        if self._client.session is not None:
            await self._greet(id, command)
            return
        try:
            async with self._door.admission.turn(resumes=isinstance(command, Resume)):
                if not self._door.chat.ready:
                    self._client.close(CloseCode.draining, REASONS[CloseCode.draining])
                elif not self._client.closing:  # gone while it waited
                    await self._greet(id, command)
        except ChatError as error:
            self._fail(id, error)

    async def _greet(self, id: str | None, command: Authenticate | Resume) -> None:
        if isinstance(command, Resume):
            await self._resume(id, command)
        else:
            await self._authenticate(id, command)

    async def _authenticate(self, id: str | None, command: Authenticate) -> None:
        if self._client.session is not None and not self._client.within_rate(self._client.session, id):
            return
        try:
            actor = await self._identify(command.token)
            if self._client.session is not None:
                await self._renew(self._client.session, actor, id)
            else:
                await self._open(actor, id)
        except ChatError as error:
            if self._client.session is None:
                self._fail(id, error)
            else:
                self._client.answer_error(self._client.session, id, error)

    async def _identify(self, token: str | None) -> Actor:
        """Who the token, or else the key of the handshake, belongs to. Raises ChatError.

        Guessing is counted where it comes from, together with the requests of that address by REST.
        """
        try:
            return await self._find(token)
        except ChatError as error:
            if not error.kind.retryable:
                await self._door.charge(self._address)
            raise

    async def _find(self, token: str | None) -> Actor:
        if token is not None:
            return await self._door.chat.authenticate(token)
        if self._peer_key is not None:
            return await self._door.chat.authenticate_key(self._peer_key)
        raise ChatError("AUTH_REQUIRED")

    async def _open(self, actor: Actor, id: str | None) -> None:
        session, states = await self._door.open(actor, self._link, self._wire)
        if self._client.closing:
            self._door.hub.forget(session)
            return
        self._client.enter(session)
        self._door.admit(session, states, id)

    async def _renew(self, session: Session, actor: Actor, id: str | None) -> None:
        if not self._door.same(session, actor):
            raise ChatError("AUTH_TOKEN_INVALID", "This token belongs to somebody else.")
        await self._door.renew(session, actor)
        self._client.renewed()
        data = Authenticated(token_expires_at=actor.token_expires_at)
        self._door.hub.send(session, self._wire.chunk("authenticated", data, id=id))

    async def _resume(self, id: str | None, command: Resume) -> None:
        if self._client.session is not None:
            error = ChatError("VALIDATION_INVALID_VALUE", "A session is open already.")
            self._client.answer_error(self._client.session, id, error)
            return
        try:
            proven = command.token or self._peer_key
            actor = await self._identify(command.token) if proven else None
            resumed = await self._door.resume(command, actor, self._link, self._wire)
        except Superseded:
            self._client.close(CloseCode.replaced, "another connection resumed this session")
            return
        except ChatError as refusal:
            self._fail(id, refusal)
            return
        if isinstance(resumed, Reset):
            await self._reset(id, resumed, actor)
        else:
            self._resumed(id, *resumed)

    def _resumed(self, id: str | None, session: Session, missed: int) -> None:
        """`resumed`, then the frames that were lost, then live: all in one step."""
        self._door.metrics.resumed("resumed")
        if self._client.closing:
            self._door.cut(session, self._link)
            return
        self._client.enter(session)
        first = self._wire.chunk("resumed", Resumed(missed=missed, handled=session.handled), id=id)
        session.outbox = Outbox.of([first, *(session.outbox.chunks if session.outbox else ())])
        self._door.hub.outboxes.remind_lagging(session)
        self._door.hub.mark(session)
        self._door.presence.came(session)

    async def _reset(self, id: str | None, reset: Reset, actor: Actor | None) -> None:
        self._door.metrics.resumed(reset.reason)
        data = SessionReset(reason=reset.reason, handled=reset.handled)
        self._link.write(self._wire.chunk("session_reset", data, id=id).data)
        if actor is None:
            return
        try:
            await self._open(actor, id)
        except ChatError as error:
            self._fail(id, error)

    def _fail(self, id: str | None, error: ChatError) -> None:
        """Says what is wrong, then closes: for good, or until later when it is not the client's fault."""
        if self._client.closing:
            return
        self._client.refuse(id, error)
        fallback = CloseCode.overloaded if error.kind.retryable else CloseCode.auth_failed
        self._client.close(_CLOSES.get(error.code, fallback), error.code)
