"""What all connections share, whatever their transport: opening, resuming and expiring sessions."""

from __future__ import annotations

import gc
import hmac
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

from uuid_utils.compat import uuid7

from crypto.resume_tokens import ResumeTokens
from gateway.actor import Actor
from gateway.admission import Admission
from gateway.arrivals import Arrivals, Reset
from gateway.chat import Chat
from gateway.config import Config
from gateway.fence import Fence
from gateway.handover import Superseded
from gateway.hub import Hub
from gateway.link import Link
from gateway.metrics import Metrics
from gateway.presence import Presence
from gateway.session import Session, SessionLimits
from gateway.wheel import Wheel
from gateway.wire import Outbox, Wire
from protocol.commands import Resume
from protocol.errors import ChatError
from protocol.events import Ready
from protocol.models import ChatroomState
from storage import rooms
from storage.bus import Bus
from storage.lookups import Lookups

PATIENCE = 0.8
"""Share of the deadline that a client waits for its turn, and does not miss it: what is left is far more than a turn.

Waiting costs nothing; to be sent away costs another handshake and an estimate of when to come.
"""


class Door:
    """Sessions come and go through here."""

    def __init__(
        self,
        config: Config,
        hub: Hub,
        chat: Chat,
        lookups: Lookups,
        wheel: Wheel,
        presence: Presence,
        metrics: Metrics,
        bus: Bus,
        tokens: ResumeTokens,
        fence: Fence,
    ) -> None:
        self.fence = fence
        self._bus = bus
        self._tokens = tokens
        self._arrivals: Arrivals | None = None
        self.config = config
        self.hub = hub
        self.chat = chat
        self.wheel = wheel
        self.presence = presence
        self.metrics = metrics
        self.strangers: Counter[str] = Counter()
        self.proxies = config.trusted_proxies
        patience = PATIENCE * config.auth_deadline
        self.admission = Admission(config.limit_openings, patience, crowded=_spare_what_is_there)
        metrics.watch_openings(lambda: self.admission.working, lambda: self.admission.waiting)
        self.lookups = lookups
        self.limits = SessionLimits(
            ephemeral=config.limit_outbox_ephemeral,
            outbox=config.limit_outbox,
            replay_frames=config.limit_replay_frames,
            replay_bytes=config.limit_replay_bytes,
        )

    def take_from(self, arrivals: Arrivals) -> None:
        """There are other nodes: sessions of theirs can be resumed here."""
        self._arrivals = arrivals

    # --- strangers: connections that have not said who they are ----------------------------------

    def admit_stranger(self, address: str) -> bool:
        """Counts a connection; False when its address has too many that are silent."""
        if self.strangers[address] >= self.config.limit_unauthenticated:
            return False
        self.strangers[address] += 1
        return True

    def known(self, address: str) -> None:
        """A stranger has said who they are, or has gone."""
        self.strangers[address] -= 1
        if self.strangers[address] <= 0:
            del self.strangers[address]

    async def charge(self, address: str) -> None:
        """Counts a token that is none against its sender's requests. Raises ChatError RATE_LIMIT_EXCEEDED."""
        allowance = await self.chat.take(f"address:{address}")
        if not allowance.allowed:
            raise ChatError("RATE_LIMIT_EXCEEDED", retry_after=allowance.retry_after)

    # --- opening -----------------------------------------------------------------------------

    async def open(self, actor: Actor, link: Link, wire: Wire) -> tuple[Session, tuple[ChatroomState, ...]]:
        """A new session, its rooms held until `admit`. Raises ChatError CONNECTION_LIMIT_EXCEEDED and others."""
        await self._make_place(actor.user.id)
        session_id = uuid7()
        session = Session(
            session_id,
            self._tokens.issue(session_id),
            actor.user,
            actor.sign_in_id,
            actor.token_expires_at,
            wire,
            self.limits,
            actor.scopes,
        )
        self.hub.add(session, link)
        try:
            states = await self._read_states(session)
        except BaseException:
            self.hub.forget(session)
            raise
        return session, states

    async def _read_states(self, session: Session) -> tuple[ChatroomState, ...]:
        """First which rooms, to set their events aside, then where they stand: so nothing falls between.

        The sign-in is looked at again: had it ended before the hub knew the session, nobody would close it.
        """
        await self._check_sign_in(session)
        if not session.hears:
            return ()
        for room_id in await self.lookups.chatroom_ids.get(session.user.id) or ():
            self.hub.hold(session, room_id)
        await self._bus.heard(session.rooms)
        return tuple(map(rooms.chatroom_state, await self.lookups.states.get(session.user.id) or ()))

    def admit(self, session: Session, states: tuple[ChatroomState, ...], id: str | None) -> None:
        """Sends `ready` and goes live, in one step, so that the two have no seam."""
        ready = Ready(
            session_id=session.id,
            resume_token=session.resume_token,
            user=session.user,
            chatrooms=states,
            token_expires_at=session.token_expires_at,
        )
        session.opening = False
        session.push_uncounted(session.wire.chunk("ready", ready, id=id))
        for state in states:
            if state.id not in session.rooms:  # joined, and the event that says so is not delivered here yet
                self.hub.hold(session, state.id)
            self.hub.release(session, state.id, state.seq)
        self.hub.release_rest(session)
        self.hub.mark(session)
        self.presence.came(session)

    async def _make_place(self, user_id: UUID) -> None:
        """A user may have so many connections, on all nodes; cut sessions give way to new ones."""
        limit = self.config.limit_connections
        elsewhere = 0
        if self.hub.connections_of(user_id) + self.presence.elsewhere.sockets_of(user_id) >= limit:
            elsewhere = await self.presence.confirm_sockets(user_id)  # what is known may be of a node that has died
        if self.hub.connections_of(user_id) + elsewhere >= limit:
            raise ChatError("CONNECTION_LIMIT_EXCEEDED", details={"limit": limit})
        cut = [session for session in self.hub.sessions_of(user_id) if not session.attached]
        for session in cut[: max(0, len(self.hub.sessions_of(user_id)) + 1 - limit)]:
            self.hub.forget(session)

    # --- resuming ----------------------------------------------------------------------------

    async def resume(self, command: Resume, actor: Actor | None, link: Link, wire: Wire) -> tuple[Session, int] | Reset:
        """Takes up a cut session: it, and how many frames are on their way again. `actor` is that of a new token.

        A wrong secret, somebody else's session and one that never was all look the same.
        Raises Superseded when somebody else resumes it meanwhile, on another node.
        """
        session = await self._find(command, actor, wire)
        if isinstance(session, Reset):
            return session
        if session.opening:
            return Reset("not_ready")
        if session.wire is not wire:
            return Reset("other_protocol", session.handled)
        before = set(session.rooms)
        memberships = await self._recheck(session, actor)
        memberships |= session.rooms.keys() - before  # joined while we asked
        if session.moved:
            raise Superseded
        if self.hub.sessions.get(session.id) is not session:
            return Reset("unknown_session")
        missed = session.resume(command.received, memberships)
        if isinstance(missed, str):
            handled = session.handled
            self.hub.forget(session)
            return Reset(missed, handled)
        self.hub.attach(session, link, wire)
        session.outbox = Outbox.of(missed)
        return session, sum(len(chunk.ends) for chunk in missed)

    async def _find(self, command: Resume, actor: Actor | None, wire: Wire) -> Session | Reset:
        session = self.hub.sessions.get(command.session_id)
        if session is not None and not self._may_resume(session, command, actor):
            return Reset("unknown_session")
        if self._arrivals is None:
            return session or Reset("unknown_session")
        found = await self._arrivals.find(command, actor, wire)
        if isinstance(found, Reset):
            return found
        if session is None:
            self._expire(found)  # should the rest of the resume fail, it waits for another
        return found if self._may_resume(found, command, actor) else Reset("unknown_session")

    def _may_resume(self, session: Session, command: Resume, actor: Actor | None) -> bool:
        if not hmac.compare_digest(session.resume_token.encode(), command.resume_token.encode()):
            return False
        return actor is None or self.same(session, actor)

    def same(self, session: Session, actor: Actor) -> bool:
        """Whether a session can go on as this actor's: a bot whose scopes have changed has to open a new one."""
        return actor.user.id == session.user.id and actor.scopes == session.scopes

    async def _recheck(self, session: Session, actor: Actor | None) -> set[UUID]:
        """The chatrooms the user is still a member of. Raises ChatError when the account or the sign-in has ended."""
        expires = session.token_expires_at
        if actor is None and expires is not None and expires.timestamp() + self.config.token_grace < time.time():
            raise ChatError("AUTH_TOKEN_EXPIRED")
        async with self._adopting(session, actor):
            await self._check_sign_in(session)
            return set(await self.lookups.chatroom_ids.get(session.user.id) or ())

    async def renew(self, session: Session, actor: Actor) -> None:
        """The session goes on under a new token. Raises ChatError when its sign-in has ended meanwhile."""
        async with self._adopting(session, actor):
            await self._check_sign_in(session)

    async def _check_sign_in(self, session: Session) -> None:
        """Raises ChatError AUTH_TOKEN_INVALID when the sign-in has ended, or the account is no longer active."""
        sign_in = await self.lookups.sign_ins.get((session.sign_in_id, session.user.id))
        if sign_in is None or sign_in.is_revoked or not sign_in.is_active:
            raise ChatError("AUTH_TOKEN_INVALID")

    @asynccontextmanager
    async def _adopting(self, session: Session, actor: Actor | None) -> AsyncIterator[None]:
        """The session is the actor's sign-in's before that is looked at: who ends it meanwhile finds the session."""
        former = session.sign_in_id, session.token_expires_at
        if actor is not None:
            session.sign_in_id, session.token_expires_at = actor.sign_in_id, actor.token_expires_at
        try:
            yield
        except ChatError:
            session.sign_in_id, session.token_expires_at = former
            raise

    # --- leaving -----------------------------------------------------------------------------

    def cut(self, session: Session, link: Link) -> None:
        """A socket broke: the session is kept for a while."""
        if self.hub.detach(session, link):
            self.presence.went(session)
            self._expire(session)

    def _expire(self, session: Session) -> None:
        self.wheel.schedule(_Expiry(self.hub, session), self.wheel.now() + self.config.resume_window)


def _spare_what_is_there(crowded: bool) -> None:
    """A full garbage collection looks at every session, 0.2 s for 5,000; in a crowd it looks at newcomers alone."""
    if crowded:
        gc.freeze()
    else:
        gc.unfreeze()


class _Expiry:
    """Forgets a cut session when the resume window has passed, unless it was resumed (and perhaps cut again)."""

    def __init__(self, hub: Hub, session: Session) -> None:
        self._hub = hub
        self._session = session
        self._cut = session.cuts
        self.due = 0

    def tick(self, now: float) -> None:
        if not self._session.attached and self._session.cuts == self._cut:
            self._hub.forget(self._session)
