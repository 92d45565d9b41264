"""A server's process without the second that imports take: forked from one that has imported everything.

Hundreds of tests start a server of their own. `python -m tests.e2e.forks` imports
Parley once, makes no thread and no random number, and forks for each of them; a
fork goes on as `parley serve` would. It ends when its standard input does, which
is when the pytest that started it has ended, however that came.
"""

from __future__ import annotations

import asyncio
import atexit
import json
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import gateway.__main__  # noqa: F401  what a server needs, so that forks have it
from gateway.cli import main as parley

# --- in the test's process -------------------------------------------------------------------


class Forked:
    """A forked process, with what tests use of asyncio's `Process`."""

    def __init__(self, pid: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._writer = writer
        self._ended = asyncio.create_task(self._end(reader))

    async def _end(self, reader: asyncio.StreamReader) -> int:
        self.returncode = int(await reader.readline())
        self._writer.close()
        return self.returncode

    async def wait(self) -> int:
        """Its exit code; below zero, the signal that ended it."""
        return await asyncio.shield(self._ended)

    def send_signal(self, number: signal.Signals) -> None:
        """Signals it, unless it has ended."""
        if self.returncode is None:
            os.kill(self.pid, number)


async def fork(arguments: list[str], environment: dict[str, str], log: Path) -> Forked:
    """A process that runs `parley` with these arguments and this environment, and writes to this file."""
    reader, writer = await asyncio.open_unix_connection(_forking())
    request = {"arguments": arguments, "environment": environment, "directory": str(Path.cwd()), "log": str(log)}
    writer.write(json.dumps(request).encode() + b"\n")
    return Forked(int(await reader.readline()), reader, writer)


@cache
def _forking() -> Path:
    """Where the process listens that forks; it is started when the first asks."""
    directory = Path(tempfile.mkdtemp(prefix="parley-forks-"))
    path = directory / "socket"
    process = subprocess.Popen([sys.executable, "-m", "tests.e2e.forks", str(path)], stdin=subprocess.PIPE)
    assert process.stdin is not None
    atexit.register(shutil.rmtree, directory)
    atexit.register(process.wait)
    atexit.register(process.stdin.close)  # what is registered last is called first
    while not path.exists():
        assert process.poll() is None, "it did not start"
        time.sleep(0.02)
    return path


# --- in the process that forks ---------------------------------------------------------------


class Forking:
    """Forks for whoever connects, and tells them the process's id, and how it ended."""

    def __init__(self, path: Path) -> None:
        self._asked: dict[int, socket.socket] = {}
        self._listener = socket.socket(socket.AF_UNIX)
        self._woken, self._wake = socket.socketpair()
        self._wake.setblocking(False)
        signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for pytest
        new = path.with_suffix(".new")
        self._listener.bind(str(new))
        self._listener.listen(64)
        new.rename(path)

    def run(self) -> dict[str, Any] | None:
        """Returns twice: in each fork what it has to do, and None when standard input has ended."""
        with selectors.DefaultSelector() as selector:
            for file in (self._listener, self._woken, sys.stdin):
                selector.register(file, selectors.EVENT_READ)
            while True:
                ready = [key.fileobj for key, _ in selector.select()]
                if sys.stdin in ready:
                    return None
                if self._woken in ready:
                    self._bury()
                if self._listener in ready and (request := self._fork()):
                    return request

    def _fork(self) -> dict[str, Any] | None:
        asking, _ = self._listener.accept()
        with asking.makefile("rb") as stream:
            request: dict[str, Any] = json.loads(stream.readline())
        if (pid := os.fork()) == 0:
            self._leave(asking)
            return request
        self._asked[pid] = asking
        asking.sendall(b"%d\n" % pid)
        return None

    def _leave(self, asking: socket.socket) -> None:
        """What is this process's alone is not the fork's."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for each in (asking, self._listener, self._woken, self._wake, *self._asked.values()):
            each.close()

    def _bury(self) -> None:
        """Tells those who asked for processes that have ended."""
        self._woken.recv(4096)
        while self._asked:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            with self._asked.pop(pid) as asked, suppress(BrokenPipeError):
                asked.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))


def become(request: dict[str, Any]) -> None:
    """Runs `parley` as a process would that was just started so."""
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["directory"])
    for number, path, flags in (
        (0, os.devnull, os.O_RDONLY),
        *((n, request["log"], os.O_WRONLY | os.O_APPEND) for n in (1, 2)),
    ):
        file = os.open(path, flags)
        os.dup2(file, number)
        os.close(file)
    sys.argv = ["parley", *request["arguments"]]
    parley()


if __name__ == "__main__" and (request := Forking(Path(sys.argv[1])).run()) is not None:
    become(request)
