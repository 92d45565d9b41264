"""`parley bench faults`: a server that keeps its word is found to do so, and one that does not, is not."""

from __future__ import annotations

import random
from pathlib import Path
from uuid import UUID

import pytest
from click.testing import CliRunner, Result

from bench.cli import main
from bench.faults.chaos import FAULTS
from bench.faults.checker import check
from bench.faults.history import Delivery, History
from bench.faults.proxy import Faults, Proxy
from bench.faults.run import Options, faults
from bench.faults.talker import Talker
from bench.target import Target, TargetError
from tests.e2e.certificates import Authority
from tests.e2e.conftest import StartServer
from tests.e2e.conftest import start_server as start_server  # a fixture


def _run(*arguments: str) -> Result:
    few = ("--duration", "3", "--clients", "4", "--rate", "20", "--seed", "7")
    return CliRunner().invoke(main, ["faults", *few, *arguments])


def test_a_good_server(running: Target, tmp_path: Path) -> None:
    """Nothing is wrong, the seed and what was broken are told, and the history is kept where that is asked for."""
    result = _run("--url", running.url.replace("http", "ws") + "/ws", "--history", str(tmp_path / "history"))
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("seed 7\nfaults: ")
    history = History.load(tmp_path / "history")
    assert check(history).acks > 0
    assert len({event.client for event in history.of(Delivery)}) == 4


def test_a_server_that_loses_an_event(running: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """One event that does not reach one client is a violation, and the exit code says so."""
    heard = Talker.heard
    kept: list[int] = []

    def lose(self: Talker, room: UUID, seq: int, key: str | None) -> None:
        if self.member.name == "bot-2" and not kept:
            kept.append(seq)
            self.seqs[room] = seq
        else:
            heard(self, room, seq, key)

    monkeypatch.setattr(Talker, "heard", lose)
    result = _run("--url", running.url)
    assert result.exit_code == 1, result.output
    assert "lost: bot-2, " in result.stdout
    assert f"seq {kept[0]} never came" in result.stdout


@pytest.mark.parametrize("url", ["parley://127.0.0.1:1", "nonsense", "ws://127.0.0.1:1/ws"])
def test_no_server(url: str) -> None:
    """It says in words why there is nothing to test."""
    result = _run("--url", url)
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].startswith("Error: ")


@pytest.mark.parametrize("name", FAULTS)
async def test_each_fault_is_taken_back(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every one can be done to a proxy without connections, and afterwards it listens and has no fault."""
    async with Proxy(Path("/nowhere")) as proxy:
        await FAULTS[name](proxy, random.Random(1))
        await proxy.heal()
        assert proxy.faults == Faults()
        port = proxy.port
        await proxy.open()
        assert proxy.port == port


async def test_over_tls(start_server: StartServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The certificate that counts is the server's, seen through the proxies; one of a stranger ends the run."""
    authority = Authority(tmp_path)
    server = await start_server(**authority.issue("localhost"))
    options = Options(url=f"wss://localhost:{server.port}/ws", clients=3, rooms=1, rate=20.0, duration=2.0, seed=7)
    with pytest.raises(TargetError, match="certificate"):
        await faults(options)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    report = await faults(options)
    assert report.clean, str(report)
    assert report.acks > 0
