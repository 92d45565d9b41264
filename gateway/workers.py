"""`parley serve --workers N`: N processes that share the ports, and one that starts them and looks after them.

Each worker is a node like any other; the kernel spreads connections over them (SO_REUSEPORT). The parent runs
PostgreSQL and Valkey where no others are named, hands signals on, and starts workers again that have ended.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

from gateway.config import Config, ConfigError
from gateway.ports import Ports
from gateway.websocket import SUBPROTOCOLS
from gateway.welcome import server_info, welcome
from gateway.worker import WorkerRefusedError
from storage import embedded
from storage.embedded import database_url
from storage.embedded_valkey import redis_url

log = logging.getLogger("parley.workers")

STEADY = 10.0
"""Seconds after which a worker that ends has not failed at its start, and is started again at once."""
FIRST_WAIT = 0.5
"""Seconds before a worker that ended at once is started again; each time it does so again, they double."""
LONGEST_WAIT = 30.0
"""The most that they become."""
SPARE_CONNECTIONS = 5
"""Connections that Parley's own PostgreSQL keeps for others, such as `parley migrate`."""


async def serve_workers(config: Config, count: int) -> None:
    """Runs so many workers until SIGTERM or SIGINT, then drains them.

    Raises ConfigError, WorkerRefusedError, and what keys and the embedded servers raise.
    """
    check_connections(config, count)
    keys = config.load_keys()  # a development install makes its keys here, once, before the workers look for them
    stop = _told_to_stop()
    async with _environment(config) as (env, ports):
        info = server_info(config, keys.noise.public, ports.tcp, SUBPROTOCOLS)
        with _private_directory() as directory:
            workers = Workers(_program(), env, count, directory, stop)
            await workers.run(lambda: print(welcome(config, ports.http, info), flush=True))  # noqa: T201


def check_connections(config: Config, count: int) -> None:
    """Raises ConfigError where the workers may want more connections than Parley's own PostgreSQL takes."""
    wanted, room = count * config.database_pool, int(embedded.SETTINGS["max_connections"]) - SPARE_CONNECTIONS
    if config.database_url is None and wanted > room:
        raise ConfigError(
            f"PARLEY_DATABASE_POOL is {config.database_pool}: {count} workers would open up to {wanted} connections,"
            f" and Parley's own PostgreSQL has room for {room}. Set it to {room // count}, take fewer workers, or set"
            " DATABASE_URL."
        )


def _told_to_stop() -> asyncio.Event:
    """What SIGTERM and SIGINT set, from the first moment on."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop


@asynccontextmanager
async def _environment(config: Config) -> AsyncIterator[tuple[dict[str, str], Ports]]:
    """What the workers are started with: where their databases are, and which ports they share."""
    async with (
        database_url(config.database_url, config.data) as database,
        redis_url(config.redis_url, config.data) as redis,
    ):
        own = {"DATABASE_URL": (config.database_url, database), "REDIS_URL": (config.redis_url, redis)}
        async with Ports.taken(config) as ports:
            # What is set is left as it is, so that a secret in a file stays there.
            added = {name: url for name, (given, url) in own.items() if given is None}
            yield {**os.environ, **added, **ports.environment()}, ports


@contextmanager
def _private_directory() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="parley-workers-"))  # mkdtemp: mode 0700
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _program() -> list[str]:
    """How this program was started, without its arguments: `-m gateway`, or the path of a script."""
    return [sys.executable, *sys.orig_argv[1 : len(sys.orig_argv) - len(sys.argv) + 1]]


class Workers:
    """All of them. `stop` ends them."""

    def __init__(
        self, program: Sequence[str], env: Mapping[str, str], count: int, directory: Path, stop: asyncio.Event
    ) -> None:
        self._stop = stop
        self._children = [
            _Child([*program, "worker", str(number), str(count), str(directory)], env, number, stop)
            for number in range(count)
        ]

    async def run(self, listening: Callable[[], None]) -> None:
        """Runs them until `stop`, and returns when they have ended. Calls `listening` when clients can come.

        Raises WorkerRefusedError: what the first worker refuses, all would, so it goes ahead.
        """
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._reload)
        ending = asyncio.create_task(self._end())
        try:
            await self._children[0].start_first()
            if not self._stop.is_set():
                listening()
            await asyncio.gather(*(child.keep() for child in self._children))
        finally:
            ending.cancel()

    async def _end(self) -> None:
        await self._stop.wait()
        for child in self._children:
            child.send(signal.SIGTERM)

    def _reload(self) -> None:
        for child in self._children:
            child.reload()


class _Child:
    """One worker, over all its starts."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str], number: int, stop: asyncio.Event) -> None:
        self._command = command
        self._env = env
        self._number = number
        self._stop = stop
        self._process: asyncio.subprocess.Process | None = None
        self._line: socket.socket | None = None
        self._listens = self._reload_missed = False

    async def start_first(self) -> None:
        """Starts it, and returns when it listens. Raises WorkerRefusedError."""
        await self._start()
        if not self._listens and (status := await self._end()) and not self._stop.is_set():
            raise WorkerRefusedError(max(status, 1))  # below zero it is the signal that killed it

    async def keep(self) -> None:
        """Waits for its end, and starts it again, until `stop`."""
        loop, wait = asyncio.get_running_loop(), 0.0
        while not self._stop.is_set() or self._running:
            began = loop.time()
            if not self._running:
                await self._start()
            status = await self._end()
            if not self._stop.is_set():
                wait = 0.0 if loop.time() - began > STEADY else min(LONGEST_WAIT, max(FIRST_WAIT, 2 * wait))
                self._log_end(status, wait)
                await self._pause(wait)

    async def _start(self) -> None:
        """Starts it, and returns when it listens, or ends without."""
        self._line, theirs = socket.socketpair()
        self._line.setblocking(False)
        with theirs:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                env=self._env,
                stdin=theirs.fileno(),
                start_new_session=True,  # Ctrl-C in a terminal is for the parent, which hands it on
            )
        if self._stop.is_set():
            self.send(signal.SIGTERM)
        self._listens = bool(await asyncio.get_running_loop().sock_recv(self._line, 1))
        if self._reload_missed:
            self.reload()

    async def _end(self) -> int:
        """Waits for its end. The line stays open until then: it would take the worker for an orphan."""
        assert self._process is not None
        assert self._line is not None
        status = await self._process.wait()
        self._listens = False
        self._line.close()
        return status

    @property
    def _running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    def _log_end(self, status: int, wait: float) -> None:
        extra = {"worker": self._number, "status": status, "wait": wait}
        log.error("a worker ended, and is started again", extra=extra)

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), seconds)

    def send(self, number: signal.Signals) -> None:
        """Sends a signal, if it runs."""
        if self._process is not None and self._running:
            with suppress(ProcessLookupError):
                self._process.send_signal(number)

    def reload(self) -> None:
        """SIGHUP, as soon as it can be taken: while a worker starts, it would end it."""
        self._reload_missed = not self._listens
        if self._listens:
            self.send(signal.SIGHUP)
