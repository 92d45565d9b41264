"""What a run has shown: written as JSON, drawn as a table and a page, compared with other runs."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from hdrh.histogram import HdrHistogram

HIGHEST_US = 3_600_000_000
"""An hour: nothing is waited for that long."""
DIGITS = 3
"""Of which each recorded value is right."""
CURVE_STEPS = 5
"""Points of a latency curve between one percentile and the next one that is twice as near to 100."""

Figure = float | int | None


class Latency(msgspec.Struct, frozen=True):
    """A distribution. `hdr` is an HdrHistogram (V2, base64) of microseconds; `curve` has (percentile, ms)."""

    p50_ms: float
    p90_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float
    count: int
    hdr: str
    curve: list[tuple[float, float]]


class Histogram:
    """Microseconds, in buckets as wide as a thousandth of their value."""

    def __init__(self) -> None:
        self._hdr = HdrHistogram(1, HIGHEST_US, DIGITS)

    def add(self, counts: Mapping[int, int]) -> None:
        """So many of each."""
        for us, count in counts.items():
            self._hdr.record_value(min(max(us, 1), HIGHEST_US), count)

    def merge(self, hdr: str) -> None:
        """Adds what another one has, as it stands in results."""
        self._hdr.decode_and_add(hdr)

    def percentile_ms(self, percentile: float) -> float | None:
        """The value that so many per cent do not exceed; None without values."""
        return self._hdr.get_value_at_percentile(percentile) / 1000 if self._hdr.total_count else None

    def latency(self) -> Latency | None:
        """All of it; None without values."""
        hdr = self._hdr
        if not hdr.total_count:
            return None
        p50, p90, p99, p999 = (hdr.get_value_at_percentile(percentile) / 1000 for percentile in (50, 90, 99, 99.9))
        highest = hdr.get_max_value() / 1000
        return Latency(p50, p90, p99, p999, highest, hdr.total_count, hdr.encode().decode(), self._curve())

    def _curve(self) -> list[tuple[float, float]]:
        percentiles = dict.fromkeys(
            round(item.percentile_level_iterated_to, 4) for item in self._hdr.get_percentile_iterator(CURVE_STEPS)
        )
        return [(percentile, self._hdr.get_value_at_percentile(percentile) / 1000) for percentile in percentiles]


class Point(msgspec.Struct, frozen=True):
    """A moment `t` seconds into the measured ones: counts and latencies since the one before, shares of one core."""

    t: float
    sent: int
    acked: int
    delivered: int
    ack_p50_ms: Figure = None
    ack_p99_ms: Figure = None
    delivery_p50_ms: Figure = None
    delivery_p99_ms: Figure = None
    server_cpu: Figure = None
    postgres_cpu: Figure = None
    redis_cpu: Figure = None
    generator_cpu: Figure = None
    pss_mib: Figure = None


class MemoryAt(msgspec.Struct, frozen=True):
    """The server's memory, in bytes, with so many sessions."""

    sessions: int
    pss: int
    rss: int


class Verdict(msgspec.Struct, frozen=True):
    """Whether everything arrived once and in order, and whether the generator had room enough to measure at all.

    `void` has the reasons why not; `counts` is what was looked at, such as `sent` and `delivered`.
    """

    clean: bool
    void: list[str] | None = None
    lost: int = 0
    repeated: int = 0
    reordered: int = 0
    failures: dict[str, int] = {}
    counts: dict[str, int] = {}


class Run(msgspec.Struct, frozen=True):
    """One load on one server. Figures have their unit in their name; None is what could not be had.

    `guarantees` is what a server does not promise that Parley does.
    """

    title: str
    verdict: Verdict
    server: str = "parley"
    figures: dict[str, Figure] = {}
    latency: dict[str, Latency] = {}
    series: list[Point] = []
    memory: list[MemoryAt] = []
    guarantees: list[str] | None = None

    def titled(self, title: str) -> Run:
        """The same, named."""
        return msgspec.structs.replace(self, title=title)

    def about(self, title: str, server: str, guarantees: list[str] | None) -> Run:
        """The same, named, with the server that it is of and what that one does not promise."""
        return msgspec.structs.replace(self, title=title, server=server, guarantees=guarantees)

    def with_figures(self, more: Mapping[str, Figure]) -> Run:
        """The same, with more figures."""
        return msgspec.structs.replace(self, figures={**self.figures, **more})


class Range(msgspec.Struct, frozen=True):
    """A ratio over several rounds."""

    median: float
    min: float
    max: float


class Comparison(msgspec.Struct, frozen=True):
    """A figure `of` one server by that `to` another, from runs by turns."""

    figure: str
    title: str
    of: str
    to: str
    ratio: Range
    rounds: int


class Report(msgspec.Struct, frozen=True):
    """Everything that one command has measured, and where."""

    scenario: str
    options: dict[str, Any]
    environment: dict[str, Any]
    runs: list[Run]
    comparisons: list[Comparison] = []

    @property
    def clean(self) -> bool:
        """Nothing was lost, repeated, out of order or otherwise wrong."""
        return all(run.verdict.clean for run in self.runs)

    @property
    def void(self) -> bool:
        """The generator was too busy in some run."""
        return any(run.verdict.void for run in self.runs)


def write_json(report: Report, path: Path) -> None:
    """For machines, and for a report drawn later."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")


def read_json(path: Path) -> Report:
    """What was written. Raises msgspec.ValidationError when it is something else."""
    return msgspec.json.decode(path.read_bytes(), type=Report)


def together(latencies: Iterable[Latency]) -> Latency | None:
    """One distribution of several."""
    histogram = Histogram()
    for latency in latencies:
        histogram.merge(latency.hdr)
    return histogram.latency()


def distributions(**counts: Mapping[int, int]) -> dict[str, Latency]:
    """By name, of how often each number of microseconds was seen; without those that never were."""
    found = {}
    for name, each in counts.items():
        histogram = Histogram()
        histogram.add(each)
        if latency := histogram.latency():
            found[name] = latency
    return found


def median(runs: Sequence[Run]) -> Run:
    """The medians of several runs' figures; clean if all were, void if one was. Latencies are put together."""
    figures: dict[str, Figure] = {}
    for name in runs[0].figures:
        values = [value for run in runs if (value := run.figures[name]) is not None]
        figures[name] = statistics.median(values) if len(values) == len(runs) else None
    verdicts = [run.verdict for run in runs]
    void = list(dict.fromkeys(reason for verdict in verdicts for reason in verdict.void or []))
    return Run(
        title="",
        verdict=Verdict(
            all(verdict.clean for verdict in verdicts),
            void or None,
            lost=sum(verdict.lost for verdict in verdicts),
            repeated=sum(verdict.repeated for verdict in verdicts),
            reordered=sum(verdict.reordered for verdict in verdicts),
            failures=_sum(verdict.failures for verdict in verdicts),
            counts=_sum(verdict.counts for verdict in verdicts),
        ),
        figures=figures,
        latency={
            name: whole
            for name in runs[0].latency
            if (whole := together(run.latency[name] for run in runs if name in run.latency))
        },
    )


def _sum(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    whole: Counter[str] = Counter()
    for each in counts:
        whole.update(each)
    return dict(whole)
