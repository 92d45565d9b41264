"""The small servers: in-memory chatrooms on what people build chat with, a page of JavaScript each."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from bench import usage
from bench.deployment import Seats
from bench.dialect import Dialect
from bench.parley import ParleyDialect
from bench.peers import installed
from bench.peers.process import Process
from bench.peers.socketio import SocketIoDialect
from bench.target import TargetError
from bench.usage import Memory, Usage

LACKS = (
    "nothing is on disk: an ack is given from memory, and a restart forgets all",
    "no history, no resume, no sync: what a client misses is gone, and nobody tells it",
    "a retry is a second message",
    "no accounts, rights or limits on what one may do",
    "one process: no order across nodes",
)
"""What none of them does: each is the fan-out alone."""


FALLBACK = "performance may be degraded"
"""What uWebSockets.js says where it has no native code for a Node."""


class Kind(NamedTuple):
    """One of them: its npm package, what runs it, and how it is spoken to at a URL."""

    package: str
    runtime: Callable[[], Path]
    dialect: Callable[[str], Dialect]


def _parleys(url: str) -> Dialect:
    return ParleyDialect(url, "ws")


KINDS = {
    "ws": Kind("ws", installed.node, _parleys),
    "uws": Kind("@trufflesuite/uws-js-unofficial", installed.node, _parleys),
    "bun": Kind("bun", installed.bun, _parleys),
    "socketio": Kind("socket.io", installed.node, SocketIoDialect),
}
"""By the name of the file that has the server."""


class SmallServer:
    """One of KINDS, on a free port of the loopback. Raises NotInstalledError when there is nothing to run."""

    lacks: tuple[str, ...] = LACKS

    def __init__(self, name: str) -> None:
        self.name = name
        self._kind = KINDS[name]
        self._version = installed.package(self._kind.package)
        self._runtime = self._kind.runtime()
        self._process: Process | None = None
        self._url = ""

    async def start(self) -> None:
        """Runs a copy: a bare import is looked for beside the file that has it, and packages may lie elsewhere."""
        process = self._process = Process(self.name)
        for file in (*installed.HERE.glob("*.mjs"), installed.HERE / "package.json"):
            shutil.copy(file, process.folder)
        (process.folder / "node_modules").symlink_to(installed.modules().absolute())
        process.start([str(self._runtime.absolute()), f"{self.name}.mjs"])
        port = await process.says(r"listening (\d+)")
        if FALLBACK in process.said():
            raise TargetError(f"{self._kind.package} has no build for this Node, and its substitute is another server.")
        self._url = f"http://127.0.0.1:{port}"

    async def stop(self) -> None:
        """Ends it."""
        if self._process is not None:
            self._process.stop()
            self._process = None

    async def seat(self, accounts: int, rooms: Sequence[Sequence[int]]) -> Seats:
        """Nothing has to be made: a credential is a name with the chatrooms that it is in."""
        return Seats.by_name(accounts, rooms)

    def dialect(self) -> Dialect:
        """Parley's own, or Socket.IO's."""
        return self._kind.dialect(self._url)

    def usage(self) -> Usage | None:
        """With all threads, and with processes below it."""
        if self._process is None or not usage.available():
            return None
        return Usage(usage.cpu_of_tree(self._process.pid))

    def memory(self) -> Memory | None:
        """Of the one process."""
        if self._process is None or not usage.available():
            return None
        return usage.read_memory(self._process.pid)

    async def counters(self) -> Mapping[str, float]:
        """It counts nothing."""
        return {}

    def about(self) -> dict[str, str]:
        """The versions of the package and of what runs it."""
        return {self._kind.package: self._version, "runtime": self._runtime.name}
