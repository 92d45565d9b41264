"""When the next message goes, and what is judged at the end."""

from __future__ import annotations

from collections import Counter

import pytest

from bench.load import Load, UntilHeard, Verdict, Window, with_batch
from bench.report import loaded, percentile


def test_a_slot_is_free_when_the_ack_is_there() -> None:
    """So many messages are under way, never more, and each ack lets the next one go."""
    sent: list[int] = []
    load = Load(sent.append, 2, first=10)
    load.start()
    assert sent == [10, 11]
    load.acked([11])
    assert sent == [10, 11, 12]
    load.stop()
    load.acked([10, 12])
    assert (sent, load.acks) == ([10, 11, 12], 3)


def test_a_second_ack_is_a_failure() -> None:
    """It is counted as such, and not as another message."""
    load = Load(lambda _: None, 1, 0)
    load.start()
    load.acked([0])
    load.acked([0])
    assert (load.acks, sum(load.failures.values())) == (1, 1)


def test_latency_runs_from_the_moment_the_slot_was_free() -> None:
    """Time is taken once for the ack and for the message that follows it."""
    times = iter([1.0, 3.0, 7.0])
    load = Load(lambda _: None, 1, 0, clock=lambda: next(times))
    load.start()
    load.acked([0])
    load.acked([1])
    assert list(load.latencies) == [2.0, 4.0]


def test_the_slowest_receiver_holds_the_next_message() -> None:
    """With one in flight, the ack and the last receiver have to be there, in whichever order they come."""
    sent: list[int] = []
    load = UntilHeard(sent.append, 1, first=0, heads=[5, 5, 5])
    load.start()
    load.heard(5, 6)
    load.acked([0])
    load.heard(5, 6)
    assert sent == [0]
    load.heard(5, 6)
    assert sent == [0, 1]
    for _ in range(3):
        load.heard(6, 7)
    assert sent == [0, 1]
    load.acked([1])
    assert sent == [0, 1, 2]


def test_receivers_may_take_several_at_once() -> None:
    """A receiver that jumps ahead does not let messages go that another still waits for."""
    sent: list[int] = []
    load = UntilHeard(sent.append, 3, first=0, heads=[0, 0])
    load.start()
    load.acked([0, 1, 2])
    load.heard(0, 3)
    assert len(sent) == 3
    load.heard(0, 2)
    assert len(sent) == 5
    load.heard(2, 3)
    assert len(sent) == 6


def _window(own_cpu: float) -> Window:
    return Window(2.0, 10, 10, 100, [0.001, 0.002], None, own_cpu, [0.0], None)


def _verdict(**wrong: int) -> Verdict:
    counts = Counter(sent=10, unacked=0, delivered=100, fully_read=2, lost=0, repeated=0, reordered=0)
    return Verdict(**{**counts, **wrong}, failures={})


@pytest.mark.parametrize("what", ["unacked", "lost", "repeated", "reordered"])
def test_one_thing_wrong_fails_the_run(what: str) -> None:
    """A single message that is missing, doubled or late is enough."""
    assert loaded(_window(0.5), _verdict()).clean
    assert not loaded(_window(0.5), _verdict(**{what: 1})).clean


def test_a_busy_generator_voids_the_run() -> None:
    """Above nine tenths of its core it measures itself, and the report says so."""
    assert not loaded(_window(0.9), _verdict()).warnings
    [warning] = loaded(_window(0.91), _verdict()).warnings
    assert warning.startswith("VOID")


def test_percentiles() -> None:
    """The smallest value that so many do not exceed."""
    values = [float(value) for value in range(100, 0, -1)]
    assert [percentile(values, share) for share in (0.01, 0.5, 0.99, 1.0)] == [1.0, 50.0, 99.0, 100.0]
    assert percentile([3.0], 0.99) == 3.0
    assert percentile([], 0.5) is None


def test_the_mean_batch_is_that_of_the_window() -> None:
    """Commits before the first reading do not count."""
    before = {"parley_commit_batch_size_sum": 10.0, "parley_commit_batch_size_count": 10.0}
    after = {"parley_commit_batch_size_sum": 70.0, "parley_commit_batch_size_count": 12.0}
    assert with_batch(_window(0.1), before, after).batch == 30.0
    assert with_batch(_window(0.1), {}, {}).batch is None
