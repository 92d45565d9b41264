"""What is being done, for whoever waits: on stderr, since stdout has the results alone."""

from __future__ import annotations

import sys
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from bench.results import Figure, Point, Report, Run

LINES_EVERY = 2.0
"""Seconds between two lines where stderr is no terminal."""
LONG = 120.0
"""Seconds from which on a time is told in minutes and hours."""


def progress(what: str) -> None:
    """One line."""
    print(f"{what} …", file=sys.stderr, flush=True)


class Display:
    """The phase, and what a load does: one line that changes on a terminal, a line now and then elsewhere."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        self._live = (
            Live(Text(""), console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        )
        self._what = ""
        self._told = -LINES_EVERY

    def __enter__(self) -> Display:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def say(self, what: str) -> None:
        """The next phase."""
        self._what, self._told = what, -LINES_EVERY
        if self._live is None:
            progress(what)
        else:
            self._live.update(Text(f"{what} …"), refresh=True)

    def show(self, point: Point, seconds: float, left: float) -> None:
        """What the last piece of a load brought, which was so long, and how many seconds are left."""
        line = f"{_line(point, seconds)}  {_time(left)} left"
        if self._live is not None:
            self._live.update(Text(f"{self._what}  {line}"), refresh=True)
        elif point.t - self._told >= LINES_EVERY:
            self._told = point.t
            print(f"  {line}", file=sys.stderr, flush=True)


def _time(seconds: float) -> str:
    """Seconds, or minutes and hours where there are."""
    if seconds < LONG:
        return f"{seconds:.0f} s"
    return f"{seconds // 3600:.0f}:{seconds % 3600 // 60:02.0f}:{seconds % 60:02.0f}"


def _line(point: Point, seconds: float) -> str:
    rates = {"sent": point.sent, "acked": point.acked, "delivered": point.delivered}
    words = [f"{point.t:5.1f} s", *(f"{count / seconds:,.0f} {name}/s" for name, count in rates.items())]
    if point.ack_p99_ms is not None:
        words.append(f"ack p99 {point.ack_p99_ms:.1f} ms")
    if point.server_cpu is not None:
        words.append(f"server {point.server_cpu + (point.postgres_cpu or 0) + (point.redis_cpu or 0):.0%}")
    words.append(f"generator {point.generator_cpu or 0:.0%}")
    return "  ".join(words)


# --- the table ---------------------------------------------------------------------------------


def print_table(report: Report, console: Console | None = None) -> None:
    """A column for each run, and below what was wrong with them."""
    console = console or Console(width=None if sys.stdout.isatty() else 200)
    table = Table(title=report.scenario)
    table.add_column("")
    for run in report.runs:
        table.add_column(_heading(run), justify="right")
    for name, values in _rows(report.runs).items():
        table.add_row(name, *values)
    console.print(table)
    for compared in report.comparisons:
        ratio = compared.ratio
        console.print(
            f"{compared.title}: {compared.figure.replace('_', ' ')} of {compared.of} to {compared.to} "
            f"{ratio.median:.2f} ({ratio.min:.2f} to {ratio.max:.2f}, {compared.rounds} rounds)"
        )
    for note in _notes(report.runs):
        console.print(note, highlight=False, markup=False)


def _rows(runs: list[Run]) -> dict[str, list[str]]:
    rows: dict[str, list[str]] = {}
    for name in dict.fromkeys(name for run in runs for name in run.figures):
        rows[name.replace("_", " ")] = [_text(run.figures.get(name)) for run in runs]
    for what in dict.fromkeys(name for run in runs for name in run.latency):
        for label in ("p50_ms", "p90_ms", "p99_ms", "p999_ms", "max_ms"):
            values = [getattr(run.latency.get(what), label, None) for run in runs]
            rows[f"{what} {label.replace('_', ' ')}"] = list(map(_text, values))
    for name in dict.fromkeys(name for run in runs for name in run.verdict.counts):
        rows[name.replace("_", " ")] = [_text(run.verdict.counts.get(name)) for run in runs]
    for name in ("lost", "repeated", "reordered"):
        rows[name] = [str(getattr(run.verdict, name)) for run in runs]
    rows["verdict"] = ["FAILED" if not run.verdict.clean else "VOID" if run.verdict.void else "good" for run in runs]
    return rows


def _text(value: Figure) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 or isinstance(value, int) else f"{value:,.2f}"


def _notes(runs: list[Run]) -> list[str]:
    notes = []
    for run in runs:
        name = _heading(run)
        notes += [f"{name}: {count} × {what}" for what, count in run.verdict.failures.items()]
        if not run.verdict.clean:
            notes.append(f"{name}: FAILED, not everything arrived once and in order")
        if run.verdict.void:
            notes.append(
                f"{name}: VOID, {'; '.join(run.verdict.void)}. Rates and latencies are the generator's own; "
                "what was done per CPU second of the server stands"
            )
    lacks = {run.server: run.guarantees for run in runs if run.guarantees}
    return [*notes, *(f"{server} does without: {'; '.join(found)}" for server, found in lacks.items())]


def _heading(run: Run) -> str:
    return run.title if run.server == "parley" else f"{run.server}: {run.title}"
