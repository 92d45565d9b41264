"""Generator processes, and the one that tells them what to do. One process is a crew of one."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import pickle
import signal
import socket
import traceback
from collections.abc import Awaitable, Callable, Sequence
from itertools import chain
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

import uvloop

from bench.dialect import Dialect
from bench.generator import Generator, Sample
from bench.target import TargetError

R = TypeVar("R")
Work = Callable[..., Awaitable[R]]
"""A function of a module: it gets the process's Generator and what it was given. All of it is pickled."""

STOP_SECONDS = 5.0
_LENGTH = 8


class Channel:
    """Objects between two of our processes, in order. Both ends are ours: what comes may be unpickled."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def on(cls, end: socket.socket) -> Channel:
        """That of one end of a socket pair."""
        return cls(*await asyncio.open_connection(sock=end))

    def send(self, item: Any) -> None:
        """Never waits."""
        data = pickle.dumps(item)
        self._writer.write(len(data).to_bytes(_LENGTH, "big") + data)

    async def receive(self) -> Any:
        """The next one. Raises EOFError at the end."""
        try:
            size = int.from_bytes(await self._reader.readexactly(_LENGTH), "big")
            return pickle.loads(await self._reader.readexactly(size))  # noqa: S301
        except (asyncio.IncompleteReadError, OSError) as error:
            raise EOFError from error

    def close(self) -> None:
        """The other end sees its end."""
        self._writer.close()


class Crew:
    """So many generator processes. `on_sample` gets each one's samples, with the process's index."""

    def __init__(self, dialect: Dialect, processes: int = 1) -> None:
        self._dialect = dialect
        self.size = processes
        self.on_sample: Callable[[int, Sample], None] = lambda _index, _sample: None
        self._processes: list[BaseProcess] = []
        self._channels: list[Channel] = []
        self._readers: list[asyncio.Task[None]] = []
        self._answers: dict[int, asyncio.Future[Any]] = {}

    async def start(self) -> None:
        """Spawns them."""
        context = multiprocessing.get_context("spawn")
        joints = [socket.socketpair() for _ in range(self.size - 1)]  # each other process has one to the first
        ends: list[list[socket.socket]] = [[hear for hear, _ in joints], *([tell] for _, tell in joints)]
        for index in range(self.size):
            ours, theirs = socket.socketpair()
            arguments = (theirs, self._dialect, index, ends[index])
            process = context.Process(target=_main, args=arguments, daemon=True, name=f"generator {index}")
            process.start()
            theirs.close()
            self._processes.append(process)
            self._channels.append(await Channel.on(ours))
            self._readers.append(asyncio.create_task(self._read(index)))
        for end in chain.from_iterable(ends):
            end.close()

    async def each(self, work: Work[R], *given: Sequence[Any]) -> list[R]:
        """Does this in all processes at once, each with its item of every sequence. Raises what one of them raised."""
        shares = [[items[index] for items in given] for index in range(self.size)]
        return await asyncio.gather(*(self.one(index, work, *share) for index, share in enumerate(shares)))

    async def all(self, work: Work[R], *given: Any) -> list[R]:
        """Does the same in all of them."""
        return await asyncio.gather(*(self.one(index, work, *given) for index in range(self.size)))

    async def one(self, index: int, work: Work[R], *given: Any) -> R:
        """Does this in one process, which does one thing at a time."""
        if self._readers[index].done():
            raise TargetError("A generator process has ended.")
        answer = self._answers[index] = asyncio.get_running_loop().create_future()
        self._channels[index].send((work, given))
        result: R = await answer
        return result

    async def _read(self, index: int) -> None:
        while True:
            try:
                kind, value = await self._channels[index].receive()
            except EOFError:
                kind, value = "failed", TargetError("A generator process has ended.")
            except Exception as error:
                kind, value = "failed", error
            if kind == "sample":
                self.on_sample(index, value)
            elif (answer := self._answers.pop(index, None)) and not answer.done():
                answer.set_exception(value) if kind == "failed" else answer.set_result(value)
            elif kind == "failed":
                return

    def stop(self) -> None:
        """Ends them: the end of its channel is the end of each."""
        for task in self._readers:
            task.cancel()
        for channel in self._channels:
            channel.close()
        for process in self._processes:
            process.terminate()
            process.join(STOP_SECONDS)
            if process.is_alive():
                process.kill()
                process.join()
        self._channels, self._processes, self._readers = [], [], []


# --- in a process ------------------------------------------------------------------------------


def _main(end: socket.socket, dialect: Dialect, index: int, joints: list[socket.socket]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one that started us, which ends us
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(end, dialect, index, joints))


async def _serve(end: socket.socket, dialect: Dialect, index: int, joints: list[socket.socket]) -> None:
    """Does what it is told, until nobody is there any more."""
    channel = await Channel.on(end)
    generator = Generator(dialect, index, lambda sample: channel.send(("sample", sample)))
    others = [await Channel.on(joint) for joint in joints]
    listening = []
    if index:
        generator.tell = others[0].send
    else:
        listening = [asyncio.create_task(_hear(generator, number, other)) for number, other in enumerate(others, 1)]
    try:
        while True:
            work, given = await channel.receive()
            channel.send(await _answer(work(generator, *given)))
    except EOFError:
        pass
    finally:
        generator.close()
        for task in listening:
            task.cancel()


async def _hear(generator: Generator, number: int, other: Channel) -> None:
    with contextlib.suppress(EOFError):
        while True:
            generator.told(number, await other.receive())


async def _answer(work: Awaitable[Any]) -> tuple[str, Any]:
    try:
        return "done", await work
    except TargetError as error:
        return "failed", error
    except Exception:
        return "failed", TargetError(traceback.format_exc())
