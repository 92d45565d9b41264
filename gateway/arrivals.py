"""A session that another node had goes on here: it is asked for, put into its chatrooms, and brought up to date.

Afterwards it is in the hub like any session whose socket was cut, and is resumed like one.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from uuid import UUID

from crypto.resume_tokens import digest_of
from gateway.actor import Actor
from gateway.handover import Handover, Superseded
from gateway.hub import Hub
from gateway.session import Session, SessionLimits
from gateway.wire import Wire
from protocol.commands import Resume
from protocol.errors import ChatError
from storage import events
from storage.bus import Bus
from storage.database import Database
from storage.events import CommittedEvent
from storage.hints import SessionAsked, SessionRefused, SessionState
from storage.leases import Claim
from storage.lookups import Lookups
from storage.room_keys import RoomKeys

log = logging.getLogger(__name__)


STAYS = ("not_ready", "other_protocol", "not_yours")
"""Refusals of an owner that keeps the session."""


@dataclass(frozen=True, slots=True)
class Reset:
    """Why a session can't be resumed, and the commands it had taken, if that is still known."""

    reason: str
    handled: int | None = None


class Arrivals:
    """Finds the session that a client resumes, on whichever node it is. `most` events a chatroom are read for it."""

    def __init__(
        self,
        node_id: UUID,
        hub: Hub,
        bus: Bus,
        handover: Handover,
        database: Database,
        lookups: Lookups,
        room_keys: RoomKeys,
        limits: SessionLimits,
        most: int,
    ) -> None:
        self._node_id = node_id
        self._hub = hub
        self._bus = bus
        self._handover = handover
        self._database = database
        self._lookups = lookups
        self._room_keys = room_keys
        self._limits = limits
        self._most = most

    async def find(self, command: Resume, actor: Actor | None, wire: Wire) -> Session | Reset:
        """The session, on this node now. Raises Superseded when somebody else has resumed it meanwhile."""
        digest = digest_of(command.resume_token)
        with self._handover.arriving(digest) as arrival:
            claim = await self._handover.claim(command.session_id, command.resume_token)
            arrival.claimed(claim)
            session = self._hub.sessions.get(command.session_id)
            if claim is None:  # with Redis away nobody else can have taken it
                return session or Reset("unknown_session")
            if session is None and claim.owner != self._node_id:
                return await self._fetch(claim, command, actor, wire)
            if session is not None:
                session.fence = max(session.fence, claim.fence)
            if session is None or session.opening:
                await self._handover.arrived(digest, claim.fence)
                session = self._hub.sessions.get(command.session_id)
            return session or self._over(claim, command, Reset("unknown_session"))

    def _over(self, claim: Claim, command: Resume, reset: Reset) -> Reset:
        """There is no session any more, here or elsewhere: our claim on it is worth nothing."""
        if claim.fence:
            self._handover.over(command.resume_token, claim.fence)
        return reset

    async def _fetch(self, claim: Claim, command: Resume, actor: Actor | None, wire: Wire) -> Session | Reset:
        asked = SessionAsked(
            asker=self._node_id,
            session_id=command.session_id,
            digest=digest_of(command.resume_token),
            fence=claim.fence,
            wire=wire.name,
            user_id=None if actor is None else actor.user.id,
            scopes=None if actor is None or actor.scopes is None else tuple(actor.scopes),
        )
        answer = await self._handover.ask(claim.owner, asked)
        if answer is None:
            return Reset("node_gone")
        if not isinstance(answer, SessionRefused):
            return await self._settle(answer.state, claim.fence, wire)
        if answer.reason == "superseded":
            raise Superseded
        if answer.reason not in STAYS:
            return self._over(claim, command, Reset(answer.reason, answer.handled))
        await self._handover.give_back(command.resume_token, claim.owner)
        return Reset("unknown_session") if answer.reason == "not_yours" else Reset(answer.reason, answer.handled)

    async def _settle(self, state: SessionState, fence: int, wire: Wire) -> Session | Reset:
        session = Session.from_state(state, wire, self._limits)
        session.fence = fence
        self._hub.adopt(session)
        try:
            whole = await self._catch_up(session, state)
        except ChatError:
            self._hub.forget(session)
            return Reset("unavailable", session.handled)
        except BaseException:
            self._hub.forget(session)
            raise
        if not whole:
            self._hub.forget(session)
            return Reset("chatrooms_changed", session.handled)
        session.opening = False
        self._hub.release_rest(session)
        for room_id in state.open_rooms:
            self._hub.open_room(session, room_id)
        return session

    async def _catch_up(self, session: Session, state: SessionState) -> bool:
        """Its chatrooms, with what happened there since it left the other node. False when they are not the same."""
        for room_id in state.rooms:
            self._hub.hold(session, room_id)
        await self._bus.heard(state.rooms)
        if session.hears and set(await self._lookups.chatroom_ids.get(session.user.id) or ()) != state.rooms.keys():
            return False
        async with self._database.acquire() as conn:
            heads = await events.heads(conn, list(state.rooms))
        behind = {room_id: seq for room_id, seq in state.rooms.items() if heads.get(room_id, 0) > seq}
        found = await events.read_after(self._database, self._room_keys, behind, self._most) if behind else {}
        for room_id, seq in state.rooms.items():
            self._join(session, room_id, seq, found.get(room_id, []), lags=room_id in state.lagging)
        return True

    def _join(self, session: Session, room_id: UUID, seq: int, missed: list[CommittedEvent], *, lags: bool) -> None:
        if lags or len(missed) >= self._most:
            self._hub.abandon_hold(session, room_id)
            return
        if missed:
            self._hub.send(session, session.wire.events(missed))
            seq = missed[-1].seq
        self._hub.release(session, room_id, seq)
