"""A token bucket: `rate` a second on average, `burst` at once."""

from __future__ import annotations


class Bucket:
    """Allows or says how long to wait. Time is passed in, in seconds."""

    __slots__ = ("_burst", "_rate", "_stamp", "_tokens", "refused")

    def __init__(self, per_minute: int, burst: int, now: float) -> None:
        self._rate = per_minute / 60
        self._burst = float(burst)
        self._tokens = self._burst
        self._stamp = now
        self.refused = 0

    def take(self, now: float) -> float:
        """Zero when allowed, else the seconds until the next one will be. `refused` counts refusals in a row."""
        self._tokens = min(self._burst, self._tokens + (now - self._stamp) * self._rate)
        self._stamp = now
        if self._tokens >= 1:
            self._tokens -= 1
            self.refused = 0
            return 0.0
        self.refused += 1
        return (1 - self._tokens) / self._rate if self._rate else 60.0
