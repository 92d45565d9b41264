"""When the next message goes, and what is judged at the end."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from typing import Any, cast

import pytest

from bench.clock import Alarm, now_us
from bench.display import Display
from bench.generator import Outcome, Plan, Sample
from bench.load import Buckets, Closed, Listening, Load, Lowest, Paced, UntilHeard, Window
from bench.results import distributions, together
from bench.series import Series, judged, verdict
from bench.stage import batch
from bench.validity import percentile, reasons

ALWAYS = Window(0, 10**9)


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        """The time."""
        return self.now


class Sent:
    """What went, as (number, stamp)."""

    def __init__(self) -> None:
        self.all: list[tuple[int, int]] = []

    def __call__(self, number: int, stamp: int) -> None:
        """One more."""
        self.all.append((number, stamp))

    @property
    def numbers(self) -> list[int]:
        """Which messages."""
        return [number for number, _ in self.all]


# --- closed ------------------------------------------------------------------------------------


def test_a_slot_is_free_when_the_ack_is_there() -> None:
    """So many messages are under way, never more, and each ack lets the next one go."""
    sent = Sent()
    load = Closed(sent, 10, ALWAYS, 2)
    load.start()
    assert sent.numbers == [10, 11]
    load.acked([11])
    assert sent.numbers == [10, 11, 12]
    load.stop()
    load.acked([10, 12])
    assert (sent.numbers, load.acks) == ([10, 11, 12], 3)


def test_a_second_ack_is_a_failure() -> None:
    """It is counted as such, and not as another message."""
    load = Closed(Sent(), 0, ALWAYS, 1)
    load.start()
    load.acked([0])
    load.acked([0])
    assert (load.acks, sum(load.failures.values())) == (1, 1)


def test_latency_runs_from_the_moment_the_slot_was_free() -> None:
    """With one in flight that is the ack before."""
    clock = Clock()
    load = Closed(Sent(), 0, ALWAYS, 1, clock)
    load.start()
    for clock.now in (2000, 4500):
        load.acked([load.acks])
    assert sorted(load.ack) == [2000, 2500]


def test_the_slowest_receiver_holds_the_next_message() -> None:
    """With one in flight, the ack and the last receiver have to be there, in whichever order they come."""
    sent = Sent()
    load = UntilHeard(sent, 0, ALWAYS, 1, heads=[5, 5, 5])
    load.start()
    load.heard(5, 6)
    load.acked([0])
    load.heard(5, 6)
    assert sent.numbers == [0]
    load.heard(5, 6)
    assert sent.numbers == [0, 1]
    for _ in range(3):
        load.heard(6, 7)
    assert sent.numbers == [0, 1]
    load.acked([1])
    assert sent.numbers == [0, 1, 2]


def test_receivers_may_take_several_at_once() -> None:
    """A receiver that jumps ahead does not let messages go that another still waits for."""
    sent = Sent()
    load = UntilHeard(sent, 0, ALWAYS, 3, heads=[0, 0])
    load.start()
    load.acked([0, 1, 2])
    load.heard(0, 3)
    assert len(sent.all) == 3
    load.heard(0, 2)
    assert len(sent.all) == 5
    load.heard(2, 3)
    assert len(sent.all) == 6


def test_another_process_tells_how_far_its_slowest_is() -> None:
    """Each time that one has moved on, and only then."""
    told: list[int] = []
    load = Listening(ALWAYS, [3, 3], told.append)
    load.heard(3, 5)
    assert told == []
    load.heard(3, 4)
    load.heard(4, 5)
    assert told == [4, 5]
    assert Lowest([7, 3]).seq == 3


# --- open --------------------------------------------------------------------------------------


def test_messages_go_when_they_are_due_whatever_became_of_those_before() -> None:
    """A generator that comes late sends all that was due, with the time at which each should have gone."""
    clock, sent = Clock(), Sent()
    load = Paced(sent, 0, ALWAYS, 1000.0, start=500, clock=clock)
    load.go()
    assert sent.all == []
    clock.now = 500
    load.go()
    assert sent.all == [(0, 500)]
    clock.now = 3600
    load.go()
    assert sent.all == [(0, 500), (1, 1500), (2, 2500), (3, 3500)]


def test_latency_runs_from_the_moment_a_message_was_due() -> None:
    """A backlog counts: the message that went late has waited since it was due."""
    clock = Clock()
    load = Paced(Sent(), 0, ALWAYS, 1000.0, start=0, clock=clock)
    clock.now = 1500
    load.go()
    clock.now = 1900
    load.acked([0, 1])
    assert sorted(load.ack) == [900, 1900]


def test_processes_share_a_schedule() -> None:
    """Together they send what one alone would."""
    clock = Clock()
    clock.now = 9_999
    shares = [Sent() for _ in range(3)]
    for offset, sent in enumerate(shares):
        Paced(sent, 0, ALWAYS, 1000.0, start=0, offset=offset, step=3, clock=clock).go()
    assert sorted(stamp for sent in shares for _, stamp in sent.all) == list(range(0, 10_000, 1000))


def test_a_message_counts_if_it_was_due_in_the_window() -> None:
    """Not those of the warm-up, however late they are answered; those of the window also after its end."""
    clock = Clock()
    load = Paced(Sent(), 0, Window(1000, 3000), 1000.0, start=0, clock=clock)
    clock.now = 5000
    load.go()
    assert load.sent == 3
    load.acked([0, 1, 2])
    assert sorted(load.ack) == [3000, 4000]
    load.arrived([500, 2999, 3000])
    assert sorted(load.delivery) == [2001]


async def test_the_alarm_rings_at_its_moment() -> None:
    """Never before; a moment that has passed is now; set anew, it rings once."""
    rung: asyncio.Queue[int] = asyncio.Queue()
    alarm = Alarm(lambda: rung.put_nowait(now_us()))
    due = now_us() + 20_000
    alarm.set(now_us() + 10_000_000)
    alarm.set(due)
    assert await rung.get() >= due
    alarm.set(0)
    await rung.get()
    alarm.close()
    assert rung.empty()


# --- what is counted ------------------------------------------------------------------------------


def test_buckets_are_as_exact_as_the_histogram() -> None:
    """Times merged from buckets of two processes are those of all values in one histogram."""
    values = [1, 999, 2047, 2048, 54_321, 54_322, 999_999, 3_000_000_000]
    halves = Buckets(), Buckets()
    for number, value in enumerate(values):
        halves[number % 2].count(value)
    merged = together(distributions(a=halves[0], b=halves[1]).values())
    whole = distributions(a=Counter(values))["a"]
    assert merged is not None
    assert (merged.hdr, merged.count) == (whole.hdr, len(values))
    assert merged.curve == whole.curve
    assert merged.p50_ms == pytest.approx(2.048, rel=0.001)


def test_percentiles() -> None:
    """The smallest value that so many do not exceed."""
    values = Counter(range(1, 101))
    assert [percentile(values, share) for share in (0.01, 0.5, 0.99, 1.0)] == [1, 50, 99, 100]
    assert percentile({3: 7}, 0.99) == 3
    assert percentile(Counter[int](), 0.5) is None


NOTHING = Sample(0, 0, 0, 0, {}, {}, {}, 0.0)


@pytest.mark.parametrize("what", ["unacked", "lost", "repeated", "reordered"])
def test_one_thing_wrong_fails_the_run(what: str) -> None:
    """A single message that is missing, doubled or late, in any process, is enough."""
    good = Outcome(NOTHING, 10, 0, 100, 2, 0, 0, 0)
    assert verdict([good, good], None).clean
    wrong: dict[str, Any] = {what: 1}
    assert not verdict([good, replace(good, **wrong)], None).clean
    assert not verdict([good, replace(good, failures={"closed": 1})], None).clean


def test_a_busy_generator_voids_the_run() -> None:
    """Above seven tenths of its core, or with timers a millisecond late, it measures itself; one process is enough."""
    assert reasons([0.1, 0.7], [{1000: 99, 5000: 1}, {}]) is None
    assert reasons([0.1, 0.71], [{}, {}]) == ["generator 1 used 71% of its core"]
    assert reasons([0.1, 0.1], [{1000: 98, 5000: 2}, {}]) == ["generator 0 was 5.0 ms late (p99)"]
    assert reasons([0.1, 0.1], [{1000: 98, 5000: 2}, {}], late_us=5000) is None
    late = {5000: 1}
    assert reasons([0.1, 0.1], [late, late], waited=[0.01, 0.04]) == [
        "generator 0 was 5.0 ms late (p99)",
        "generator 1 was 5.0 ms late (p99), and others had its core for 4% of the time",
    ]


def test_what_counts_may_come_with_the_sample_of_the_warm_up() -> None:
    """That sample is taken a little late, and has answers already to messages that were due in the window."""
    series = Series(cast("Any", None), Display(), Plan(0, 0, 10, 10, writers=[]), processes=1)
    series.usage = [None, None]
    series.add(0, NOTHING._replace(at=2, ack={1: 1}, delivery={2: 3}, lag={5000: 1}))
    series.add(0, NOTHING._replace(at=10, ack={4: 1}, delivery={5: 3}))
    run = judged(series, [Outcome(NOTHING._replace(ack={6: 1}), 3, 0, 6, 0, 0, 0, 0)], None)
    assert {kind: latency.count for kind, latency in run.latency.items()} == {"ack": 3, "delivery": 6}
    assert run.verdict.void is None


def test_the_mean_batch_is_that_of_the_load() -> None:
    """Commits before the first reading do not count."""
    before = {"parley_commit_batch_size_sum": 10.0, "parley_commit_batch_size_count": 10.0}
    after = {"parley_commit_batch_size_sum": 70.0, "parley_commit_batch_size_count": 12.0}
    assert batch(before, after) == 30.0
    assert batch({}, {}) is None


def test_nothing_is_counted_of_an_idle_load() -> None:
    """Between two loads only failures are."""
    load = Load(Sent(), 0, Window(0, 0))
    load.start()
    load.failed("closed")
    load.stop()
    assert (load.sent, load.failures) == (0, {"closed": 1})
