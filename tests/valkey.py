"""A real Valkey, for tests of what nodes tell each other, and of what happens when they cannot."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import redis

from storage.embedded_valkey import release, run_program, stop_program, valkey_program, wait_until_ready
from tests.ports import free_port

SETTINGS = {"bind": "127.0.0.1", "save": "", "appendonly": "no", "protected-mode": "no"}
"""What every one of them has; the rest is as Valkey has it."""


class Valkey:
    """A Valkey on a port of its own, which stays the same over all its starts. It keeps nothing on disk.

    `options` are further settings, by their names in valkey.conf.
    """

    def __init__(self, directory: Path, port: int | None = None, **options: str) -> None:
        self.directory = directory
        self.port = port or free_port()
        self._options = {name.replace("_", "-"): value for name, value in options.items()}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it is, in the form of REDIS_URL."""
        return f"redis://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The running server."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Starts it, and returns when it answers. It is empty."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self._process = run_program(self._command(), self.log, self.directory)
        wait_until_ready(self._process, socket.AF_INET, ("127.0.0.1", self.port))

    def renew(self) -> None:
        """Whatever was done to it: it runs, answers, is empty, and nobody is connected."""
        self.stop()
        self.start()

    def _command(self) -> list[str]:
        options = {**SETTINGS, "port": str(self.port), **self._options}
        flags = [word for name, value in options.items() for word in (f"--{name}", *(value.split() or [""]))]
        return [str(valkey_program()), *flags]

    def ask(self, *command: str | int) -> Any:
        """What it answers."""
        with redis.Redis.from_url(self.url) as client:
            return client.execute_command(*command)

    @property
    def log(self) -> Path:
        """What it has written since its last start."""
        return self.directory / "valkey.log"

    def stop(self) -> None:
        """Ends it, also when it is paused."""
        if self._process is not None:
            self.resume()
            stop_program(self._process)
            self._process = None

    def kill(self) -> None:
        """kill -9: everything in it is lost, and connections are reset. `start` brings an empty one back."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        release(self._process)
        self._process = None

    def pause(self) -> None:
        """SIGSTOP: connections stay, and nothing is answered."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGCONT)

    def flush(self) -> None:
        """It forgets all keys and scripts; connections and subscriptions stay."""
        with redis.Redis.from_url(self.url) as client:
            client.flushall()
            client.script_flush()


class Sentinel(Valkey):
    """A Sentinel that alone says which server is the primary of the service `main`."""

    def __init__(self, directory: Path, primary: Valkey) -> None:
        super().__init__(directory)
        self._primary = primary

    def _command(self) -> list[str]:
        lines = (
            f"port {self.port}",
            "bind 127.0.0.1",
            f"sentinel monitor main 127.0.0.1 {self._primary.port} 1",
            # A machine that stalls is no reason for a failover; tests ask for theirs.
            "sentinel down-after-milliseconds main 60000",
        )
        config = self.directory / "sentinel.conf"  # it writes there what it finds out
        config.write_text("\n".join(lines))
        return [str(valkey_program()), str(config), "--sentinel"]

    def fail_over(self) -> None:
        """Makes a replica the primary, which is dead, as soon as there is one that can be."""
        _until(self._begins)

    def _begins(self) -> bool:
        with suppress(redis.ResponseError):
            return bool(self.ask("SENTINEL FAILOVER", "main"))
        return False


class ValkeyCluster:
    """Three primaries, each with a third of the slots; the first has a replica."""

    def __init__(self, directory: Path) -> None:
        ports = [free_port() for _ in range(8)]
        self.servers = [
            Valkey(
                directory / str(number),
                ports[number],
                cluster_enabled="yes",
                cluster_port=str(ports[number + 4]),
                cluster_node_timeout="500",  # they wait so long before they trust one another
                cluster_require_full_coverage="no",
                cluster_replica_no_failover="yes",  # tests ask for theirs
                repl_diskless_sync_delay="0",
            )
            for number in range(4)
        ]

    @property
    def url(self) -> str:
        """Where it is, in the form of REDIS_URL."""
        return "redis+cluster://" + ",".join(f"127.0.0.1:{server.port}" for server in self.servers)

    def start(self) -> None:
        """Starts it, and returns when every server knows of every slot."""
        first, *others = self.servers
        for server in self.servers:
            server.start()
        bus = first.ask("CONFIG GET", "cluster-port")["cluster-port"]
        for server in others:
            server.ask("CLUSTER MEET", "127.0.0.1", first.port, bus)
        for n, server in enumerate(self.servers[:3]):
            server.ask("CLUSTER ADDSLOTSRANGE", n * SLOTS // 3, (n + 1) * SLOTS // 3 - 1)
        _until(lambda: all(server.ask("CLUSTER INFO")["cluster_known_nodes"] == "4" for server in self.servers))
        self.servers[3].ask("CLUSTER REPLICATE", first.ask("CLUSTER MYID"))
        _until(lambda: all(self._knows_all(server) for server in self.servers))
        self._wait_until_ok()
        for server in self.servers:  # a machine that stalls is no failure
            server.ask("CONFIG SET", "cluster-node-timeout", "60000")
        self._wait_until_ok()
        _until(lambda: self.servers[3].ask("INFO", "replication")["master_link_status"] == "up")

    def _wait_until_ok(self) -> None:
        _until(lambda: all(server.ask("CLUSTER INFO")["cluster_state"] == "ok" for server in self.servers))

    def _knows_all(self, server: Valkey) -> bool:
        ranges = server.ask("CLUSTER SLOTS")
        replicated = any(len(replicas) == 1 for _, _, _, *replicas in ranges)
        return sum(last - first + 1 for first, last, *_ in ranges) == SLOTS and replicated

    def stop(self) -> None:
        """Ends all servers."""
        for server in self.servers:
            server.stop()


SLOTS = 16_384
"""In every cluster (https://valkey.io/topics/cluster-spec/)."""


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
