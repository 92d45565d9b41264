"""The bus on a real Redis Cluster: channels are heard where their slots are, also when those move."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from uuid import UUID, uuid4

import pytest
from redis.crc import key_slot

from storage.leases import Leases
from storage.redis_bus import room_channel
from storage.redis_client import connect
from storage.shards import ShardedSubscriber
from tests.storage.test_redis_bus import Ear, ears, event, hearing, until
from tests.valkey import SLOTS, Valkey, ValkeyCluster


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyCluster]:
    """Three primaries, and a replica of the first."""
    cluster = ValkeyCluster(tmp_path_factory.mktemp("cluster"))
    cluster.start()
    yield cluster
    cluster.stop()


def _room_at(number: int) -> UUID:
    """A chatroom whose channel belongs to this one of the primaries."""
    while key_slot(room_channel(room := uuid4())) * 3 // SLOTS != number:
        pass
    return room


def _heard_at(server: Valkey) -> set[bytes]:
    return set(server.ask("PUBSUB SHARDCHANNELS"))


async def _tell_until_heard(here: Ear, there: Ear, room: UUID) -> None:
    """Tells of one event after the other, until one of them is heard: those before it may be lost."""
    heard = len(there.events)
    async with asyncio.timeout(60):
        for seq in range(1, 10_000):
            here.bus.publish([event(seq, room)])
            await asyncio.sleep(0.05)
            if len(there.events) > heard:
                return


async def test_all_servers(cluster: ValkeyCluster) -> None:
    """Chatrooms of all servers are heard in order, each at the one that has its slot, and no longer than asked."""
    rooms = [_room_at(number) for number in (0, 1, 2, 0, 1, 2)]
    async with ears(cluster.url) as ear:
        here, there = ear(), ear()
        await hearing(there, rooms=tuple(rooms))
        await hearing(here, rooms=())
        for seq in range(1, 51):
            here.bus.publish([event(seq, room) for room in rooms])
        await until(lambda: len(there.events) == 50 * len(rooms))
        for number, room in enumerate(rooms):
            assert [one.seq for one in there.events if one.chatroom_id == room] == list(range(1, 51))
            assert room_channel(room) in _heard_at(cluster.servers[number % 3])
        for room in rooms:
            there.bus.unhear(room)
        channels = set(map(room_channel, rooms))
        await until(lambda: not any(channels & _heard_at(server) for server in cluster.servers))
        shards = there.bus._subscriber
        assert isinstance(shards, ShardedSubscriber)
        await until(lambda: not any(shard.subscriber.idle for shard in shards._shards.values()))
        assert there.bus.connected


async def test_scripts(cluster: ValkeyCluster) -> None:
    """What nodes keep in Redis works in a cluster, too: they know of one another, and claims have numbers."""
    clients = [connect(cluster.url) for _ in range(2)]
    first, second = (Leases(client, uuid4()) for client in clients)
    await first.look()
    await second.beat()
    assert second.live == {first.node_id}
    assert (await second.claim(first.node_id, b"digest")).owner == first.node_id
    assert (await first.claim(first.node_id, b"digest")).owner == second.node_id
    for client in clients:
        await client.aclose()


async def test_a_slot_moves(cluster: ValkeyCluster) -> None:
    """When a chatroom's slot goes to another server the room is heard there, and a gap is reported."""
    room = _room_at(1)
    slot, to = key_slot(room_channel(room)), cluster.servers[2]
    async with ears(cluster.url) as ear:
        here, there = ear(), ear()
        await hearing(here, there, rooms=(room,))
        await _tell_until_heard(here, there, room)
        # Who imports a slot takes a newer epoch with it; else a late word of the former owner may take it back.
        to.ask("CLUSTER SETSLOT", slot, "IMPORTING", cluster.servers[1].ask("CLUSTER MYID"))
        for server in (to, cluster.servers[1], cluster.servers[0]):
            server.ask("CLUSTER SETSLOT", slot, "NODE", to.ask("CLUSTER MYID"))
        await until(lambda: there.restored > 0)
        await _tell_until_heard(here, there, room)
        assert room_channel(room) in _heard_at(to)


async def test_a_server_dies(cluster: ValkeyCluster) -> None:
    """When a server dies its chatrooms are heard through its replica as soon as that has its slots."""
    room = _room_at(0)
    first, replica = cluster.servers[0], cluster.servers[3]
    async with ears(cluster.url) as ear:
        here, there = ear(), ear()
        await hearing(here, there, rooms=(room,))
        first.kill()
        await until(lambda: not there.bus.connected)
        replica.ask("CLUSTER FAILOVER", "TAKEOVER")
        await _tell_until_heard(here, there, room)
        assert room_channel(room) in _heard_at(replica)
        await until(lambda: there.restored > 0 and there.bus.connected)
