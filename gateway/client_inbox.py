"""Events that wait for the user, bounded: what does not fit is told as a `history_gap`, never lost in silence."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from uuid import UUID

from gateway.client_effects import ClientClosed, ClientEvent, HistoryGap, local

UNREAD_LIMIT = 256
"""Events kept for a user who has not begun to read: enough to send first and listen then."""

PAUSE_AT = 1_024
"""Events waiting for a reading user at which the client stops reading from the socket."""

LIMIT = 16_384
"""Events kept while the client must read on, because the user waits for an answer that is behind them."""


class Inbox:
    """A queue with one reader. Past its limit it keeps only, by chatroom, from where to where events are missing."""

    def __init__(self) -> None:
        self._events: deque[ClientEvent] = deque()
        self._gaps: dict[UUID, tuple[int, int]] = {}
        self._begun = False
        self._changed = asyncio.Event()
        self._end: ClientClosed | None = None
        self.watch: Callable[[ClientEvent], None] = lambda _: None
        """Is shown every event as it comes, whether the user reads it or not."""

    @property
    def crowded(self) -> bool:
        """Whether a user who reads has fallen so far behind that reading from the socket should pause."""
        return self._begun and len(self._events) >= PAUSE_AT

    def put(self, event: ClientEvent) -> None:
        """Takes an event, or notes that it is missing."""
        self.watch(event)
        if self._gaps or len(self._events) >= (LIMIT if self._begun else UNREAD_LIMIT):
            self._miss(event)
        else:
            self._events.append(event)
        self._changed.set()

    def _miss(self, event: ClientEvent) -> None:
        """Ephemeral events may be missing without a word; a gap among the missing ones widens theirs."""
        if isinstance(event.data, HistoryGap):
            first, last = event.data.from_seq, event.data.to_seq
        elif event.seq is not None:
            first, last = event.seq - 1, event.seq
        else:
            return
        if event.chatroom_id is not None:
            since, _ = self._gaps.get(event.chatroom_id, (first, last))
            self._gaps[event.chatroom_id] = (since, last)

    def end(self, error: ClientClosed) -> None:
        """Nothing more comes. What waits can still be read."""
        self._end = error
        self._changed.set()

    async def get(self) -> ClientEvent:
        """The next event. Raises ClientClosed after the last one."""
        self._begun = True
        while True:
            if not self._events:
                self._tell_gaps()
            if self._events:
                return self._events.popleft()
            if self._end is not None:
                raise self._end
            self._changed.clear()
            await self._changed.wait()

    def _tell_gaps(self) -> None:
        for chatroom_id, (from_seq, to_seq) in self._gaps.items():
            self._events.append(local(HistoryGap(chatroom_id=chatroom_id, from_seq=from_seq, to_seq=to_seq)))
        self._gaps.clear()
