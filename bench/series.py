"""What happened while a load ran, piece by piece, and what it comes to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain

from bench.clock import until
from bench.deployment import Deployment
from bench.display import Display
from bench.generator import Outcome, Plan, Sample
from bench.results import Figure, Point, Run, Verdict, distributions
from bench.usage import Usage
from bench.validity import percentile, reasons

GRACE_US = 40_000
"""Microseconds after a moment until the samples of that moment are looked at."""
MEMORY_EVERY = 4
"""Points between two looks at the server's memory, which hold it up for a moment."""


class Series:
    """Puts the samples of all processes and the readings of the server beside each other."""

    def __init__(self, deployment: Deployment, display: Display, plan: Plan, processes: int) -> None:
        self._deployment = deployment
        self._display = display
        self.moments: list[int] = [*range(plan.begin, plan.end, plan.tick), plan.end]
        self.samples: list[list[Sample]] = [[] for _ in range(processes)]
        self.usage: list[Usage | None] = []
        self._pss_mib: dict[int, float] = {}

    def add(self, index: int, sample: Sample) -> None:
        """What one process has counted."""
        self.samples[index].append(sample)

    async def watch(self) -> None:
        """Reads what the server uses at every moment, and shows what has become of the last piece."""
        for number, moment in enumerate(self.moments):
            await until(moment)
            self.usage.append(self._deployment.usage())
            if number % MEMORY_EVERY == 0 and (memory := self._deployment.memory()):
                self._pss_mib[number] = memory.pss / 2**20
            await until(moment + GRACE_US)
            if number:
                self._display.show(self.point(number), self.seconds(number), (self.moments[-1] - moment) / 1e6)

    def seconds(self, number: int) -> float:
        """How long a piece was."""
        return (self.moments[number] - self.moments[number - 1]) / 1e6

    def point(self, number: int) -> Point:
        """One piece. Samples that are late are missing in it, but not in the whole."""
        samples = [found[number] for found in self.samples if len(found) > number]
        seconds, used = self.seconds(number), self.used(number - 1, number)
        ack, delivery = added(sample.ack for sample in samples), added(sample.delivery for sample in samples)
        return Point(
            t=(self.moments[number] - self.moments[0]) / 1e6,
            sent=sum(sample.sent for sample in samples),
            acked=sum(sample.acked for sample in samples),
            delivered=sum(sample.delivered for sample in samples),
            ack_p50_ms=_ms(percentile(ack, 0.5)),
            ack_p99_ms=_ms(percentile(ack, 0.99)),
            delivery_p50_ms=_ms(percentile(delivery, 0.5)),
            delivery_p99_ms=_ms(percentile(delivery, 0.99)),
            server_cpu=used.server / seconds if used else None,
            postgres_cpu=used.postgres / seconds if used else None,
            redis_cpu=used.redis / seconds if used else None,
            generator_cpu=max((sample.cpu / seconds for sample in samples), default=None),
            pss_mib=self._pss_mib.get(number),
        )

    def used(self, first: int, last: int) -> Usage | None:
        """What the server used between two moments."""
        before, after = self.usage[first], self.usage[last]
        return after.since(before) if before and after else None

    def measured(self) -> list[list[Sample]]:
        """The samples of each process without the warm-up's."""
        return [found[1:] for found in self.samples]

    def shares(self) -> list[float]:
        """The part of a core that each generator process used."""
        return [_share([each.cpu for each in found[1:]], found) for found in self.samples]

    def waited(self) -> list[float]:
        """The part of the time for which each could have run, but its core was another's."""
        return [_share([each.waited for each in found[1:]], found) for found in self.samples]


def judged(series: Series, outcomes: Sequence[Outcome], batch: float | None) -> Run:
    """The figures of a load, and whether they count."""
    lags = [added(sample.lag for sample in found) for found in series.measured()]
    # The warm-up's sample may be late, and has then what counts already: times are those of the window alone.
    everything = [*chain.from_iterable(series.samples), *(outcome.last for outcome in outcomes)]
    kinds = sorted({kind for outcome in outcomes for kind in outcome.waits})
    return Run(
        title="",
        verdict=verdict(outcomes, reasons(series.shares(), lags, waited=series.waited())),
        figures=_figures(series, batch) | {"generator_lag_p99_ms": _ms(percentile(added(lags), 0.99))},
        latency=distributions(
            ack=added(sample.ack for sample in everything),
            delivery=added(sample.delivery for sample in everything),
            **{kind: added(outcome.waits.get(kind, {}) for outcome in outcomes) for kind in kinds},
        ),
        series=[series.point(number) for number in range(1, len(series.moments))],
    )


def verdict(outcomes: Sequence[Outcome], void: list[str] | None) -> Verdict:
    """Of all processes together."""
    names = ("sent", "unacked", "delivered", "fully_read")
    counts = {name: sum(getattr(outcome, name) for outcome in outcomes) for name in names}
    wrong = {name: sum(getattr(outcome, name) for outcome in outcomes) for name in ("lost", "repeated", "reordered")}
    failures = dict(sum((Counter(outcome.failures) for outcome in outcomes), Counter[str]()))
    clean = not (counts["unacked"] or failures or any(wrong.values()))
    return Verdict(clean, void, **wrong, failures=failures, counts=counts)


def _figures(series: Series, batch: float | None) -> dict[str, Figure]:
    found = [sample for samples in series.measured() for sample in samples]
    seconds = (series.moments[-1] - series.moments[0]) / 1e6
    sent, acked = sum(sample.sent for sample in found), sum(sample.acked for sample in found)
    delivered = sum(sample.delivered for sample in found)
    used = series.used(0, -1)
    process, postgres, redis = used or (None, None, None)
    server = sum(used) if used else None
    return {
        "sent_per_s": sent / seconds,
        "acked_per_s": acked / seconds,
        "deliveries_per_s": delivered / seconds,
        "deliveries_per_server_cpu_s": _each(delivered, server),
        "deliveries_per_process_cpu_s": _each(delivered, process),
        "acked_per_server_cpu_s": _each(acked, server),
        "process_us_per_delivery": _each((process or 0) * 1e6, delivered) if used else None,
        "generator_us_per_delivery": _each(sum(sample.cpu for sample in found) * 1e6, delivered),
        "commit_batch_mean": batch,
        "server_cpu_share": _each(server, seconds),
        "process_cpu_share": _each(process, seconds),
        "postgres_cpu_share": _each(postgres, seconds),
        "redis_cpu_share": _each(redis, seconds),
        "generator_cpu_share": max(series.shares()),
        "generator_waited_share": max(series.waited()),
        "seconds": seconds,
    }


def added(counts: Iterable[dict[int, int]]) -> dict[int, int]:
    """All of them in one."""
    whole: Counter[int] = Counter()
    for each in counts:
        whole.update(each)
    return whole


def _share(seconds: Iterable[float], samples: Sequence[Sample]) -> float:
    return sum(seconds) * 1e6 / (samples[-1].at - samples[0].at)


def _ms(us: int | None) -> float | None:
    return None if us is None else us / 1000


def _each(amount: float | None, of: float | None) -> float | None:
    return amount / of if of and amount is not None else None
