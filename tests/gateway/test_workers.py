from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from pathlib import Path

import pytest

from gateway import ports, workers
from gateway.config import Config, ConfigError
from gateway.ports import Ports
from gateway.worker import Worker, WorkerRefusedError
from gateway.worker_metrics import merged, metrics_of_all
from gateway.workers import Workers, check_connections

SCRIPT = """
import os, signal, sys, time
_, number, count, directory = sys.argv[1:]
here = os.path.join(directory, number)
def note(what):
    with open(here, "a") as file:
        print(what, file=file)
def listen():
    os.write(0, b"!")
signal.signal(signal.SIGTERM, lambda *_: (note("term"), sys.exit()))
note("start")
BEHAVIOUR
while os.read(0, 1):
    pass
note("orphan")
"""
"""A worker that writes down what happens to it."""

HEARS_HANGUP = """
while not os.path.exists(here + ".go"):
    time.sleep(0.01)
signal.signal(signal.SIGHUP, lambda *_: note("hangup"))
listen()
"""


def _program(behaviour: str) -> list[str]:
    return [sys.executable, "-c", SCRIPT.replace("BEHAVIOUR", behaviour)]


def _notes(directory: Path, number: int) -> list[str]:
    path = directory / str(number)
    return path.read_text().split() if path.exists() else []


async def _until(directory: Path, number: int, *notes: str) -> None:
    async with asyncio.timeout(60):
        while _notes(directory, number) != list(notes):
            await asyncio.sleep(0.01)


async def test_stop_reaches_all(tmp_path: Path) -> None:
    """All workers are started, told to stop, and waited for; `listening` is called once."""
    stop, listening = asyncio.Event(), asyncio.Event()
    running = asyncio.create_task(Workers(_program("listen()"), os.environ, 3, tmp_path, stop).run(listening.set))
    for number in range(3):
        await _until(tmp_path, number, "start")
    assert listening.is_set()
    stop.set()
    await asyncio.wait_for(running, 60)
    assert [_notes(tmp_path, number) for number in range(3)] == [["start", "term"]] * 3


async def test_the_first_goes_ahead(tmp_path: Path) -> None:
    """While the first one does not listen no other is started; if it ends instead, its status is everyone's."""
    refusing = Workers(_program("sys.exit(2)"), os.environ, 2, tmp_path, asyncio.Event())
    with pytest.raises(WorkerRefusedError) as refused:
        await asyncio.wait_for(refusing.run(pytest.fail), 60)
    assert refused.value.status == 2
    assert _notes(tmp_path, 1) == []


async def test_stop_before_the_first_listens(tmp_path: Path) -> None:
    """A stop that comes while the first one starts is no refusal."""
    stop = asyncio.Event()
    running = asyncio.create_task(Workers(_program(""), os.environ, 2, tmp_path, stop).run(pytest.fail))
    await _until(tmp_path, 0, "start")
    stop.set()
    await asyncio.wait_for(running, 60)
    assert _notes(tmp_path, 1) == []


async def test_one_that_ends_again_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A worker that ends at once is started again after longer and longer waits, up to a bound; the others go on."""
    monkeypatch.setattr(workers, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(workers, "LONGEST_WAIT", 0.03)
    stop = asyncio.Event()
    behaviour = "listen() if number == '0' else sys.exit(3)"
    running = asyncio.create_task(Workers(_program(behaviour), os.environ, 2, tmp_path, stop).run(lambda: None))
    async with asyncio.timeout(60):
        while len(_notes(tmp_path, 1)) < 5:
            await asyncio.sleep(0.01)
    stop.set()
    await asyncio.wait_for(running, 60)
    ends = [vars(record) for record in caplog.records if record.levelno == logging.ERROR]
    assert [(end["worker"], end["status"], end["wait"]) for end in ends[:4]] == [
        (1, 3, wait) for wait in (0.01, 0.02, 0.03, 0.03)
    ]
    assert _notes(tmp_path, 0) == ["start", "term"]


async def test_hangup_waits_for_those_that_start(tmp_path: Path) -> None:
    """SIGHUP is handed on; a worker that cannot take it yet gets it as soon as it can, and is not ended by it."""
    stop = asyncio.Event()
    (tmp_path / "0.go").touch()
    running = asyncio.create_task(Workers(_program(HEARS_HANGUP), os.environ, 2, tmp_path, stop).run(lambda: None))
    await _until(tmp_path, 1, "start")
    os.kill(os.getpid(), signal.SIGHUP)
    await _until(tmp_path, 0, "start", "hangup")
    (tmp_path / "1.go").touch()
    await _until(tmp_path, 1, "start", "hangup")
    stop.set()
    await asyncio.wait_for(running, 60)


def test_too_many_connections() -> None:
    """Workers that could want more connections than Parley's own PostgreSQL has are refused, with what would fit."""
    check_connections(Config(), 9)
    check_connections(Config(database_url="postgresql://elsewhere"), 90)
    with pytest.raises(ConfigError, match=r"PARLEY_DATABASE_POOL is 10: .* 100 connections.*Set it to 9"):
        check_connections(Config(), 10)


async def test_what_is_set_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, valkey_url: str) -> None:
    """Databases that are named are used, and nothing is started; a secret in a file stays there."""
    for name, url in (("DATABASE_URL", "postgresql://elsewhere"), ("REDIS_URL", valkey_url)):
        (tmp_path / name).write_text(url)
        monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv(f"{name}_FILE", str(tmp_path / name))
    data = tmp_path / "data"
    monkeypatch.setenv("PARLEY_DATA", str(data))
    monkeypatch.setenv("PARLEY_HTTP", "127.0.0.1:0")
    monkeypatch.setenv("PARLEY_TCP", "off")
    async with workers._environment(Config.from_env()) as (env, _):
        given = Config.from_env(env)
    assert (given.database_url, given.redis_url) == ("postgresql://elsewhere", valkey_url)
    assert "DATABASE_URL" not in env
    assert "REDIS_URL" not in env
    assert not data.exists()


class TestPorts:
    async def test_a_free_one(self) -> None:
        """Port 0 takes a free one, the same for all workers, and says which."""
        async with Ports.taken(Config(http="127.0.0.1:0", tcp="127.0.0.1:0")) as taken:
            assert taken.environment() == {
                "PARLEY_HTTP": f"127.0.0.1:{taken.http[1]}",
                "PARLEY_TCP": f"127.0.0.1:{taken.tcp}",
            }
            assert 0 not in (taken.http[1], taken.tcp)

    async def test_without_tcp(self) -> None:
        """Where there is no TCP, nothing is said of it."""
        async with Ports.taken(Config(http="127.0.0.1:0", tcp="off")) as taken:
            assert list(taken.environment()) == ["PARLEY_HTTP"]

    async def test_workers_may_listen(self) -> None:
        """Those who say so listen there, and get the connections; nobody else can take the port."""
        async with Ports.taken(Config(http="127.0.0.1:0", tcp="off")) as taken:
            met = asyncio.Event()

            def meet(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                writer.close()
                met.set()

            worker = await asyncio.start_server(meet, *taken.http, reuse_port=True)
            _, writer = await asyncio.open_connection(*taken.http)
            await asyncio.wait_for(met.wait(), 20)
            writer.close()
            await writer.wait_closed()
            with pytest.raises(OSError, match="in use"):
                await asyncio.start_server(lambda *_: None, *taken.http)
            worker.close()

    async def test_taken_by_other_workers(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A port that others share already is taken, though the system would allow it."""
        monkeypatch.setattr(ports, "PATIENCE", 0.05)
        other = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0, reuse_port=True)
        address = f"127.0.0.1:{other.sockets[0].getsockname()[1]}"
        with pytest.raises(ConfigError, match=f"PARLEY_TCP is {address}, where Parley cannot listen"):
            async with Ports.taken(Config(http="127.0.0.1:0", tcp=address)):
                pytest.fail("it is not free")
        other.close()


class TestMetrics:
    def test_merged(self) -> None:
        """Each family stands once, with the samples of all workers, each labelled with its worker."""
        first = b'# HELP a One\n# TYPE a counter\na{x="{ 1"} 1.0\n# HELP b Two\n# TYPE b gauge\nb 2.0\n'
        second = b"# HELP b Two\n# TYPE b gauge\nb 3.0\n# HELP c Three\n# TYPE c gauge\nc 4.0\n"
        assert merged({0: first, 7: second}).decode().splitlines() == [
            "# HELP a One",
            "# TYPE a counter",
            'a{worker="0",x="{ 1"} 1.0',
            "# HELP b Two",
            "# TYPE b gauge",
            'b{worker="0"} 2.0',
            'b{worker="7"} 3.0',
            "# HELP c Three",
            "# TYPE c gauge",
            'c{worker="7"} 4.0',
        ]

    async def test_single_process(self) -> None:
        """Where there are no workers, the text is as it was made."""
        async with metrics_of_all(lambda: b"up 1\n", None) as read:
            assert await read() == b"up 1\n"

    async def test_the_last_orphan_clears_away(self, tmp_path: Path) -> None:
        """When the parent was killed, the directory goes with the last worker; before that it stays."""
        parents, theirs = zip(*(socket.socketpair() for _ in range(2)), strict=True)
        for line in theirs:
            line.setblocking(False)
        first, second = (Worker(n, 2, tmp_path / "run", line) for n, line in enumerate(theirs))
        async with metrics_of_all(lambda: b"up 1\n", first):
            pass
        assert (tmp_path / "run").exists()
        async with metrics_of_all(lambda: b"up 1\n", first) as read:
            async with metrics_of_all(lambda: b"up 1\n", second):
                assert b'up{worker="1"} 1\n' in await read()
            async with metrics_of_all(lambda: b"up 1\n", second):
                for line in parents:
                    line.close()
            assert (tmp_path / "run").exists()
        assert not (tmp_path / "run").exists()
        for line in theirs:
            line.close()
