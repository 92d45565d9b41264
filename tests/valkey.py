"""A real Valkey, for tests of what nodes tell each other, and of what happens when they cannot."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
from contextlib import suppress
from pathlib import Path

import redis

from storage.embedded_valkey import release, run_program, stop_program, valkey_program, wait_until_ready

SETTINGS = {"bind": "127.0.0.1", "save": "", "appendonly": "no", "protected-mode": "no"}
"""What every one of them has; the rest is as Valkey has it."""


class Valkey:
    """A Valkey on a port of its own, which stays the same over all its starts. It keeps nothing on disk.

    `options` are further settings, by their names in valkey.conf.
    """

    def __init__(self, directory: Path, **options: str) -> None:
        self.directory = directory
        self.port = free_port()
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
        options = {**SETTINGS, "port": str(self.port), **self._options}
        self._process = run_program(valkey_program(), options, self.log, self.directory)
        wait_until_ready(self._process, socket.AF_INET, ("127.0.0.1", self.port))

    def renew(self) -> None:
        """Whatever was done to it: it runs, answers, is empty, and nobody is connected."""
        self.stop()
        self.start()

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


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on now, below the range that systems use for outgoing connections."""
    while True:
        port = random.randrange(12_000, 20_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
