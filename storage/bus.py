"""Wake-ups: what was committed here is told to everyone who hears it. In one process that is a function call."""

from __future__ import annotations

from collections.abc import Callable

from storage.events import CommittedEvent

Listener = Callable[[list[CommittedEvent]], None]


class LocalBus:
    """The bus of a single process: every listener hears every commit, at once and in order."""

    def __init__(self) -> None:
        self._listeners: list[Listener] = []

    def listen(self, listener: Listener) -> None:
        """Hears all that is published from now on."""
        self._listeners.append(listener)

    def publish(self, events: list[CommittedEvent]) -> None:
        """Tells the listeners. Called by the journal after COMMIT."""
        if not events:
            return
        for listener in self._listeners:
            listener(events)
