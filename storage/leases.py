"""Which nodes are alive, and which node has a session that was resumed elsewhere. Kept in Redis, by Redis' own clock.

A node beats once a second and counts as dead when it has not for LEASE seconds;
the clocks of the nodes play no part. A session belongs to the node that its
resume token names (its *home*), until another node *claims* it: claims of one
session are numbered, and the highest number is the owner's (a fencing token, as in Kleppmann,
"How to do distributed locking", 2016).

Redis may lose all of this. Then nodes are known again after a beat, and sessions
belong to their homes again until their owners have written their claims anew.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Never
from uuid import UUID, uuid4

from storage.redis_client import AWAY, RedisClient

log = logging.getLogger(__name__)

BEAT = 1.0
"""Seconds between two beats."""
LEASE = 5.0
"""Seconds without a beat after which a node counts as dead."""

FRESH = 2.0
"""Seconds since its last beat after which a node has missed one."""

AWAY_AFTER = 3.0
"""Seconds without an answer to a beat after which Redis counts as away."""

_LEASES = "parley:leases"
_EPOCH = "parley:epoch"

_BEAT = """
local now = redis.call('TIME')
now = now[1] * 1000 + math.floor(now[2] / 1000)
redis.call('HSET', KEYS[1], ARGV[1], now)
local live = {}
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
    local age = now - tonumber(all[i + 1])
    if age <= tonumber(ARGV[2]) then
        live[#live + 1] = all[i]
        live[#live + 1] = age
    elseif age > 60 * tonumber(ARGV[2]) then redis.call('HDEL', KEYS[1], all[i]) end
end
return live
"""

_CLAIM = """
local before = redis.call('HGET', KEYS[1], ARGV[1])
local owner, fence = '', 0
if before then
    owner = string.sub(before, 1, 32)
    fence = tonumber(string.sub(before, 34))
elseif ARGV[2] == ARGV[3] then
    return {'', 0}
end
fence = fence + 1
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. ' ' .. fence)
redis.call('HINCRBY', KEYS[1], 'changes', 1)
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return {owner, fence}
"""

_GIVE_UP = """
for i = 2, #ARGV, 2 do
    if redis.call('HGET', KEYS[1], ARGV[i]) == ARGV[1] .. ' ' .. ARGV[i + 1] then
        redis.call('HDEL', KEYS[1], ARGV[i])
    end
end
"""

_RESTORE = """
for i = 3, #ARGV, 2 do redis.call('HSETNX', KEYS[1], ARGV[i], ARGV[1] .. ' ' .. ARGV[i + 1]) end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
"""

KEPT = 7 * 86_400.0
"""Seconds that claims on one home's sessions are kept after the last of them was written; owners write them daily."""


class Claim(NamedTuple):
    """Who owns a session, and by which number. A session that nobody has claimed is its home's, by number 0."""

    owner: UUID
    fence: int


class Leases:
    """This node's lease and claims. `lost_all` is called after Redis has lost its memory."""

    def __init__(self, redis: RedisClient, node_id: UUID) -> None:
        self.node_id = node_id
        self.live: frozenset[UUID] = frozenset()
        """The other nodes that were alive at the last beat."""
        self.fresh: frozenset[UUID] = frozenset()
        """Those of them that had not missed a beat."""
        self._heard_at = time.monotonic()
        self._redis: Any = redis
        self._epoch: bytes | None = None
        self._changes: dict[UUID, bytes | None] = {}
        self._beat_script = redis.register_script(_BEAT)
        self._claim_script = redis.register_script(_CLAIM)
        self._give_up_script = redis.register_script(_GIVE_UP)
        self._restore_script = redis.register_script(_RESTORE)
        self._on_beat: list[Callable[[bool], Any]] = []

    def after_beat(self, callback: Callable[[bool], Any]) -> None:
        """Calls back after each beat that was heard, with whether Redis has lost its memory since the one before."""
        self._on_beat.append(callback)

    # --- leases ------------------------------------------------------------------------------

    async def run(self) -> Never:
        """Beats for ever."""
        while True:
            try:
                async with asyncio.timeout(LEASE / 2):
                    lost_all = await self.beat()
                for callback in self._on_beat:
                    callback(lost_all)
            except AWAY:
                log.debug("a beat was not heard")
            await asyncio.sleep(BEAT)

    @property
    def away(self) -> bool:
        """Whether Redis has been silent for so long that to ask it would only take time."""
        return time.monotonic() - self._heard_at > AWAY_AFTER

    async def look(self) -> None:
        """Shows that this node lives, and looks which others do. Raises AWAY."""
        live = await self._beat_script(keys=[_LEASES], args=[self.node_id.hex, int(LEASE * 1000)])
        self._heard_at = time.monotonic()
        ages = {UUID(bytes.decode(name)): age / 1000 for name, age in zip(live[::2], live[1::2], strict=True)}
        self.live = frozenset(ages) - {self.node_id}
        self.fresh = frozenset(node for node in self.live if ages[node] <= FRESH)

    async def beat(self) -> bool:
        """`look`, and whether Redis has lost its memory since the last time. Raises AWAY."""
        await self.look()
        mine = uuid4().hex.encode()
        epoch = mine if await self._redis.set(_EPOCH, mine, nx=True) else await self._redis.get(_EPOCH)
        before, self._epoch = self._epoch, epoch
        lost_all = before is not None and before != epoch
        if lost_all:
            self._changes.clear()
        return lost_all

    async def leave(self) -> None:
        """Ends this node's lease at once: it stops in good order. Claims stay: others have its sessions now."""
        await self._redis.hdel(_LEASES, self.node_id.hex)

    # --- claims ------------------------------------------------------------------------------

    async def claim(self, home: UUID, digest: bytes, owner: UUID | None = None) -> Claim:
        """Makes this node (or `owner`) the owner of the session with this digest of its token.

        Returns the owner before, and the number of the new claim. A home that claims what nobody else ever
        claimed leaves no trace: number 0. Raises AWAY.
        """
        args: list[Any] = [digest, (owner or self.node_id).hex, home.hex, int(KEPT * 1000)]
        former, fence = await self._claim_script(keys=[_claims(home)], args=args)
        self._heard_at = time.monotonic()
        return Claim(UUID(former.decode()) if former else home, int(fence))

    async def claims_of(self, home: UUID, *, anew: bool = False) -> dict[bytes, Claim] | None:
        """All claims on a home's sessions; unless `anew`, None when nothing has changed since the last look.

        Raises AWAY.
        """
        changes = await self._redis.hget(_claims(home), "changes")
        self._heard_at = time.monotonic()
        if not anew and home in self._changes and self._changes[home] == changes:
            return None
        found = await self._redis.hgetall(_claims(home))
        self._changes[home] = changes
        found.pop(b"changes", None)
        return {digest: _claim(value) for digest, value in found.items()}

    def read_again(self, home: UUID) -> None:
        """What was read of a home's claims was of no use: the next look reads them all."""
        self._changes.pop(home, None)

    async def restore(self, home: UUID, fences: Mapping[bytes, int]) -> None:
        """Writes this node's claims again, by digest, where Redis may have lost them. Raises AWAY."""
        await self._restore_script(keys=[_claims(home)], args=[self.node_id.hex, int(KEPT * 1000), *_flat(fences)])

    async def give_up(self, home: UUID, fences: Mapping[bytes, int]) -> None:
        """These sessions are over: this node's claims on them go, others' newer ones stay. Raises AWAY."""
        await self._give_up_script(keys=[_claims(home)], args=[self.node_id.hex, *_flat(fences)])


def _claims(home: UUID) -> str:
    return f"parley:claims:{home.hex}"


def _flat(fences: Mapping[bytes, int]) -> list[Any]:
    return [item for pair in fences.items() for item in pair]


def _claim(value: bytes) -> Claim:
    owner, _, fence = value.partition(b" ")
    return Claim(UUID(owner.decode()), int(fence))
