"""Wake-ups: what was committed here is told to everyone who hears it. In one process that is a function call."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol, TypeVar
from uuid import UUID

from storage.events import CommittedEvent
from storage.hints import Hint

Listener = Callable[[list[CommittedEvent]], None]

H = TypeVar("H", bound=Hint)


class Bus(Protocol):
    """What nodes tell each other. Everything on it may be lost; whoever relies on it has a way to find out."""

    @property
    def connected(self) -> bool | None:
        """Whether hints of other nodes come; None where there are no others."""
        ...

    def listen(self, listener: Listener) -> None:
        """Hears all committed events that come from now on, of this node and of others."""
        ...

    def on(self, kind: type[H], handler: Callable[[H], None]) -> None:
        """Calls the handler for hints of this kind from other nodes."""
        ...

    def publish(self, events: list[CommittedEvent]) -> None:
        """Tells of what this node has committed: its own listeners at once, then other nodes."""
        ...

    def tell_room(self, chatroom_id: UUID, hint: Hint) -> None:
        """To the other nodes that hear a chatroom."""
        ...

    def tell_all(self, hint: Hint) -> None:
        """To all other nodes."""
        ...

    def tell_node(self, node_id: UUID, hint: Hint) -> None:
        """To one node."""
        ...

    def hear(self, chatroom_id: UUID) -> None:
        """Somebody here hears a chatroom from now on."""
        ...

    def unhear(self, chatroom_id: UUID) -> None:
        """Nobody here does any more."""
        ...

    async def heard(self, chatroom_ids: Iterable[UUID]) -> None:
        """Waits until hints of these chatrooms come; gives up soon when they can't, and the sweep has to find them."""
        ...


class LocalBus:
    """The bus of a single process: every listener hears every commit, at once and in order."""

    connected = None

    def __init__(self) -> None:
        self._listeners: list[Listener] = []

    def listen(self, listener: Listener) -> None:
        """Hears all that is published from now on."""
        self._listeners.append(listener)

    def on(self, kind: type[H], handler: Callable[[H], None]) -> None:
        """There are no other nodes."""

    def publish(self, events: list[CommittedEvent]) -> None:
        """Tells the listeners. Called by the journal after COMMIT."""
        if not events:
            return
        for listener in self._listeners:
            listener(events)

    def tell_room(self, chatroom_id: UUID, hint: Hint) -> None:
        """There are no other nodes."""

    def tell_all(self, hint: Hint) -> None:
        """There are no other nodes."""

    def tell_node(self, node_id: UUID, hint: Hint) -> None:
        """There are no other nodes."""

    def hear(self, chatroom_id: UUID) -> None:
        """Every commit is heard anyway."""

    def unhear(self, chatroom_id: UUID) -> None:
        """Every commit is heard anyway."""

    async def heard(self, chatroom_ids: Iterable[UUID]) -> None:
        """They always do."""


Handlers = dict[type[Any], Callable[[Any], None]]
