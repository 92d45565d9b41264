"""What has to happen on every node, not only on this one.

It is done here and told to the others at once. What must not be missed is also in
the control log, where each node finds it within 2 s if Redis has lost it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Never
from uuid import UUID

from msgspec import Raw

from gateway.hub import Hub
from gateway.session import Session
from protocol.errors import ChatError, CloseCode
from protocol.events import Event
from protocol.models import User
from storage import events, hints
from storage.bus import Bus
from storage.control import ControlReader
from storage.database import Database
from storage.hints import AnyHint, Ephemeral, MembersAdded, SignInEnded, UserChanged

log = logging.getLogger(__name__)

CONTROL_INTERVAL = 0.8
"""Seconds between two looks into the control log. New members wait for a second look: 1.6 s, and the promise is 2."""


class Nodes:
    """All nodes, as the actions see them."""

    def __init__(self, hub: Hub, bus: Bus, database: Database) -> None:
        self._hub = hub
        self._bus = bus
        self._database = database
        self._control = ControlReader()
        self._added: list[MembersAdded] = []
        bus.on(Ephemeral, self._take_ephemeral)
        bus.on(SignInEnded, self._take)
        bus.on(UserChanged, self._take)

    @property
    def connected(self) -> bool | None:
        """Whether hints of other nodes come; None where there are no others."""
        return self._bus.connected

    # --- telling -----------------------------------------------------------------------------

    def tell_openers(self, chatroom_id: UUID, event: str, data: Event, but: UUID | None = None) -> None:
        """An ephemeral event to those who have a chatroom open, on any node, except one user."""
        self._hub.tell_openers(chatroom_id, event, data, but)
        self._bus.tell_room(chatroom_id, Ephemeral(chatroom_id, event, Raw(hints.encode(data)), but))

    def close_sign_in(
        self, sign_in_id: UUID, code: CloseCode = CloseCode.auth_failed, reason: str = "this sign-in has ended"
    ) -> None:
        """A sign-in has ended, as the control log says already: closes its sockets and forgets its cut sessions."""
        self._do(SignInEnded(sign_in_id, code, reason))

    def update_user(self, user: User) -> None:
        """A profile has changed, as the control log says already."""
        self._do(UserChanged(user))

    def _do(self, hint: SignInEnded | UserChanged) -> None:
        self._take(hint)
        self._bus.tell_all(hint)

    # --- hearing -----------------------------------------------------------------------------

    def _take_ephemeral(self, hint: Ephemeral) -> None:
        data = hints.data_of(hint.event, hint.data)
        self._hub.tell_openers(hint.chatroom_id, hint.event, data, hint.but)

    def _take(self, hint: AnyHint) -> None:
        if isinstance(hint, SignInEnded):
            self._hub.close_sign_in(hint.sign_in_id, CloseCode(hint.code), hint.reason)
        elif isinstance(hint, UserChanged):
            self._hub.update_user(hint.user)
        elif isinstance(hint, MembersAdded):
            self._added.append(hint)

    async def read_control_forever(self) -> Never:
        """Looks for what was not heard, again and again."""
        while True:
            with contextlib.suppress(ChatError):
                await self.read_control()
            await asyncio.sleep(CONTROL_INTERVAL)

    async def read_control(self) -> None:
        """One look. Raises ChatError when the database is away; what was to be done then is done the next time."""
        waited = list(self._added)
        async with self._database.acquire() as conn:
            found = await self._control.read(conn)
        for hint in found:
            self._take_logged(hint)
        for added in waited:
            await self._come_late(added)
            self._added.remove(added)

    def _take_logged(self, hint: AnyHint) -> None:
        try:
            self._take(hint)
        except Exception:
            log.exception("what the control log says could not be done")

    async def _come_late(self, added: MembersAdded) -> None:
        """Sessions that have not heard of a chatroom that their user came into, unless that is over again."""
        late = [session for user_id in added.adds for session in self._hub.sessions_of(user_id)]
        for session in [session for session in late if self._misses(session, added.chatroom_id)]:
            async with self._database.acquire() as conn:
                heads = await events.member_heads(conn, session.user.id, [added.chatroom_id])
            if added.chatroom_id in heads and self._misses(session, added.chatroom_id):
                self._hub.come_late(session, added.chatroom_id, heads[added.chatroom_id])

    def _misses(self, session: Session, chatroom_id: UUID) -> bool:
        return (
            session.hears
            and not session.opening
            and self._hub.sessions.get(session.id) is session
            and chatroom_id not in session.rooms
        )
