"""A report as one page: nothing to fetch and no script, so it opens from disk and can be sent around."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined

from bench.pictures import LINES, chapters, named
from bench.plots import FONT, svg, table
from bench.results import Comparison, Figure, Report, Run, Verdict

COLUMNS = 6
"""Runs beside each other in a table; more would not fit on paper."""
FINEST = 1.02
"""The bars of ratios reach at least so far to both sides of 1, or noise would look like a difference."""

PERCENTILES = {"p50_ms": "50 %", "p90_ms": "90 %", "p99_ms": "99 %", "p999_ms": "99.9 %", "max_ms": "most"}
"""What a table says of a latency."""

UNITS = {
    "s": "seconds",
    "ms": "ms",
    "us": "µs",
    "kb": "KB",
    "mb": "MB",
    "mib": "MiB",
    "bytes": "bytes",
    "share": "of a core",
}
"""How a figure's name ends, and what that says."""


def write(report: Report, path: Path) -> None:
    """The page as a file."""
    path.write_text(page(report), encoding="utf-8")


def page(report: Report) -> str:
    """The page."""
    env = Environment(
        loader=PackageLoader("bench", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    env.filters.update(svg=svg, table=table, number=number, named=name_of, facts=facts, wrong=wrong, spread=spread)
    runs = named(report.runs)
    return env.get_template("report.html").render(
        report=report,
        runs=runs,
        parts=[runs[start : start + COLUMNS] for start in range(0, len(runs), COLUMNS)],
        figures=names(report.runs),
        chapters=chapters(report),
        lacks={run.server: run.guarantees for run in report.runs if run.guarantees},
        scale=scale(report.comparisons),
        font=FONT,
        colours=LINES,
        percentiles=PERCENTILES,
    )


def number(value: Figure) -> str:
    """A figure with as many digits as mean something."""
    if value is None:
        return "–"
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:,.3g}" if abs(value) < 10 else f"{value:,.1f}"


class Name(NamedTuple):
    """A figure's name, taken apart."""

    key: str
    label: str
    unit: str


def names(runs: list[Run]) -> list[Name]:
    """The names of all figures, in the order in which they come."""
    return [name_of(key) for key in dict.fromkeys(key for run in runs for key in run.figures)]


def name_of(key: str) -> Name:
    """`parley_us_per_delivery` is `parley` in `µs per delivery`."""
    what, _, of = key.partition("_per_")
    label, _, unit = what.rpartition("_")
    if not label or unit not in UNITS:
        label, unit = what, ""
    per = re.sub(r"\bcpu s\b", "CPU second", re.sub(r"^s\b", "second", of.replace("_", " ")))
    parts = [UNITS.get(unit, ""), per and f"per {per}"]
    return Name(key, label.replace("_", " "), " ".join(filter(None, parts)))


def facts(given: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """What stands in options and environment, as pairs to read; what lies deeper has its whole path as a name."""
    for key, value in given.items():
        name = f"{above} {key if key.isupper() else key.replace('_', ' ')}".strip()
        if isinstance(value, Mapping):
            yield from facts(value, name)
        elif isinstance(value, (list, tuple)):
            yield name, ", ".join(map(str, value)) or "–"
        else:
            yield name, "–" if value is None else str(value)


def wrong(verdict: Verdict) -> list[str]:
    """What did not happen as it should have."""
    counts = {name: getattr(verdict, name) for name in ("lost", "repeated", "reordered")}
    found = [f"{number(count)} {what}" for what, count in counts.items() if count]
    return [*found, *(f"{number(count)} × {what}" for what, count in verdict.failures.items())]


def scale(comparisons: list[Comparison]) -> float:
    """How many times as much the ends of the bars are; the middle is 1."""
    ends = [end for comparison in comparisons for end in (comparison.ratio.min, comparison.ratio.max) if end > 0]
    return max([FINEST, *(max(end, 1 / end) for end in ends)])


def spread(comparison: Comparison, scale: float) -> tuple[float, float, float]:
    """Where a ratio's least, its median and its most stand on a bar, in per cent of its length."""
    ratio = comparison.ratio
    least, median, most = (_place(value, scale) for value in (ratio.min, ratio.median, ratio.max))
    return least, median, most


def _place(ratio: float, scale: float) -> float:
    return 50 + 50 * math.log(max(ratio, 1 / scale)) / math.log(scale)
