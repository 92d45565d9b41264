"""The server under load: one of our own on a fresh data directory, or whatever answers at a URL."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

from bench import usage
from bench.cores import servers_core
from bench.usage import Memory, Usage

START_SECONDS = 60.0
"""What a start may take, making the database included."""
STOP_SECONDS = 30.0

SETTINGS = {
    "PARLEY_HTTP": "127.0.0.1:0",
    "PARLEY_TCP": "127.0.0.1:0",
    "PARLEY_LOG_LEVEL": "warning",
    "DATABASE_URL": "",  # its own database, whatever else there is
    "REDIS_URL": "",  # likewise its own Valkey, which it has with workers
    "PARLEY_DRAIN": "0.1",
    "PARLEY_ACCESS_TOKEN_LIFE": "86400",
    "PARLEY_LIMIT_BOTS": "100000",
    "PARLEY_LIMIT_BURST": "1000000000",
    "PARLEY_LIMIT_COMMANDS": "1000000000",
    "PARLEY_LIMIT_CONNECTIONS": "1000000",
    "PARLEY_LIMIT_PASSWORD_QUEUE": "100000",
    "PARLEY_LIMIT_REQUESTS": "1000000000",
    "PARLEY_LIMIT_UNAUTHENTICATED": "1000000",
    "PARLEY_LIMIT_UPLOADS": "1000000000",
    **dict.fromkeys(
        (f"PARLEY_LIMIT_{what}" for what in ("FILE", "IMAGE", "MEDIA", "USER_FILES", "CHATROOM_FILES")), str(2**50)
    ),
}
"""How our own server differs from a fresh install: limits on what one user or address may do are out of the way."""


class TargetError(Exception):
    """The server can't be used; the message says why."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where the load goes. `pid` and `data` are those of our own server; of others nothing is measured from within."""

    url: str
    pid: int | None = None
    data: Path | None = None

    def usage(self) -> Usage | None:
        """CPU seconds of the server so far, where they can be known."""
        if self.pid is None or self.data is None or not usage.available():
            return None
        return usage.read_usage(self.pid, postmaster_of(self.data))

    def memory(self) -> Memory | None:
        """The memory of the Parley process, or of its workers together, where it can be known."""
        if self.pid is None or not usage.available():
            return None
        found = [usage.read_memory(pid) for pid in usage.workers_of(self.pid) or [self.pid]]
        return Memory(sum(memory.rss for memory in found), sum(memory.pss for memory in found))


def postmaster_of(data: Path) -> int | None:
    """The process that the embedded PostgreSQL of a data directory runs under."""
    try:
        return int((data / "postgres" / "postmaster.pid").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return None


@asynccontextmanager
async def target(url: str | None, *, apart: bool, workers: int = 1) -> AsyncIterator[Target]:
    """The server at `url`, or one of our own with so many workers, that is stopped at the end, its data removed.

    With `apart` our own server and its PostgreSQL have the core of servers (`bench.cores`). Raises TargetError.
    """
    if url is not None:
        yield Target(url.rstrip("/"))
        return
    data = Path(tempfile.mkdtemp(prefix="parley-bench-"))
    process = None
    try:
        with servers_core() if apart else nullcontext():
            process = _launch(data, workers)
        yield Target(await _listening(process, data), process.pid, data)
    finally:
        if process is not None:
            _stop(process, data)
        shutil.rmtree(data, ignore_errors=True)


def _launch(data: Path, workers: int) -> subprocess.Popen[bytes]:
    """Starts Parley. It has a process group of its own: Ctrl-C is for us, and we stop it."""
    env = {**os.environ, **SETTINGS, "PARLEY_DATA": str(data)}
    command = [sys.executable, "-m", "gateway", "serve", "--workers", str(workers)]
    with (data / "parley.log").open("wb") as log:
        return subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)  # noqa: S603  our own program


async def _listening(process: subprocess.Popen[bytes], data: Path) -> str:
    """Waits until the server says where it listens. Raises TargetError."""
    deadline = time.monotonic() + START_SECONDS
    while (url := _url_in(data)) is None:
        if process.poll() is not None or time.monotonic() > deadline:
            raise TargetError(f"Parley did not start:\n{(data / 'parley.log').read_text()[-2000:]}")
        await asyncio.sleep(0.02)
    return url


def _url_in(data: Path) -> str | None:
    found = re.search(r"HTTP +(http://\S+)", (data / "parley.log").read_text())
    return found.group(1) if found else None


def _stop(process: subprocess.Popen[bytes], data: Path) -> None:
    """SIGTERM, which stops the database too; when that takes too long, both are ended the hard way."""
    deadline = time.monotonic() + STOP_SECONDS
    while _url_in(data) is None and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)  # a signal while it starts would leave its database behind
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if postmaster := postmaster_of(data):
        with suppress(ProcessLookupError):
            os.kill(postmaster, signal.SIGQUIT)
