"""Times as they are written on the command line."""

from __future__ import annotations

import click
import pytest

from bench.durations import duration


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("0.5", 0.5), ("90s", 90), ("10m", 600), ("1.5h", 5400), ("168h", 604_800)]
)
def test_a_time_has_a_unit(text: str, seconds: float) -> None:
    """Seconds without one."""
    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "0.05", "-1", "10 m", "1d", "169h", "nan", "1e9"])
def test_what_is_no_time_is_refused(text: str) -> None:
    """With the form that it should have."""
    with pytest.raises(click.BadParameter, match="such as 10s, 5m or 8h"):
        duration(text)
