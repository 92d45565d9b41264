"""A chatroom, as far as somebody here hears it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import TYPE_CHECKING
from uuid import UUID

from gateway.wire import Wire
from storage.events import CommittedEvent

if TYPE_CHECKING:
    from gateway.session import Session


class Room:
    """A chatroom that somebody here hears.

    `head` is the seq of the newest event delivered, if known; while it is `guessed`, it comes
    from the database, and events up to it may be on their way here. Those in `ahead` have
    been told of events up to the seq there, and stay held until `head` is there too.
    """

    __slots__ = ("ahead", "counted", "guessed", "head", "held", "id", "live", "member_count", "openers", "repairing")

    def __init__(self, id: UUID) -> None:
        self.id = id
        self.head: int | None = None
        self.guessed = False
        self.live: dict[Wire, dict[Session, None]] = {}
        self.held: dict[Session, list[CommittedEvent] | None] = {}
        self.ahead: dict[Session, int] = {}
        self.openers: dict[Session, None] = {}
        self.member_count = 0
        """As of the last time that somebody here opened it; 0 is not known."""
        self.counted: tuple[float, asyncio.Task[int]] | None = None
        """When it was last counted who is online on all nodes, and the outcome."""
        self.repairing = False

    def sessions(self) -> Iterator[Session]:
        """Everyone who is live."""
        for group in self.live.values():
            yield from group

    @property
    def empty(self) -> bool:
        """Whether nobody hears it."""
        return not self.held and not any(self.live.values())
