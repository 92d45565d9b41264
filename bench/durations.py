"""Times on the command line: 90, 90s, 10m, 1.5h."""

from __future__ import annotations

import re

import click

LEAST, MOST = 0.1, 7 * 86_400.0
"""Seconds."""
UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}


def duration(text: str) -> float:
    """Seconds, of a number that may have a unit. Raises click.BadParameter."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    seconds = float(found[1]) * UNITS[found[2]] if found else 0.0
    if not LEAST <= seconds <= MOST:
        raise click.BadParameter(f"{text!r} is no time from 0.1s to 168h, such as 10s, 5m or 8h.")
    return seconds
