"""Each scenario, small, against a real server: everything arrives, and the counts add up. Times are not looked at."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench.cli import main
from bench.clock import now_us
from bench.cores import cores, generators_core
from bench.dialect import Scan
from bench.display import Display
from bench.generator import Generator, Plan
from bench.parley import TRANSPORTS, ParleyDialect
from bench.peers.pairs import paired
from bench.results import MemoryAt, Run, read_json
from bench.scenarios import Fanout, Idle, Rooms, Sizes, clear_and_sealed, failed, seating, slope
from bench.series import verdict
from bench.stage import Stage, crewed
from bench.storms import Storm, quantile_ms
from bench.target import Target, TargetError, postmaster_of, target
from tests.bench.running import Running, prepared

SECONDS = 0.3


@pytest.fixture(autouse=True)
def _empty(bench: asyncio.Runner, stage: Stage) -> Iterator[None]:
    """Everyone leaves after each test."""
    yield
    bench.run(stage.leave())


def _delivered(run: Run, receivers: int) -> None:
    counts = run.verdict.counts
    assert run.verdict.clean, run.verdict
    assert counts["sent"] > 0
    assert counts["delivered"] == receivers * counts["sent"]


def test_fanout_counts_every_delivery(bench: asyncio.Runner, stage: Stage) -> None:
    """Each of 60 sessions gets each message once and in order; two of the sessions decode all of theirs."""
    scenario = Fanout(Sizes(60, 4), in_flight=(1, 8), rates=(100.0,), seconds=SECONDS)
    runs = bench.run(prepared(scenario, stage))
    assert [run.title for run in runs] == ["1 in flight", "8 in flight", "100 a second"]
    for run in runs:
        _delivered(run, 60)
        assert run.verdict.counts["fully_read"] == 2 * run.verdict.counts["sent"]
        assert run.latency["ack"].count <= run.verdict.counts["sent"]
        assert [point.t for point in run.series] == [SECONDS]
    assert runs[2].verdict.counts["sent"] == 60  # with the warm-up, which is as long
    assert runs[2].latency["ack"].count == 30
    assert runs[2].latency["delivery"].count == 2 * 30


def test_small_chatrooms_count_every_delivery(bench: asyncio.Runner, stage: Stage) -> None:
    """Each of twelve chatrooms is heard by its four members, in whichever process they are."""
    scenario = Rooms(Sizes(14, 14, rooms=12, members=4), in_flight=(8,), rates=(), seconds=SECONDS)
    [run] = bench.run(prepared(scenario, stage))
    _delivered(run, 4)
    assert run.figures["commit_batch_mean"] >= 1  # type: ignore[operator]


def test_by_turns(bench: asyncio.Runner, running: Target) -> None:
    """Two servers get the same load in each round; each has its runs, and the first is compared with the other."""
    other = Running(running)
    other.name = "other"
    scenario = Rooms(Sizes(4, 4, 2, 2), [2], [], SECONDS)
    runs, about, comparisons = bench.run(paired(scenario, [Running(running), other], 2, 1, Display()))
    assert [(run.server, run.title) for run in runs] == [("parley", "2 in flight"), ("other", "2 in flight")]
    for run in runs:
        _delivered(run, 2)
    assert {(each.of, each.to, each.rounds) for each in comparisons} == {("parley", "other", 2)}
    assert "acked_per_s" in {each.figure for each in comparisons}
    assert all(each.ratio.min <= each.ratio.median <= each.ratio.max for each in comparisons)
    assert set(about) == {"parley", "other"}


def test_seats_in_small_chatrooms() -> None:
    """Every account is in as many chatrooms as any other, and no chatroom has one twice."""
    rooms = seating(Sizes(20, 20, rooms=10, members=4))
    assert all(len(set(room)) == 4 for room in rooms)
    assert set(Counter(account for room in rooms for account in room).values()) == {2}


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_every_transport(running: Target, transport: str) -> None:
    """The same messages arrive over each of them, and are read to the end by one session."""
    server = Running(running, transport)
    await server.start()
    seats = await server.seat(2, [[0, 1]])
    generator = Generator(server.dialect())
    heads = await generator.open(dict(enumerate(seats.credentials)))
    start = now_us()
    end = start + 200_000
    plan = Plan(start, start, end, 500_000, [(seats.rooms[0], [0, 1])], rate=100.0, step=1)
    sent = await generator.run(plan)
    outcome = await generator.settle({room: head + sent[room.decode()] for room, head in heads.items()})
    await generator.leave()
    assert sent == {seats.rooms[0]: 20}
    assert (outcome.lost, outcome.unacked, outcome.repeated, outcome.failures) == (0, 0, 0, {})
    assert (outcome.delivered, outcome.fully_read) == (40, 20)


def test_noise_stands_beside_the_same_load_without(bench: asyncio.Runner, running: Target) -> None:
    """Bots over TCP, clear and then under Noise: what each end's CPU does more is told."""
    scenario = Fanout(Sizes(6, 6), in_flight=(2,), rates=(), seconds=SECONDS)
    runs = bench.run(clear_and_sealed(Running(running, "tcp"), scenario, 1, Display()))
    assert [run.title for run in runs] == ["clear, 2 in flight", "Noise, 2 in flight"]
    for run in runs:
        _delivered(run, 6)
    clear, sealed = (run.figures["generator_us_per_delivery"] for run in runs)
    assert runs[1].figures["generator_us_more_than_clear"] == pytest.approx(sealed - clear)  # type: ignore[operator]
    assert runs[1].figures["seal_256_bytes_us"] > 0  # type: ignore[operator]


class Spoiling(ParleyDialect):
    """Loses or doubles one read's last events."""

    count = -1

    def scan(self, data: bytes) -> Scan:
        """Once."""
        scan = super().scan(data)
        if scan.spans and self.count:
            spans = scan.spans[:-1] if self.count < 0 else [*scan.spans, scan.spans[-1]]
            self.count = 0
            return scan._replace(spans=spans)
        return scan


@pytest.mark.parametrize(("what", "count"), [("lost", -1), ("repeated", 1)])
async def test_a_frame_that_is_dropped_or_doubled_fails_the_run(
    running: Target, monkeypatch: pytest.MonkeyPatch, what: str, count: int
) -> None:
    """One event kept from a receiver, or shown twice, is counted and the run is not clean."""
    monkeypatch.setattr("bench.generator.SETTLE_SECONDS", 0.2)
    server = Running(running)
    await server.start()
    seats = await server.seat(2, [[0, 1]])
    dialect = Spoiling(*server.dialect().made_of)
    dialect.count = count
    generator = Generator(dialect)
    heads = await generator.open(dict(enumerate(seats.credentials)))
    start = now_us()
    plan = Plan(start, start, start + 100_000, 500_000, [(seats.rooms[0], [0, 1])], in_flight=1)
    sent = await generator.run(plan)
    outcome = await generator.settle({room: head + sent[room.decode()] for room, head in heads.items()})
    generator.close()
    found = {name: getattr(outcome, name) for name in ("lost", "repeated", "reordered")}
    assert found == {"lost": 0, "repeated": 0, "reordered": 0, what: 1}
    assert not verdict([outcome], None).clean


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_idle_reads_the_memory_of_the_server(bench: asyncio.Runner, stage: Stage) -> None:
    """Memory is read at growing numbers of sessions, and all of them are still open at the end."""
    [run] = bench.run(prepared(Idle(Sizes(40, 4), steps=(20, 40), seconds=0.1), stage))
    assert run.verdict.clean
    assert [point.sessions for point in run.memory] == [10, 20, 40]
    assert run.figures["sessions"] == stage.sessions == 40
    assert run.figures["pss_after_mib"] > 10  # type: ignore[operator]


def test_storm_counts_who_came_back(bench: asyncio.Runner, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """All 60 sessions that were cut resume, each with the three messages that it missed."""
    monkeypatch.setattr("bench.storms.AWAY", 0.1)
    [run] = bench.run(prepared(Storm(60, 4, missed=3, window=SECONDS), stage))
    assert run.verdict.clean, run.verdict
    assert run.verdict.counts == {"resumed": 60, "sessions": 60, "turned_away": 0, "reset": 0}
    assert run.figures["loop_lag_p99_ms"] is not None
    assert run.latency["back_after"].count == run.latency["caught_up_after"].count == 60
    back, caught_up = run.figures["until_all_are_back_s"], run.figures["until_all_have_caught_up_s"]
    assert 0 < back <= caught_up  # type: ignore[operator]
    assert run.latency["others_wait"].count > 0


async def _boast(generator: Generator, by: int) -> None:
    for session in generator.sessions.values():
        session.delivered += by


def test_sessions_that_do_not_come_back_whole_fail_the_storm(
    bench: asyncio.Runner, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that claims to have had more than was sent gets a new session, and the run is not clean."""
    monkeypatch.setattr("bench.storms.AWAY", 0.1)

    async def boasting() -> list[Run]:
        storm = Storm(4, 4, missed=1, window=0.1)
        await storm.prepare(stage)
        await stage.crew.all(_boast, 5)
        return await storm.runs(stage)

    [run] = bench.run(boasting())
    assert run.verdict.failures == {"received_too_high": 4}
    assert (run.verdict.counts["reset"], run.verdict.clean) == (4, False)


def test_what_a_session_lacks_afterwards_is_lost(
    bench: asyncio.Runner, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who resumes one event too late lacks it, whatever the server calls that."""
    monkeypatch.setattr("bench.storms.AWAY", 0.1)

    async def boasting() -> list[Run]:
        storm = Storm(4, 4, missed=3, window=0.1)
        await storm.prepare(stage)
        await stage.crew.all(_boast, 1)
        return await storm.runs(stage)

    [run] = bench.run(boasting())
    assert (run.verdict.counts["resumed"], run.verdict.lost, run.verdict.clean) == (4, 4, False)


# --- the processes -------------------------------------------------------------------------------


async def _raise(generator: Generator) -> None:
    raise ValueError(generator.index)


async def _end(generator: Generator) -> None:
    os._exit(1)


def test_what_goes_wrong_in_a_process_is_told(bench: asyncio.Runner, stage: Stage) -> None:
    """With the place where it happened; the process goes on."""
    for _ in range(2):
        with pytest.raises(TargetError, match="in _raise"):
            bench.run(stage.crew.one(1, _raise))


def test_a_process_that_ends_ends_the_run(bench: asyncio.Runner, stage: Stage) -> None:
    """Whoever waits for it does not wait for ever, and the others are stopped with it."""

    async def ended() -> None:
        async with crewed(stage.deployment, stage.deployment.dialect(), 2, Display()) as other:
            with pytest.raises(TargetError, match="has ended"):
                await other.crew.all(_end)
            with pytest.raises(TargetError, match="has ended"):
                await other.crew.all(failed)

    bench.run(ended())


def test_the_command(running: Target, tmp_path: Path) -> None:
    """It measures the server at a URL, prints a table, and writes what was asked for."""
    files = {"--json": tmp_path / "out.json", "--report": tmp_path / "out.html"}
    arguments = [*("fanout", "--connections", "20", "--users", "2", "--rate", "50", "--duration", "0.2")]
    arguments += ["--url", running.url, *(str(item) for pair in files.items() for item in pair)]
    result = CliRunner().invoke(main, arguments)
    report = read_json(files["--json"])
    assert result.exit_code == (3 if report.void else 0), result.output
    assert report.clean
    assert "50 a second" in result.stdout
    [run] = report.runs
    assert run.verdict.counts["sent"] == 20
    assert report.options["rates"] == [50.0]
    assert report.environment["servers"]["parley"]["transport"] == "ws"
    assert "<svg" in files["--report"].read_text()


def test_no_server() -> None:
    """It says in words why there is nothing to measure."""
    result = CliRunner().invoke(main, ["rooms", "--url", "http://127.0.0.1:1"])
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].startswith("Error: ")


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
    assert slope([MemoryAt(count, 4_000 + 10 * count, 0) for count in (100, 200, 300)]) == 10.0
    assert slope([]) is None


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A directory whose path leaves room for a socket's; one that is too long would put the socket elsewhere."""
    with tempfile.TemporaryDirectory(prefix="parley-") as directory:
        yield Path(directory)


@pytest.mark.skipif(len(cores()) < 2, reason="needs two cores")
def test_servers_and_generators_have_cores_of_their_own(bench: asyncio.Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server runs on the first core, also one that starts while another one runs; generators have the others."""
    first, *others = cores()
    started: list[list[int]] = []

    def launch(data: Path, workers: int) -> subprocess.Popen[bytes]:
        started.append(cores())
        (data / "parley.log").write_text("HTTP  http://127.0.0.1:1")
        return subprocess.Popen(["sleep", "60"])

    async def two() -> None:
        async with target(None, apart=True), target(None, apart=True):
            with generators_core():
                assert cores() == others

    monkeypatch.setattr("bench.target._launch", launch)
    bench.run(two())
    assert started == [[first], [first]]
    assert cores() == [first, *others]


def test_an_interrupted_run_stops_what_it_started(short_path: Path) -> None:
    """Ctrl-C at the first moment at which something could be left: server, database and data are gone afterwards."""
    env = {**os.environ, "TMPDIR": str(short_path)}
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background may not hear it
    with subprocess.Popen([sys.executable, "-m", "bench", "fanout"], env=env, stderr=subprocess.DEVNULL) as run:
        signal.signal(signal.SIGINT, before)
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
