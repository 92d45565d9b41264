"""Who asks: a signed-in user, and the session if the command came through a socket."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from msgspec import Struct

from gateway.session import Session
from protocol.models import Scope, User


class Actor(Struct, frozen=True):
    """A verified user. `sign_in_id` is the sign-in their token belongs to.

    The keys of bots do not expire. `scopes` are what a bot may do, and None for a person, who may do everything.
    """

    user: User
    sign_in_id: UUID
    token_expires_at: datetime | None
    session: Session | None = None
    scopes: frozenset[Scope] | None = None

    @classmethod
    def of(cls, session: Session) -> Actor:
        """Whose session it is, as they are now. Made for each command, so that idle sessions keep none."""
        return cls(session.user, session.sign_in_id, session.token_expires_at, session, session.scopes)
