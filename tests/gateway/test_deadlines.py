"""What a connection has to do by when, without a clock."""

from __future__ import annotations

import math

import pytest

from gateway.config import Config
from gateway.deadlines import Deadlines, Due
from protocol.errors import CloseCode

CONFIG = Config(
    auth_deadline=10, heartbeat_interval=25, heartbeat_timeout=8, slow_consumer=15, token_warning=60, token_grace=25
)
LONG = 10_000.0
"""A token that is not about to expire."""


def all_due(deadlines: Deadlines, now: float, token_left: float | None = LONG) -> list[Due]:
    """Everything that is due at a moment, up to a close."""
    found: list[Due] = []
    while (due := deadlines.due(CONFIG, now, token_left)) is not None:
        found.append(due)
        if isinstance(due, CloseCode):
            break
    return found


@pytest.mark.parametrize(("now", "due"), [(9.9, []), (10.0, [CloseCode.auth_timeout])])
def test_who_does_not_say_who_they_are(now: float, due: list[Due]) -> None:
    """A connection has ten seconds in all; bytes that come meanwhile do not prolong them."""
    deadlines = Deadlines(0.0)
    deadlines.touch(5.0)
    assert all_due(deadlines, now, None) == due
    assert deadlines.next(CONFIG, 5.0, None) == 10.0


def test_silence() -> None:
    """After 25 s of silence there is one ping, after 8 s more the end."""
    deadlines = Deadlines(0.0)
    assert all_due(deadlines, 24.9) == []
    assert deadlines.next(CONFIG, 24.9, LONG) == 25.0
    assert all_due(deadlines, 25.0) == ["ping"]
    assert all_due(deadlines, 30.0) == []
    assert deadlines.next(CONFIG, 30.0, LONG) == 33.0
    assert all_due(deadlines, 33.0) == [CloseCode.no_pong]


def test_any_traffic_is_life() -> None:
    """Whatever comes after the ping starts the silence anew, and the next one gets a ping of its own."""
    deadlines = Deadlines(0.0)
    assert all_due(deadlines, 25.0) == ["ping"]
    deadlines.touch(32.0)
    assert all_due(deadlines, 33.0) == []
    assert all_due(deadlines, 57.0) == ["ping"]


def test_who_does_not_read() -> None:
    """A reader that lags has 15 s from when it began to, however often it is noticed."""
    deadlines = Deadlines(0.0)
    assert deadlines.stuck(1.0)
    assert not deadlines.stuck(9.0)
    assert deadlines.next(CONFIG, 9.0, LONG) == 16.0
    assert all_due(deadlines, 15.9) == []
    assert all_due(deadlines, 16.0) == [CloseCode.slow_consumer]


def test_who_reads_again() -> None:
    """A reader that has caught up in time is let off, and has all the time again at the next lag."""
    deadlines = Deadlines(0.0)
    deadlines.stuck(1.0)
    deadlines.drained()
    assert all_due(deadlines, 20.0) == []
    assert deadlines.stuck(20.0)


def test_a_token_that_runs_out() -> None:
    """There is one warning a minute before the token's end, and a grace of 25 s after it."""
    deadlines = Deadlines(0.0)
    assert deadlines.next(CONFIG, 0.0, 70.0) == 10.0
    assert all_due(deadlines, 0.0, 60.1) == []
    assert all_due(deadlines, 0.0, 60.0) == ["warn"]
    assert all_due(deadlines, 0.0, 1.0) == []
    assert deadlines.next(CONFIG, 0.0, -5.0) == 20.0
    assert all_due(deadlines, 0.0, -24.9) == []
    assert all_due(deadlines, 0.0, -25.0) == [CloseCode.token_expired]


def test_a_key_for_ever() -> None:
    """A bot's key does not run out: there is no warning, and the next thing to do is to ask for a sign of life."""
    deadlines = Deadlines(0.0)
    assert all_due(deadlines, 0.0, math.inf) == []
    assert deadlines.next(CONFIG, 0.0, math.inf) == 25.0
    assert all_due(deadlines, 25.0, math.inf) == ["ping"]


def test_a_token_that_was_renewed() -> None:
    """A new token gets a warning of its own."""
    deadlines = Deadlines(0.0)
    assert all_due(deadlines, 0.0, 30.0) == ["warn"]
    deadlines.renewed()
    assert all_due(deadlines, 0.0, 500.0) == []
    assert all_due(deadlines, 0.0, 50.0) == ["warn"]
