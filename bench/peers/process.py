"""A server's process: in a folder of its own, on the servers' core, and gone at the end."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from bench.cores import servers_core
from bench.target import TargetError

START_SECONDS = 60.0


class Process:
    """`folder` is what the server may write into; what it says is in `said` there."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.folder = Path(tempfile.mkdtemp(prefix=f"parley-bench-{name}-"))
        self._running: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Of what was started."""
        if self._running is None:
            raise TargetError(f"{self.name} was not started")
        return self._running.pid

    def start(self, command: Sequence[str], env: Mapping[str, str] | None = None) -> None:
        """In a process group of its own: Ctrl-C is for us, and we stop it."""
        with servers_core(), (self.folder / "said").open("wb") as log:
            self._running = subprocess.Popen(  # noqa: S603  a program that the user has installed for this
                command, cwd=self.folder, env={**os.environ, **(env or {})}, stdout=log, stderr=log,
                stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip

    async def says(self, pattern: str) -> str:
        """Waits until the server says something; what the pattern's group is then. Raises TargetError."""
        deadline = time.monotonic() + START_SECONDS
        while (found := re.search(pattern, self.said())) is None:
            self.check(deadline)
            await asyncio.sleep(0.02)
        return found.group(1)

    async def answers(self, port: int) -> None:
        """Waits until someone listens. Raises TargetError."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            self.check(deadline)
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.05)
            else:
                writer.close()
                return

    def check(self, deadline: float) -> None:
        """Whether it runs, and has time left. Raises TargetError."""
        if self._running is None or self._running.poll() is not None or time.monotonic() > deadline:
            raise TargetError(f"{self.name} did not start:\n{self.said()[-2000:]}")

    def said(self) -> str:
        """All that it has written to its output."""
        return (self.folder / "said").read_text(errors="replace")

    def stop(self) -> None:
        """At once: nothing that it has is kept. The folder goes, too."""
        if self._running is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._running.pid, signal.SIGKILL)
            self._running.wait()
        shutil.rmtree(self.folder, ignore_errors=True)
