"""Which plots a report has: of each kind of figure one, with all its runs where they fit."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count, pairwise
from typing import NamedTuple

from bench.plots import Axis, Line, Plot, Point, linear, logarithmic, percentiles
from bench.results import Figure, MemoryAt, Report, Run
from bench.results import Point as Moment

LINES = 10
"""More lines than this are two plots: nobody could tell them apart."""
THIN = 400
"""Points of a line at most; a picture has not many more pixels."""
ROWS = 10
"""About so many rows has the table of a plot over time."""
LEVELS = (0.5, 0.75, 0.9, 0.95, 0.99, 0.999, 0.9999)
LEAST_MS = 0.001
"""A logarithmic axis has no zero; nothing is timed finer than this."""
MIB = 2**20


class Chapter(NamedTuple):
    """Plots of one kind, with what there is to say about all of them."""

    title: str
    note: str
    plots: list[Plot]


class _Series(NamedTuple):
    """One line before it has a colour: of some run, or of a part of it."""

    name: str
    points: list[Point]
    look: str = "line"


def chapters(report: Report) -> list[Chapter]:
    """All plots for which the report has figures."""
    runs, number = named(report.runs), count(1)
    found = [
        Chapter("Latency over percentiles", _LATENCY, list(_latencies(runs, number))),
        Chapter("Over time", _TIME, [*_rates(runs, number), *_waits(runs, number)]),
        Chapter("Processors", _CPU, list(_processors(runs, number))),
        Chapter("Memory", _MEMORY, [*_memory(runs, number), *_memory_over_time(runs, number)]),
    ]
    return [chapter for chapter in found if chapter.plots]


_LATENCY = (
    "How long the slowest waited: at 99 % stands what 99 of 100 did not exceed. To the right each tenfold rarer case "
    "has as much room as the one before. Latency runs from the moment at which a message was meant to be sent."
)
_TIME = "Each point is the time since the one before it, so a stall shows as a dent above and as a peak below."
_CPU = "Shares of one core. A run is void when the generator had too little left of its own to measure well."
_MEMORY = "PSS of the server's processes, without databases and without the kernel's buffers."


def named(runs: Sequence[Run]) -> list[tuple[str, Run]]:
    """Each run with the name it has in tables and plots."""
    several = len({run.server for run in runs}) > 1
    return [
        ((f"{run.server}: " if several else "") + run.title + (" (void)" if run.verdict.void else ""), run)
        for run in runs
    ]


Named = Sequence[tuple[str, Run]]


def _latencies(runs: Named, number: Iterator[int]) -> Iterator[Plot]:
    """One plot of all kinds where there is one run, else one of all runs for each kind."""
    if len(runs) == 1:
        [(_, run)] = runs
        groups = {"Latency": [(kind.replace("_", " "), latency) for kind, latency in run.latency.items()]}
    else:
        kinds = dict.fromkeys(kind for _, run in runs for kind in run.latency)
        groups = {
            f"{kind.replace('_', ' ').capitalize()} latency": [
                (name, run.latency[kind]) for name, run in runs if kind in run.latency
            ]
            for kind in kinds
        }
    for title, group in groups.items():
        lines = [_Series(name, _curve(latency.curve, latency.count)) for name, latency in group]
        yield from _plots(number, title, percentiles("percentile"), logarithmic("ms, logarithmic"), lines, LEVELS)


def _curve(curve: Sequence[tuple[float, float]], values: int) -> list[Point]:
    """The last of so many values is nobody's 100th percentile: it stands where the rarest can be told."""
    rarest = 1 - 1 / max(values, 2)
    return [(min(percentile / 100, rarest), max(ms, LEAST_MS)) for percentile, ms in curve]


def _rates(runs: Named, number: Iterator[int]) -> Iterator[Plot]:
    for what, get in _COUNTS.items():
        lines = [_Series(name, _thin(_per_second(run.series, get), statistics.fmean)) for name, run in runs]
        if any(rate for line in lines for _, rate in line.points):
            yield from _over_time(number, f"{what} a second", linear("a second"), lines)


_COUNTS: dict[str, Callable[[Moment], int]] = {
    "Sent": lambda moment: moment.sent,
    "Acked": lambda moment: moment.acked,
    "Delivered": lambda moment: moment.delivered,
}


def _per_second(series: Sequence[Moment], get: Callable[[Moment], int]) -> list[Point]:
    pairs = pairwise([0.0, *(moment.t for moment in series)])
    return [
        (after, get(moment) / (after - before))
        for (before, after), moment in zip(pairs, series, strict=True)
        if after > before
    ]


def _waits(runs: Named, number: Iterator[int]) -> Iterator[Plot]:
    for title, get in _WAITS.items():
        lines = [_Series(name, _thin(_known(run.series, get, LEAST_MS), max)) for name, run in runs]
        yield from _over_time(number, title, logarithmic("ms, logarithmic"), lines)


_WAITS: dict[str, Callable[[Moment], Figure]] = {
    "Ack p50": lambda moment: moment.ack_p50_ms,
    "Ack p99": lambda moment: moment.ack_p99_ms,
    "Delivery p50": lambda moment: moment.delivery_p50_ms,
    "Delivery p99": lambda moment: moment.delivery_p99_ms,
}


def _processors(runs: Named, number: Iterator[int]) -> Iterator[Plot]:
    for name, run in runs:
        lines = [_Series(who, _thin(_known(run.series, get), statistics.fmean)) for who, get in _SHARES.items()]
        yield from _over_time(number, name, linear("share of a core", lambda share: f"{share:.0%}"), lines)


_SHARES: dict[str, Callable[[Moment], Figure]] = {
    "server": lambda moment: moment.server_cpu,
    "PostgreSQL": lambda moment: moment.postgres_cpu,
    "Redis": lambda moment: moment.redis_cpu,
    "generator": lambda moment: moment.generator_cpu,
}


def _memory(runs: Named, number: Iterator[int]) -> Iterator[Plot]:
    """Dots for what was read, and the line that fits them best."""
    lines: list[_Series] = []
    for name, run in runs:
        points = [(float(at.sessions), at.pss / MIB) for at in run.memory]
        lines += [_Series(name + _slope(run.memory), points, "dots"), _Series("", _fitted(points), "dashed")]
    rows = sorted({point[0] for line in lines for point in line.points})
    yield from _plots(number, "Memory by sessions", linear("sessions"), linear("PSS, MiB"), lines, rows, of_a_run=2)


def _slope(memory: Sequence[MemoryAt]) -> str:
    fit = _fit([(float(at.sessions), float(at.pss)) for at in memory])
    return f": {fit.slope:,.0f} bytes a session" if fit else ""


def _fit(points: Sequence[Point]) -> statistics.LinearRegression | None:
    xs, ys = [point[0] for point in points], [point[1] for point in points]
    return statistics.linear_regression(xs, ys) if len(set(xs)) > 1 else None


def _fitted(points: Sequence[Point]) -> list[Point]:
    fit = _fit(points)
    return [(x, fit.intercept + fit.slope * x) for x in sorted({point[0] for point in points})] if fit else []


def _memory_over_time(runs: Named, number: Iterator[int]) -> Iterator[Plot]:
    lines = [_Series(name, _thin(_known(run.series, lambda moment: moment.pss_mib), max)) for name, run in runs]
    return _over_time(number, "Memory over time", linear("PSS, MiB", zero=False), lines)


def _known(series: Sequence[Moment], get: Callable[[Moment], Figure], least: float = 0.0) -> list[Point]:
    return [(moment.t, max(value, least)) for moment in series if (value := get(moment)) is not None]


def _thin(points: Sequence[Point], pick: Callable[[list[float]], float]) -> list[Point]:
    """Several neighbours become one, where there are more than can be seen."""
    size = -(-len(points) // THIN) or 1
    parts = [points[start : start + size] for start in range(0, len(points), size)]
    return [(part[-1][0], pick([value for _, value in part])) for part in parts]


def _over_time(number: Iterator[int], title: str, y: Axis, lines: Sequence[_Series]) -> Iterator[Plot]:
    end = max((point[0] for line in lines for point in line.points), default=0.0)
    unit, seconds = next(((unit, of) for unit, of in _UNITS.items() if end >= 3 * of), ("seconds", 1.0))
    scaled = [line._replace(points=[(t / seconds, value) for t, value in line.points]) for line in lines]
    rows = [end / seconds * step / ROWS for step in range(ROWS)]
    return _plots(number, title, linear(unit), y, scaled, rows)


_UNITS = {"hours": 3600.0, "minutes": 60.0, "seconds": 1.0}


def _plots(
    number: Iterator[int],
    title: str,
    x: Axis,
    y: Axis,
    lines: Sequence[_Series],
    rows: Iterable[float],
    of_a_run: int = 1,
) -> Iterator[Plot]:
    """One plot, or several where there are too many lines. The colours go round by run."""
    drawn = [
        Line(line.name, line.points, index // of_a_run % LINES, line.look)
        for index, line in enumerate(lines)
        if line.points
    ]
    for start in range(0, len(drawn), LINES * of_a_run):
        part = drawn[start : start + LINES * of_a_run]
        yield Plot(f"plot-{next(number)}", title, x, y, part, list(rows))
