"""The channels a node hears in a Redis Cluster: sharded ones, each at the server that has its slot.

So there is a connection to each server. Channels follow their slots, when servers
fail over or slots are moved.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from typing import Never

from redis.crc import key_slot

from storage.redis_client import AWAY, Cluster, RedisClient
from storage.subscriber import Subscriber, Take

LOOK = 2.0
"""Seconds between two looks at who has which slots."""


class ShardedSubscriber:
    """What a Subscriber is, for a cluster."""

    def __init__(self, cluster: Cluster, take: Take, restored: Callable[[], None]) -> None:
        self._cluster = cluster
        self._take = take
        self._restored = restored
        self._slots: dict[bytes, int] = {}
        self._places: dict[bytes, str] = {}
        self._shards: dict[str, _Shard] = {}
        self._running = False

    @property
    def connected(self) -> bool:
        """Whether messages come, from everywhere."""
        return bool(self._shards) and all(shard.subscriber.connected for shard in self._shards.values())

    def add(self, channel: bytes) -> None:
        """Hears a channel from soon on."""
        self._slots[channel] = key_slot(channel)
        if self._running:
            self._place(channel)

    def remove(self, channel: bytes) -> None:
        """Has heard enough of it."""
        self._slots.pop(channel, None)
        self._leave(channel)

    async def heard(self, channels: Iterable[bytes]) -> None:
        """Waits until these are heard, a moment at most."""
        by_place: dict[str, list[bytes]] = {}
        for channel in channels:
            if (place := self._places.get(channel)) is not None:
                by_place.setdefault(place, []).append(channel)
        await asyncio.gather(*(self._shards[place].subscriber.heard(group) for place, group in by_place.items()))

    async def run(self) -> Never:
        """Listens for ever, whatever happens to Redis."""
        self._running = True
        try:
            while True:
                with contextlib.suppress(*AWAY):
                    await self._cluster.refresh()
                await self._follow()
                await asyncio.sleep(LOOK)
        finally:
            self._running = False
            self._places.clear()
            shards, self._shards = self._shards, {}
            for shard in shards.values():
                await shard.stop()

    async def _follow(self) -> None:
        """Moves channels to where their slots are now, and lets servers go that have none left."""
        if moved := [channel for channel in self._slots if self._place(channel)]:
            await self.heard(moved)
            self._restored()  # what was told on the way was missed
        for name, shard in list(self._shards.items()):
            if shard.subscriber.idle:
                await self._shards.pop(name).stop()
            else:
                shard.look_after()

    def _place(self, channel: bytes) -> bool:
        """Hears a channel where its slot is; whether it was heard elsewhere until now."""
        place, before = self._cluster.owner(self._slots[channel]), self._places.get(channel)
        if place is None or place == before:
            return False
        self._leave(channel)
        if place not in self._shards:
            self._shards[place] = _Shard(self._cluster.server(place), self._take, self._restored)
        self._places[channel] = place
        self._shards[place].subscriber.add(channel)
        return before is not None

    def _leave(self, channel: bytes) -> None:
        if (place := self._places.pop(channel, None)) is not None:
            self._shards[place].subscriber.remove(channel)


class _Shard:
    """One server of the cluster, and what is heard there."""

    def __init__(self, server: RedisClient, take: Take, restored: Callable[[], None]) -> None:
        self.subscriber = Subscriber(server, take, restored, sharded=True)
        self._server = server
        self._task = asyncio.create_task(self.subscriber.run())

    def look_after(self) -> None:
        """Asks again for channels that the server has ended by itself. Raises what the subscriber failed with."""
        if self._task.done():
            self._task.result()
        self.subscriber.ask_again()

    async def stop(self) -> None:
        """Hears no more."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._server.aclose()
