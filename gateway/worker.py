"""One process of several that share their ports: what it has of the process that started it."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


class WorkerRefusedError(Exception):
    """The first worker ended before it listened, and has said why. `status` is what it ended with."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


@dataclass(frozen=True)
class Worker:
    """Which of the workers this process is. `line` is a socket whose other end the parent holds."""

    number: int
    """From 0."""
    count: int
    directory: Path
    """Private to the workers of one parent: their sockets for one another."""
    line: socket.socket

    @classmethod
    def of_parent(cls, number: int, count: int, directory: Path) -> Worker:
        """This process as its parent started it: with the line as its standard input."""
        line = socket.socket(fileno=os.dup(0))
        line.setblocking(False)
        return cls(number, count, directory, line)

    def listens(self) -> None:
        """Tells the parent that clients can come."""
        self.line.send(b"\n")

    @property
    def orphaned(self) -> bool:
        """Whether the parent has ended."""
        try:
            return not self.line.recv(1)
        except BlockingIOError:
            return False

    def on_orphaned(self, callback: Callable[[], None]) -> None:
        """Calls back when the parent has ended, also when it was killed: then the line closes."""
        loop = asyncio.get_running_loop()

        def ended() -> None:
            loop.remove_reader(self.line)
            callback()

        loop.add_reader(self.line, ended)
