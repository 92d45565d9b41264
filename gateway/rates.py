"""How often each user and each address may ask: token buckets, shared by all nodes where there is Redis."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import NamedTuple, Protocol

MINUTE = 60.0
HOUR = 3_600.0
"""Seconds in which an empty bucket is full again."""

MOST_BUCKETS = 100_000
"""Buckets kept at most, about 20 MB; the longest unused go first."""


class Allowance(NamedTuple):
    """What a request left in its bucket.

    `limit` is what a full bucket has, `reset` is the seconds until it is full, `retry_after` those until the next
    request is allowed (zero where this one was).
    """

    allowed: bool
    limit: int
    remaining: int
    reset: float
    retry_after: float


class Taken(Protocol):
    """What the shared bucket says: whether there was one in it, and the seconds until it is full."""

    @property
    def allowed(self) -> bool:
        """Whether the request may go on."""

    @property
    def reset(self) -> float:
        """Seconds."""


Share = Callable[[str], Awaitable[Taken | None]]
"""Takes one request out of the key's shared bucket; None where nobody can say what is in it."""


class Rates:
    """One bucket a key, each of `limit` requests, refilled evenly within `period` seconds.

    `clock` gives seconds that never go back. `share` is the bucket of all nodes: what it
    says goes, and is noted here. Where it says nothing, the bucket here decides, from where
    the shared one was. Raises ValueError for a limit below one.
    """

    def __init__(
        self,
        limit: int,
        clock: Callable[[], float],
        share: Share | None = None,
        most: int = MOST_BUCKETS,
        period: float = MINUTE,
    ) -> None:
        if limit < 1:
            raise ValueError("a limit of requests has to be at least 1")
        self._limit = limit
        self._each = period / limit
        self._clock = clock
        self._share = share
        self._most = most
        self._full_at: OrderedDict[str, float] = OrderedDict()

    def __len__(self) -> int:
        """How many buckets are kept."""
        return len(self._full_at)

    async def take(self, key: str) -> Allowance:
        """Takes one request out of the key's bucket, if there is one in it."""
        taken = await self._share(key) if self._share is not None else None
        if taken is None:
            return self.take_here(key)
        return self._note(key, taken.allowed, taken.reset, self._clock())

    def take_here(self, key: str) -> Allowance:
        """The same from this node's bucket alone."""
        now = self._clock()
        reset = max(0.0, self._full_at.get(key, now) - now)
        # Rounding may leave a hair less than one request after exactly `retry_after` seconds.
        allowed = reset <= (self._limit - 1) * self._each + 1e-6
        return self._note(key, allowed, reset + self._each if allowed else reset, now)

    def _note(self, key: str, allowed: bool, reset: float, now: float) -> Allowance:
        self._full_at[key] = now + reset
        self._full_at.move_to_end(key)
        self._forget(now)
        left = self._limit - reset / self._each
        retry_after = 0.0 if allowed else (1 - left) * self._each
        return Allowance(allowed, self._limit, max(0, int(left + 1e-6)), reset, retry_after)

    def _forget(self, now: float) -> None:
        # Buckets stand in the order of their last use; one that is full is the same as none.
        while self._full_at:
            full_at = next(iter(self._full_at.values()))
            if full_at > now and len(self._full_at) <= self._most:
                return
            self._full_at.popitem(last=False)
