import asyncio
import time
from contextlib import suppress

import pytest

from gateway import metrics as module
from gateway.metrics import Metrics


def _value(metrics: Metrics, sample: str) -> float:
    lines = metrics.render().decode().splitlines()
    return float(next(line for line in lines if line.startswith(f"{sample} ")).rpartition(" ")[2])


def test_counts() -> None:
    """Every event that is told shows up under its labels."""
    metrics = Metrics()
    metrics.command("SendMessage", "ok")
    metrics.command("SendMessage", "ok")
    metrics.command("SendMessage", "MESSAGE_TOO_LONG")
    metrics.delivered(1000)
    metrics.dropped("lagging", 3)
    metrics.resumed("resumed")
    metrics.sync("complete")
    assert _value(metrics, 'parley_commands_total{kind="SendMessage",outcome="ok"}') == 2
    assert _value(metrics, 'parley_commands_total{kind="SendMessage",outcome="MESSAGE_TOO_LONG"}') == 1
    assert _value(metrics, "parley_deliveries_total") == 1000
    assert _value(metrics, 'parley_outbox_drops_total{why="lagging"}') == 3
    assert _value(metrics, 'parley_resumes_total{verdict="resumed"}') == 1
    assert _value(metrics, 'parley_syncs_total{verdict="complete"}') == 1


def test_a_counter_says_since_when_it_counts() -> None:
    """That is before the first command, whenever the metrics are read."""
    metrics = Metrics()
    metrics.command("SendMessage", "ok")
    counted = time.time()
    metrics.command("SendMessage", "ok")
    assert _value(metrics, 'parley_commands_created{kind="SendMessage",outcome="ok"}') <= counted
    assert _value(metrics, 'parley_commands_total{kind="SendMessage",outcome="ok"}') == 2


def test_times() -> None:
    """Commits and requests are counted into buckets of seconds, batches into buckets of events."""
    metrics = Metrics()
    metrics.committed(200, 0.004)
    metrics.request("/users/me", "GET", 200, 0.02)
    assert _value(metrics, 'parley_commit_batch_size_bucket{le="128.0"}') == 0
    assert _value(metrics, 'parley_commit_batch_size_bucket{le="256.0"}') == 1
    assert _value(metrics, 'parley_commit_seconds_bucket{le="0.005"}') == 1
    assert _value(metrics, 'parley_http_request_seconds_count{method="GET",route="/users/me",status="200"}') == 1


def test_sessions_are_asked_for() -> None:
    """The number of sessions is what it is at the moment of reading."""
    metrics, attached = Metrics(), [1]
    metrics.watch_sessions(lambda: len(attached), lambda: 7)
    attached.append(2)
    assert _value(metrics, 'parley_sessions{state="attached"}') == 2
    assert _value(metrics, 'parley_sessions{state="detached"}') == 7


def test_no_registry_is_shared() -> None:
    """Two servers in one process count apart."""
    first, second = Metrics(), Metrics()
    first.delivered(1)
    assert _value(second, "parley_deliveries_total") == 0


async def test_loop_lag(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loop that was held up shows it."""
    monkeypatch.setattr(module, "LAG_INTERVAL", 0.0)
    metrics = Metrics()
    watch = asyncio.create_task(metrics.watch_loop())
    await asyncio.sleep(0.01)
    watch.cancel()
    with suppress(asyncio.CancelledError):
        await watch
    assert _value(metrics, "parley_loop_lag_seconds_count") >= 1


async def test_tasks() -> None:
    """The tasks that there are at the moment of reading: this test, the watch, and what else was begun."""
    metrics = Metrics()
    watch = asyncio.create_task(metrics.watch_loop())
    await asyncio.sleep(0)
    before = _value(metrics, "parley_tasks")
    others = [asyncio.create_task(asyncio.sleep(60)) for _ in range(3)]
    assert before == len(asyncio.all_tasks()) - 3
    assert _value(metrics, "parley_tasks") == before + 3
    for task in (watch, *others):
        task.cancel()
    await asyncio.gather(watch, *others, return_exceptions=True)
