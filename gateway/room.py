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


EARLY = 100
"""Events of a chatroom that may wait for one before them."""


class Room:
    """A chatroom that somebody here hears.

    `head` is the seq of the newest event delivered, if known; while it is `guessed`, it comes
    from the database, and events up to it may be on their way here. Those in `ahead` have
    been told of events up to the seq there, and stay held until `head` is there too.
    """

    __slots__ = (
        "ahead",
        "counted",
        "early",
        "guessed",
        "head",
        "held",
        "id",
        "live",
        "member_count",
        "openers",
        "repairing",
    )

    def __init__(self, id: UUID) -> None:
        self.id = id
        self.head: int | None = None
        self.guessed = False
        self.live: dict[Wire, dict[Session, None]] = {}
        self.held: dict[Session, list[CommittedEvent] | None] = {}
        self.ahead: dict[Session, int] = {}
        self.early: dict[int, CommittedEvent] = {}
        """Events that came before the one they follow, by seq: nodes tell of their commits side by side."""
        self.openers: dict[Session, None] = {}
        self.member_count = 0
        """As of the last time that somebody here opened it; 0 is not known."""
        self.counted: tuple[float, asyncio.Task[int]] | None = None
        """When it was last counted who is online on all nodes, and the outcome."""
        self.repairing = False

    def keep_early(self, events: list[CommittedEvent]) -> None:
        """They wait for those before them, as far as there is room; the others are read from the database."""
        for event in events[: max(0, EARLY - len(self.early))]:
            self.early[event.seq] = event

    def following(self) -> list[CommittedEvent]:
        """Takes out those that waited for the head as it is now."""
        assert self.head is not None
        found: list[CommittedEvent] = []
        while (event := self.early.pop(self.head + 1 + len(found), None)) is not None:
            found.append(event)
        after = self.head + len(found)
        self.early = {seq: event for seq, event in self.early.items() if seq > after}
        return found

    def sessions(self) -> Iterator[Session]:
        """Everyone who is live."""
        for group in self.live.values():
            yield from group

    @property
    def empty(self) -> bool:
        """Whether nobody hears it."""
        return not self.held and not any(self.live.values())
