"""This node among the others: what it says to them, what it knows of them, and the parts that make use of it.

Without REDIS_URL there are no others. Then the bus is a function call, and there
are no leases, no handover and no fence.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from uuid import uuid4

from crypto.cluster import ClusterKeys
from crypto.keyfile import Keys
from crypto.resume_tokens import ResumeTokens
from gateway.arrivals import Arrivals
from gateway.config import Config
from gateway.door import Door
from gateway.fence import Open, PauseFence
from gateway.handover import Handover
from gateway.hub import Hub
from gateway.metrics import Metrics
from gateway.neighbours import Neighbours
from gateway.presence_exchange import PresenceExchange
from gateway.rates import Share
from gateway.repair import Repair
from storage.buckets import SharedBuckets
from storage.bus import Bus, LocalBus
from storage.database import Database
from storage.leases import Leases
from storage.redis_bus import RedisBus
from storage.redis_client import AWAY, RedisClient, connect
from storage.room_keys import RoomKeys

Job = Callable[[], Awaitable[None]]


class Alone:
    """The only node."""

    def __init__(self, keys: Keys) -> None:
        self.bus: Bus = LocalBus()
        self.tokens = ResumeTokens(uuid4(), keys.master)
        self.fence = Open()
        self.neighbours = Neighbours(self.bus, None)
        self.jobs: tuple[Job, ...] = ()

    def connect(self, hub: Hub, door: Door, repair: Repair, database: Database, room_keys: RoomKeys) -> None:
        """Events that are committed here are delivered here."""
        del door, repair, database, room_keys
        self.bus.listen(hub.deliver)

    def share(self, limit: int, period: float) -> Share | None:
        """The buckets that all nodes share."""
        del limit, period
        return None

    def replace(self, keys: Keys) -> None:
        """Takes rotated keys."""
        self.tokens.replace(keys.master)


class Member:
    """A node among others, which share its database and its Redis."""

    def __init__(self, redis: RedisClient, keys: Keys, metrics: Metrics) -> None:
        self._node_id = uuid4()
        self.redis = redis
        self.bus = RedisBus(redis, ClusterKeys(keys.master), self._node_id, metrics.bus)
        self.leases = Leases(redis, self._node_id)
        self.neighbours = Neighbours(self.bus, self.leases)
        self.tokens = ResumeTokens(self._node_id, keys.master)
        self.fence = PauseFence()
        self.jobs: tuple[Job, ...] = (self.bus.run, self.leases.run, self.fence.watch_forever)
        metrics.watch_bus(lambda: self.bus.connected, lambda: len(self.leases.live))

    def connect(self, hub: Hub, door: Door, repair: Repair, database: Database, room_keys: RoomKeys) -> None:
        """Events, sessions and presence of other nodes come here, and ours go there."""
        self.bus.listen(hub.deliver)
        self.bus.on_restored(repair.sweep_soon)
        hub.on_room, hub.on_empty, hub.on_welcome = self.bus.hear, self.bus.unhear, repair.fill_soon
        handover = Handover(hub, self.bus, self.leases, self.tokens, self.neighbours, door.admission.aside)
        hub.on_forget.append(handover.forgotten)
        self.fence.ask_by(handover.find_out)
        PresenceExchange(self._node_id, hub, door.presence, door.wheel, self.bus, self.leases, self.fence)
        database.guard(self.fence)
        door.take_from(
            Arrivals(
                self._node_id,
                hub,
                self.bus,
                handover,
                database,
                door.lookups,
                room_keys,
                door.limits,
                door.config.limit_sync,
            )
        )

    def share(self, limit: int, period: float) -> Share | None:
        """The buckets that all nodes share, each of so many in `period` seconds."""
        return SharedBuckets(self.redis, limit, period=period).take

    def replace(self, keys: Keys) -> None:
        """Takes rotated keys."""
        self.tokens.replace(keys.master)
        self.bus.replace(ClusterKeys(keys.master))


Cluster = Alone | Member


@contextlib.asynccontextmanager
async def join(config: Config, keys: Keys, metrics: Metrics) -> AsyncIterator[Cluster]:
    """This node's place among the others, until it leaves. Raises storage.redis_client.RedisUrlError."""
    if config.redis_url is None:
        yield Alone(keys)
        return
    redis = connect(config.redis_url)
    member = Member(redis, keys, metrics)
    try:
        yield member
        with contextlib.suppress(*AWAY):
            await member.leases.leave()
    finally:
        await redis.aclose()
