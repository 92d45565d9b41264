"""Conditional requests as a table: headers in, verdict out (RFC 9110, 13)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from rest.conditions import Verdict, Version, range_holds, weigh

VERSION = Version.of("abc", datetime(2024, 2, 29, 13, 0, 30, 999_999, timezone(timedelta(hours=1))))
THEN = "Thu, 29 Feb 2024 12:00:30 GMT"
BEFORE = "Thu, 29 Feb 2024 12:00:29 GMT"
AFTER = "Thursday, 29-Feb-24 12:00:31 GMT"


def test_as_headers() -> None:
    """A version in the words of HTTP: in quotes, in GMT, to the second."""
    assert (VERSION.tag, VERSION.last_modified) == ('"abc"', THEN)


@pytest.mark.parametrize(
    ("headers", "verdict"),
    [
        ({}, "go on"),
        ({"If-Match": '"abc"'}, "go on"),
        ({"If-Match": "*"}, "go on"),
        ({"If-Match": '"x", "abc"'}, "go on"),
        ({"If-Match": '"x"'}, "failed"),
        ({"If-Match": 'W/"abc"'}, "failed"),
        ({"If-Match": "abc"}, "failed"),
        ({"If-Match": '"abc'}, "failed"),
        ({"If-Unmodified-Since": THEN}, "go on"),
        ({"If-Unmodified-Since": AFTER}, "go on"),
        ({"If-Unmodified-Since": BEFORE}, "failed"),
        ({"If-Unmodified-Since": "yesterday"}, "go on"),
        ({"If-Match": '"abc"', "If-Unmodified-Since": BEFORE}, "go on"),
        ({"If-None-Match": '"abc"'}, "not modified"),
        ({"If-None-Match": 'W/"abc"'}, "not modified"),
        ({"If-None-Match": '"x" ,W/"abc", '}, "not modified"),
        ({"If-None-Match": "*"}, "not modified"),
        ({"If-None-Match": '"x"'}, "go on"),
        ({"If-None-Match": '"x,"abc"'}, "go on"),
        ({"If-None-Match": "abc"}, "go on"),
        ({"If-None-Match": ""}, "go on"),
        ({"If-Modified-Since": THEN}, "not modified"),
        ({"If-Modified-Since": AFTER}, "not modified"),
        ({"If-Modified-Since": "Thu Feb 29 12:00:31 2024"}, "not modified"),
        ({"If-Modified-Since": BEFORE}, "go on"),
        ({"If-Modified-Since": "Thu, 30 Feb 2024 12:00:31 GMT"}, "go on"),
        ({"If-Modified-Since": "Thu, 29 Feb 99999999999 12:00:31 GMT"}, "go on"),
        ({"If-Modified-Since": ""}, "go on"),
        ({"If-None-Match": '"x"', "If-Modified-Since": THEN}, "go on"),
        ({"If-None-Match": '"abc"', "If-Modified-Since": BEFORE}, "not modified"),
        ({"If-Match": '"x"', "If-None-Match": '"abc"'}, "failed"),
        ({"If-Match": '"abc"', "If-None-Match": '"abc"'}, "not modified"),
    ],
)
def test_conditions(headers: dict[str, str], verdict: Verdict) -> None:
    """Each header alone, and which of them goes first."""
    assert weigh(headers, VERSION) == verdict


@pytest.mark.parametrize(
    ("asked", "holds"),
    [
        (None, True),
        ('"abc"', True),
        (' "abc" ', True),
        (THEN, True),
        ('W/"abc"', False),
        ('"x"', False),
        ("*", False),
        ('"x", "abc"', False),
        (BEFORE, False),
        (AFTER, False),
        ("", False),
    ],
)
def test_if_range(asked: str | None, holds: bool) -> None:
    """If-Range names this version strongly, by its tag or its very time, or the whole is sent."""
    assert range_holds({} if asked is None else {"If-Range": asked}, VERSION) is holds


def test_times_of_other_zones() -> None:
    """A version's time is in UTC, wherever it was told."""
    assert VERSION.modified == datetime(2024, 2, 29, 12, 0, 30, tzinfo=UTC)
