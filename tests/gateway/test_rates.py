"""Token buckets, by a clock that the test turns."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.rates import Rates


class Clock:
    """Seconds, set by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """What it shows."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    """A clock."""
    return Clock()


def test_a_bucket_gives_its_limit_and_then_refuses(clock: Clock) -> None:
    """Sixty requests go through at once, the next one not; each tells how many are left."""
    rates = Rates(60, clock)
    assert [rates.take_here("ada").remaining for _ in range(60)] == list(range(59, -1, -1))
    refused = rates.take_here("ada")
    assert (refused.allowed, refused.remaining, refused.limit) == (False, 0, 60)


def test_waiting_for_retry_after_is_enough(clock: Clock) -> None:
    """A sender who waits exactly as long as told gets one request, and no second one."""
    rates = Rates(7, clock)
    while rates.take_here("ada").allowed:
        pass
    clock.now += rates.take_here("ada").retry_after
    assert rates.take_here("ada").allowed
    assert not rates.take_here("ada").allowed


def test_reset_is_when_the_bucket_is_full(clock: Clock) -> None:
    """After `reset` seconds the whole limit is there again."""
    rates = Rates(60, clock)
    for _ in range(29):
        rates.take_here("ada")
    last = rates.take_here("ada")
    assert last.reset == pytest.approx(30.0)
    clock.now += last.reset
    assert rates.take_here("ada").remaining == 59


def test_keys_do_not_share(clock: Clock) -> None:
    """One user's requests take nothing from another's."""
    rates = Rates(1, clock)
    assert rates.take_here("ada").allowed
    assert rates.take_here("bob").allowed


def test_full_buckets_are_dropped(clock: Clock) -> None:
    """A bucket unused for a minute is forgotten, since a new one would be the same."""
    rates = Rates(60, clock)
    for number in range(50):
        rates.take_here(str(number))
    clock.now += 60
    rates.take_here("ada")
    assert len(rates) == 1


def test_there_are_never_more_buckets_than_allowed(clock: Clock) -> None:
    """A flood of keys drops the longest unused and keeps the memory bounded."""
    rates = Rates(1, clock, most=10)
    for number in range(100):
        rates.take_here(str(number))
    assert len(rates) == 10
    assert not rates.take_here("99").allowed


@given(st.lists(st.floats(0, 5), max_size=200))
def test_no_minute_gives_more_than_twice_the_limit(waits: list[float]) -> None:
    """However requests are spread, a bucket gives its limit at once plus what flows in, and no more."""
    clock = Clock()
    rates = Rates(10, clock)
    allowed = 0
    for wait in waits:
        clock.now += wait
        allowed += rates.take_here("ada").allowed
    assert allowed <= 10 + (clock.now - 1000.0) * 10 / 60 + 0.01


def test_a_limit_of_nothing_is_refused(clock: Clock) -> None:
    """Nobody could ever sign in under it."""
    with pytest.raises(ValueError, match="at least 1"):
        Rates(0, clock)
