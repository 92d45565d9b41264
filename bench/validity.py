"""Whether the generator had room enough to measure: if not, a run says nothing about the server's times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

Number = TypeVar("Number", int, float)

FULL = 0.7
"""Share of its core above which a generator process measures itself."""
LATE_US = 1000
"""Microseconds by which a generator process's timers may be late at the 99th percentile."""

TAKEN = 0.01
"""Share of the time for which others may have a generator's core, until a void run tells of it."""


def percentile(counts: Mapping[Number, int], share: float) -> Number | None:
    """The smallest value that at least this share of all does not exceed; None without values."""
    wanted, seen = share * sum(counts.values()), 0
    for value in sorted(counts):
        seen += counts[value]
        if seen >= wanted:
            return value
    return None


def reasons(
    shares: Sequence[float],
    lags: Sequence[Mapping[int, int]],
    late_us: int = LATE_US,
    waited: Sequence[float] = (),
) -> list[str] | None:
    """Why a run with such generator processes is void; None if it is not.

    `waited` has the parts of the time for which others had their cores, where that is known.
    """
    found = [f"generator {index} used {share:.0%} of its core" for index, share in enumerate(shares) if share > FULL]
    for index, (lag, wait) in enumerate(zip(lags, waited or [0.0] * len(lags), strict=True)):
        late = percentile(lag, 0.99)
        if late is not None and late > late_us:
            found.append(f"generator {index} was {late / 1000:.1f} ms late (p99){_others(wait)}")
    return found or None


def _others(wait: float) -> str:
    """What other programs have to do with it."""
    return f", and others had its core for {wait:.0%} of the time" if wait > TAKEN else ""
