"""Results as a table for people and as JSON for machines."""

from __future__ import annotations

import math
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from bench.load import Verdict, Window
from bench.session import BenchSession
from bench.usage import Memory, Usage

FULL = 0.9
"""Share of its core above which the generator measures itself."""

Figure = float | int | None


@dataclass(frozen=True, slots=True)
class Result:
    """One run. `figures` by name, with the unit in the name; None where a figure can't be had."""

    title: str
    clean: bool
    figures: dict[str, Figure]
    checks: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def titled(self, title: str) -> Result:
        """The same, named."""
        return replace(self, title=title)


def progress(what: str) -> None:
    """What is being done, for whoever waits; not on stdout, which has the results alone."""
    print(f"{what} …", file=sys.stderr, flush=True)


def percentile(values: Sequence[float], share: float) -> float | None:
    """The smallest value that at least this share of all does not exceed; None without values."""
    if not values:
        return None
    return sorted(values)[max(0, -int(-share * len(values) // 1) - 1)]


def _each(amount: float, of: float | None) -> float | None:
    return amount / of if of else None


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1000


def _us(seconds: float | None, of: float) -> float | None:
    return seconds * 1e6 / of if of and seconds is not None else None


def compared(result: Result, clear: Result, seal_us: float, open_us: float) -> Result:
    """A run under Noise beside the same without: what each end's CPU does more, a delivery, and one frame by itself."""
    more = {
        f"{end}_us_more_than_clear": _minus(
            result.figures[f"{end}_us_per_delivery"], clear.figures[f"{end}_us_per_delivery"]
        )
        for end in ("parley", "generator")
    }
    figures = {**result.figures, **more, "seal_256_bytes_us": seal_us, "open_256_bytes_us": open_us}
    return replace(result, figures=figures)


def _minus(figure: Figure, other: Figure) -> Figure:
    return None if figure is None or other is None else figure - other


def loaded(window: Window, verdict: Verdict) -> Result:
    """The figures of a run under load."""
    used = window.usage
    parley, postgres = (used.server, used.postgres) if used else (None, None)
    both = used.server + used.postgres if used else None
    figures: dict[str, Figure] = {
        "acked_per_s": window.acked / window.seconds,
        "deliveries_per_s": window.delivered / window.seconds,
        "deliveries_per_parley_cpu_s": _each(window.delivered, parley),
        "deliveries_per_server_cpu_s": _each(window.delivered, both),
        "acked_per_server_cpu_s": _each(window.acked, both),
        "parley_us_per_delivery": _us(parley, window.delivered),
        "generator_us_per_delivery": _us(window.own_cpu * window.seconds, window.delivered),
        "ack_p50_ms": _ms(percentile(window.latencies, 0.5)),
        "ack_p99_ms": _ms(percentile(window.latencies, 0.99)),
        "commit_batch_mean": window.batch,
        "parley_cpu_share": _each(parley or 0.0, window.seconds) if parley is not None else None,
        "postgres_cpu_share": _each(postgres or 0.0, window.seconds) if postgres is not None else None,
        "redis_cpu_share": _each(used.redis, window.seconds) if used else None,
        "generator_cpu_share": window.own_cpu,
        "generator_lag_p50_ms": _ms(percentile(window.lag, 0.5)),
        "generator_lag_p99_ms": _ms(percentile(window.lag, 0.99)),
        "seconds": window.seconds,
    }
    return Result("", verdict.clean, figures, asdict(verdict), saturated(window.own_cpu))


def saturated(own_cpu: float) -> tuple[str, ...]:
    """A warning where the generator used so much of its core that it has measured itself."""
    if own_cpu <= FULL:
        return ()
    return (
        f"VOID: the generator used {own_cpu:.0%} of its core, so rates and latencies are its own; "
        "of this run only figures per CPU second of the server say something about the server",
    )


def idle(
    sessions: int,
    before: Memory | None,
    points: Sequence[tuple[int, Memory]],
    slope: float | None,
    resting: Usage | None,
    seconds: float,
    failures: Mapping[str, int],
) -> Result:
    """The figures of idle sessions. `points` are memory by number of sessions, `resting` the CPU of `seconds`."""
    after = points[-1][1] if points else None
    grown = after.pss - before.pss if after and before else None
    figures: dict[str, Figure] = {
        "sessions": sessions,
        "pss_before_mib": _mib(before and before.pss),
        "pss_after_mib": _mib(after and after.pss),
        "rss_before_mib": _mib(before and before.rss),
        "rss_after_mib": _mib(after and after.rss),
        "bytes_per_session": slope,
        "bytes_per_session_from_none": _each(grown, sessions) if grown is not None else None,
        "parley_cpu_share": _each(resting.server, seconds) if resting else None,
        "postgres_cpu_share": _each(resting.postgres, seconds) if resting else None,
    }
    checks = {"pss_by_sessions": {count: memory.pss for count, memory in points}, "failures": dict(failures)}
    return Result("resting", not failures, figures, checks)


def times(name: str, seconds: Sequence[float]) -> dict[str, Figure]:
    """Percentiles of what was timed one by one, in milliseconds."""
    shares = {"p50": 0.5, "p99": 0.99, "max": 1.0}
    return {f"{name}_{label}_ms": _ms(percentile(seconds, share)) for label, share in shares.items()}


def quantile_ms(before: Mapping[float, float], after: Mapping[float, float], share: float) -> float | None:
    """A percentile of what a histogram has counted in between, as Prometheus' histogram_quantile estimates it."""
    counts = {bound: count - before.get(bound, 0.0) for bound, count in sorted(after.items())}
    wanted = share * counts.get(math.inf, 0.0)
    below, reached = 0.0, 0.0
    for bound, count in counts.items():
        if count and count >= wanted:
            inside = (wanted - reached) / (count - reached)
            return _ms(below if bound == math.inf else below + (bound - below) * inside)
        below, reached = bound, count
    return None


def stormed(
    sessions: Sequence[BenchSession],
    verdicts: Mapping[str, int],
    refused: Mapping[str, int],
    failures: Mapping[str, int],
    figures: Mapping[str, Figure],
) -> Result:
    """The figures of sessions that were cut, missed one event, and came back. Clean: all resumed, all had it once."""
    checks = [check for session in sessions for check in session.checks.values()]
    had = {
        "resumed": verdicts.get("resumed", 0),
        "reset": sum(verdicts.values()) - verdicts.get("resumed", 0),
        "turned_away": sum(refused.values()),
        "lost": sum(not session.delivered for session in sessions) + sum(len(check.missing) for check in checks),
        "repeated": sum(check.repeated for check in checks),
        "reordered": sum(check.reordered for check in checks),
    }
    clean = had["resumed"] == len(sessions) and not (had["lost"] or had["repeated"] or had["reordered"] or failures)
    told = {"verdicts": dict(verdicts), "refusals": dict(refused), "failures": dict(failures)}
    return Result("coming back", clean, {"sessions": len(sessions), **figures}, {**had, **told})


def _mib(size: int | None) -> float | None:
    return None if size is None else size / 2**20


def environment() -> dict[str, Any]:
    """Where this was measured."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "system": platform.platform(),
        "python": sys.version.split()[0],
        "cores": cores,
    }


def table(scenario: str, results: Sequence[Result]) -> str:
    """A column for each run."""
    counts = [name for name, value in results[0].checks.items() if isinstance(value, int)]
    rows = [[scenario, *(result.title for result in results)]]
    names = list(dict.fromkeys(name for result in results for name in result.figures))
    rows += [_row(name, [_text(result.figures.get(name)) for result in results]) for name in names]
    rows += [_row(name, [str(result.checks[name]) for result in results]) for name in counts]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
    return "\n".join([*lines, *_notes(results)])


def _row(name: str, values: list[str]) -> list[str]:
    return [name.replace("_", " "), *values]


def _text(value: Figure) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 or isinstance(value, int) else f"{value:,.2f}"


def _notes(results: Sequence[Result]) -> list[str]:
    notes = [f"{result.title}: {warning}" for result in results for warning in result.warnings]
    for result in results:
        notes += [f"{result.title}: {count} × {what}" for what, count in result.checks.get("failures", {}).items()]
        if not result.clean:
            notes.append(f"{result.title}: FAILED, not everything arrived once and in order")
    return notes
