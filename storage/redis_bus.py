"""The bus between nodes: hints on Redis channels, sealed. One channel a chatroom, one for all nodes, one a node."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import TypeVar
from uuid import UUID

import msgspec

from crypto.cluster import ClusterKeys
from crypto.sealing import SealBroken
from storage import hints
from storage.bus import Handlers, Listener
from storage.events import CommittedEvent
from storage.hints import Committed, Hint
from storage.publisher import Publisher
from storage.redis_client import Cluster, RedisClient
from storage.shards import ShardedSubscriber
from storage.subscriber import Subscriber

log = logging.getLogger(__name__)

ALL_NODES = b"parley:nodes"

H = TypeVar("H", bound=Hint)

Count = Callable[[str, int], None]
"""Is told how many messages were `sent`, `dropped`, `received` or `unreadable`."""


def room_channel(chatroom_id: UUID) -> bytes:
    """Where a chatroom's events are told."""
    return f"parley:room:{chatroom_id}".encode()


def node_channel(node_id: UUID) -> bytes:
    """Where one node is told something."""
    return f"parley:node:{node_id}".encode()


class RedisBus:
    """A Bus."""

    def __init__(self, redis: RedisClient, keys: ClusterKeys, node_id: UUID, count: Count) -> None:
        self._keys = keys
        self._me = node_id.bytes
        self._count = count
        self._listeners: list[Listener] = []
        self._handlers: Handlers = {Committed: self._take_committed}
        self._publisher = Publisher(redis, lambda n: count("sent", n), lambda n: count("dropped", n))
        self._subscriber = (
            ShardedSubscriber(redis, self._take, self._restored)
            if isinstance(redis, Cluster)
            else Subscriber(redis, self._take, self._restored)
        )
        self._on_restored: list[Callable[[], None]] = []
        self._subscriber.add(ALL_NODES)
        self._subscriber.add(node_channel(node_id))

    @property
    def connected(self) -> bool:
        """Whether messages of other nodes come."""
        return self._subscriber.connected

    def replace(self, keys: ClusterKeys) -> None:
        """Takes rotated keys."""
        self._keys = keys

    def listen(self, listener: Listener) -> None:
        """Hears all committed events that come from now on, of this node and of others."""
        self._listeners.append(listener)

    def on(self, kind: type[H], handler: Callable[[H], None]) -> None:
        """Calls the handler for hints of this kind from other nodes."""
        self._handlers[kind] = handler

    def on_restored(self, callback: Callable[[], None]) -> None:
        """Calls back when hints come again after they did not: some were missed."""
        self._on_restored.append(callback)

    def _restored(self) -> None:
        for callback in self._on_restored:
            callback()

    # --- telling -----------------------------------------------------------------------------

    def publish(self, events: list[CommittedEvent]) -> None:
        """Tells of what this node has committed: its own listeners at once, then other nodes."""
        if not events:
            return
        self._hear(events)
        by_room: dict[UUID, list[CommittedEvent]] = {}
        for event in events:
            by_room.setdefault(event.chatroom_id, []).append(event)
        for chatroom_id, group in by_room.items():
            self.tell_room(chatroom_id, hints.committed(group))
        for event in events:
            if event.adds:  # who comes may be on a node that has not heard the chatroom until now
                self.tell_all(hints.committed([event]))

    def tell_room(self, chatroom_id: UUID, hint: Hint) -> None:
        """To the other nodes that hear a chatroom."""
        self._tell(room_channel(chatroom_id), hint)

    def tell_all(self, hint: Hint) -> None:
        """To all other nodes."""
        self._tell(ALL_NODES, hint)

    def tell_node(self, node_id: UUID, hint: Hint) -> None:
        """To one node."""
        self._tell(node_channel(node_id), hint)

    def _tell(self, channel: bytes, hint: Hint) -> None:
        sealed = self._keys.seal(hints.encode(hint), channel + self._me)
        self._publisher.put(channel, self._me + sealed)

    # --- hearing -----------------------------------------------------------------------------

    def hear(self, chatroom_id: UUID) -> None:
        """Somebody here hears a chatroom from now on."""
        self._subscriber.add(room_channel(chatroom_id))

    def unhear(self, chatroom_id: UUID) -> None:
        """Nobody here does any more."""
        self._subscriber.remove(room_channel(chatroom_id))

    async def heard(self, chatroom_ids: Iterable[UUID]) -> None:
        """Waits until hints of these chatrooms come; gives up soon when they can't, and the sweep has to find them."""
        await self._subscriber.heard(map(room_channel, chatroom_ids))

    async def run(self) -> None:
        """Sends and hears until it is cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._publisher.run())
            tasks.create_task(self._subscriber.run())

    def _take(self, channel: bytes, data: bytes) -> None:
        """A message came. What cannot be read is left out: anyone who reaches Redis may write there."""
        sender = data[: len(self._me)]
        if sender == self._me:
            return
        try:
            hint = hints.decode(self._keys.open(data[len(self._me) :], channel + sender))
            self._count("received", 1)
            if (handler := self._handlers.get(type(hint))) is not None:
                handler(hint)
        except (SealBroken, msgspec.MsgspecError, KeyError) as error:
            self._count("unreadable", 1)
            log.warning("a message on the bus could not be read", extra={"error": type(error).__name__})
        except Exception:
            log.exception("a message on the bus could not be handled")

    def _take_committed(self, hint: Committed) -> None:
        self._hear(hints.events_of(hint))

    def _hear(self, events: list[CommittedEvent]) -> None:
        for listener in self._listeners:
            listener(events)
