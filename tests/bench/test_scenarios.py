"""Each scenario, small, against a real server: everything arrives, and the counts add up. Times are not looked at."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from bench import scenarios, storms
from bench.frames import Scan, Scanner
from bench.report import Result, quantile_ms, table
from bench.scenarios import Options, slope
from bench.target import Target, postmaster_of
from bench.usage import Memory
from protocol.commands import Resume

CLEAN = {"unacked": 0, "lost": 0, "repeated": 0, "reordered": 0, "failures": {}}


@pytest.fixture(autouse=True)
def _server(running: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scenarios use the server that is there."""

    @asynccontextmanager
    async def target(url: str | None, *, apart: bool) -> AsyncIterator[Target]:
        yield running

    monkeypatch.setattr("bench.scenarios.target", target)


def _options(**given: Any) -> Options:
    few = {"connections": 60, "in_flight": (1, 8), "rooms": 3, "users": 4, "duration": 0.3, "codec": "json"}
    return Options(url=None, **{**few, **given})


def _wrong(result: Result) -> dict[str, Any]:
    return {name: result.checks[name] for name in CLEAN}


@pytest.mark.parametrize("codec", ["json", "msgpack"])
async def test_fanout_counts_every_delivery(codec: str) -> None:
    """Each of 60 sessions gets each message once and in order; two of the sessions decode all of theirs."""
    results = await scenarios.fanout(_options(codec=codec))
    for result in results:
        assert _wrong(result) == CLEAN
        assert result.clean
        assert result.checks["sent"] > 0
        assert result.checks["delivered"] == 60 * result.checks["sent"]
        assert result.checks["fully_read"] == 2 * result.checks["sent"]
    assert "lost" in table("fanout", results)


async def test_tcp_counts_every_delivery() -> None:
    """Each of 60 bots gets each message once and in order, without Noise and with it; the second stands beside."""
    results = await scenarios.tcp(_options(users=1, in_flight=(4,)))
    assert [result.title for result in results] == ["clear, 4 in flight", "Noise, 4 in flight"]
    for result in results:
        assert _wrong(result) == CLEAN
        assert result.checks["delivered"] == 60 * result.checks["sent"] > 0
        assert result.checks["fully_read"] == 2 * result.checks["sent"]
    clear, sealed = (result.figures["parley_us_per_delivery"] for result in results)
    assert results[1].figures["parley_us_more_than_clear"] == pytest.approx(sealed - clear)  # type: ignore[operator]
    assert "seal 256 bytes us" in table("tcp", results)


async def test_durable_counts_every_ack() -> None:
    """Each message is acked once, and both members of its chatroom get it."""
    [result] = await scenarios.durable(_options(users=6, in_flight=(8,)))
    assert _wrong(result) == CLEAN
    assert result.checks["delivered"] == 2 * result.checks["sent"] > 0
    assert result.figures["commit_batch_mean"] >= 1  # type: ignore[operator]


@pytest.mark.parametrize(("what", "count"), [("lost", -1), ("repeated", 1)])
async def test_a_frame_that_is_dropped_or_doubled_fails_the_run(
    monkeypatch: pytest.MonkeyPatch, what: str, count: int
) -> None:
    """One event kept from a receiver, or shown twice, is counted and the run is not clean."""
    monkeypatch.setattr("bench.load.SETTLE_SECONDS", 0.2)
    spoiled: list[bool] = []

    class Spoiling(Scanner):
        def scan(self, data: bytes) -> Scan:
            scan = super().scan(data)
            if scan.runs and not spoiled:
                spoiled.append(True)
                return scan._replace(runs=scan.runs[:-1] if count < 0 else [*scan.runs, scan.runs[-1]])
            return scan

    monkeypatch.setattr("bench.session.Scanner", Spoiling)
    [result] = await scenarios.durable(_options(users=6, in_flight=(2,)))
    assert _wrong(result) == {**CLEAN, what: 1, "failures": result.checks["failures"]}
    assert not result.clean
    assert "FAILED" in table("durable", [result])


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
async def test_idle_reads_the_memory_of_the_server() -> None:
    """Memory is read at growing numbers of sessions, and all of them are still open at the end."""
    [result] = await scenarios.idle(_options(connections=100, duration=0.1))
    assert result.clean
    assert list(result.checks["pss_by_sessions"]) == [50, 60, 70, 80, 90, 100]
    assert result.figures["sessions"] == 100
    assert result.figures["pss_after_mib"] > 10  # type: ignore[operator]
    assert "bytes per session" in table("idle", [result])


async def test_storm_counts_who_came_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """All 60 sessions that were cut resume, each with the one message that it missed."""
    monkeypatch.setattr("bench.storms.AWAY", 0.1)
    [result] = await storms.storm(_options())
    assert result.clean, result.checks
    assert result.checks["verdicts"] == {"resumed": 60}
    assert (result.checks["lost"], result.checks["repeated"], result.checks["reordered"]) == (0, 0, 0)
    assert result.figures["loop_lag_p99_ms"] is not None
    assert result.figures["others_wait_max_ms"] > 0  # type: ignore[operator]
    assert "turned away" in table("storm", [result])


async def test_sessions_that_do_not_come_back_whole_fail_the_storm(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that claims to have had more than was sent gets a new session, and the run is not clean."""
    monkeypatch.setattr("bench.storms.AWAY", 0.1)

    def boast(received: int, **given: Any) -> Resume:
        return Resume(received=received + 5, **given)

    monkeypatch.setattr("bench.storms.Resume", boast)
    [result] = await storms.storm(_options(connections=3))
    assert result.checks["verdicts"] == {"received_too_high": 3}
    assert (result.checks["reset"], result.clean) == (3, False)


def test_percentiles_of_a_histogram() -> None:
    """Between two bounds they are estimated on a line, as Prometheus does."""
    before = {0.1: 10.0, 0.5: 10.0, math.inf: 10.0}
    after = {0.1: 60.0, 0.5: 110.0, math.inf: 110.0}
    assert quantile_ms(before, after, 0.5) == pytest.approx(100)
    assert quantile_ms(before, after, 0.75) == pytest.approx(300)
    assert quantile_ms(after, after, 0.5) is None
    assert quantile_ms({}, {0.1: 0.0, math.inf: 4.0}, 0.99) == pytest.approx(100)


def test_memory_per_session_is_the_slope() -> None:
    """What the first session costs besides, such as code that is loaded once, does not count."""
    assert slope([(100, Memory(0, 5_000)), (200, Memory(0, 6_000)), (300, Memory(0, 7_000))]) == 10.0
    assert slope([]) is None


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A directory whose path leaves room for a socket's; one that is too long would put the socket elsewhere."""
    with tempfile.TemporaryDirectory(prefix="parley-") as directory:
        yield Path(directory)


def test_an_interrupted_run_stops_what_it_started(short_path: Path) -> None:
    """Ctrl-C at the first moment at which something could be left: server, database and data are gone afterwards."""
    env = {**os.environ, "TMPDIR": str(short_path)}
    with subprocess.Popen([sys.executable, "-m", "bench", "fanout"], env=env, stderr=subprocess.DEVNULL) as run:
        deadline = time.monotonic() + 60
        while not (running := [pid for data in short_path.iterdir() if (pid := postmaster_of(data))]):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        run.send_signal(signal.SIGINT)
        assert run.wait(60) == 1
    assert list(short_path.iterdir()) == []
    while Path(f"/proc/{running[0]}").exists():  # a process removes its pid file a moment before it ends
        assert time.monotonic() < deadline
        time.sleep(0.02)
