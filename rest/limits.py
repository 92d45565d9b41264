"""Token buckets: how many requests each user or address may still make."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import NamedTuple

MINUTE = 60.0
"""Seconds in which an empty bucket is full again."""

MOST_BUCKETS = 100_000
"""Buckets kept at most, about 20 MB; the longest unused go first."""


class Allowance(NamedTuple):
    """What a request left in its bucket.

    `reset` is the seconds until the bucket is full, `retry_after` those until the
    next request is allowed (zero where this one was).
    """

    allowed: bool
    limit: int
    remaining: int
    reset: float
    retry_after: float


class Limits:
    """One bucket per key, each of `per_minute` requests and refilled evenly.

    `clock` gives seconds that never go back. Raises ValueError for a limit below one.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float], most: int = MOST_BUCKETS) -> None:
        if per_minute < 1:
            raise ValueError("a limit of requests has to be at least 1 a minute")
        self._limit = per_minute
        self._rate = per_minute / MINUTE
        self._clock = clock
        self._most = most
        self._buckets: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        """How many buckets are kept."""
        return len(self._buckets)

    def take(self, key: Hashable) -> Allowance:
        """Takes one request out of the key's bucket, if there is one in it."""
        now = self._clock()
        tokens, since = self._buckets.pop(key, (float(self._limit), now))
        tokens = min(self._limit, tokens + (now - since) * self._rate)
        # Rounding may leave a hair less than one token after exactly `retry_after` seconds.
        allowed = tokens > 1 - 1e-6
        tokens = max(0.0, tokens - 1) if allowed else tokens
        self._buckets[key] = (tokens, now)
        self._forget(now)
        retry_after = 0.0 if allowed else (1 - tokens) / self._rate
        return Allowance(allowed, self._limit, int(tokens), (self._limit - tokens) / self._rate, retry_after)

    def _forget(self, now: float) -> None:
        # Buckets stand in the order of their last use, and one unused for a minute is full: the same as none.
        while self._buckets:
            _, since = next(iter(self._buckets.values()))
            if now - since < MINUTE and len(self._buckets) <= self._most:
                return
            self._buckets.popitem(last=False)
