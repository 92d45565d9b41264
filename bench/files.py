"""Files: how fast they go in and out, when their first byte comes, and what they do to chat and to memory."""

from __future__ import annotations

import asyncio
import os
import time
from array import array
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from uuid import UUID

import msgspec

from bench import report
from bench.http import Answer, Http
from bench.load import Load
from bench.report import Figure, Result
from bench.rest import Account
from bench.scenarios import Options, Stage, staged
from bench.target import TargetError
from bench.usage import Usage

MB = 10**6
LARGE = 256 * MB
"""Bytes of the file whose speed is measured: long enough that its beginning does not count."""
SMALL = 4_096
"""Bytes of the file whose first byte is timed."""
SMALL_EVERY = 0.01
"""Seconds between two of its downloads."""
CHAT_EVERY = 0.02
"""Seconds between two messages while transfers run; they do not wait for each other."""
ROUNDS = 3
"""Turns that chat has with and without transfers, so that each has the same neighbours."""
LOOK_EVERY = 0.05
"""Seconds between two looks at the server's memory."""
PIECE = os.urandom(1024 * 1024)
"""What is sent, over and over; nothing can be pressed out of it."""


@dataclass(frozen=True, slots=True)
class FileOptions:
    """What a run was asked to do. `duration` is in seconds, `size` and `rate` are in millions of bytes."""

    url: str | None
    duration: float
    size: int
    transfers: int
    rate: float


class Paced(Load):
    """Messages that go when they are due, whatever became of those before: latency runs from that moment."""

    def due(self, at: float) -> None:
        """Sends the next one."""
        self._starts[self._first + self.sent] = at
        self.sent += 1
        self._send(self._first + self.sent - 1)


class Files:
    """The files of one run."""

    def __init__(self, stage: Stage, account: Account) -> None:
        self.stage = stage
        self.failed = 0
        self._account = account

    async def open(self, rate: float | None = None) -> Http:
        """A connection."""
        return await Http.open(self.stage.server.url, rate)

    async def upload(self, http: Http, size: int) -> str:
        """Sends a file, and checks what the server says of it. Its path."""
        answer = await http.post("/upload/file?filename=bench", self._account.token, PIECE, size)
        self._check(answer, HTTPStatus.CREATED)
        file = msgspec.json.decode(answer.body)["data"]["file"]
        self.failed += file["file_size"] != size
        return str(file["encrypted_url"])

    async def download(self, http: Http, path: str, size: int) -> Answer:
        """Fetches a file, and checks that it is whole, and begins as it should."""
        answer = await http.get(path, self._account.token)
        self._check(answer, HTTPStatus.OK)
        self.failed += answer.size != size or not PIECE.startswith(answer.body)
        return answer

    def _check(self, answer: Answer, status: HTTPStatus) -> None:
        if answer.status != status:
            raise TargetError(f"a transfer was answered with {answer.status}: {answer.body[:300]!r}")

    @asynccontextmanager
    async def running(
        self, work: Sequence[Callable[[Http], Awaitable[Any]]], rate: float | None
    ) -> AsyncIterator[list[Http]]:
        """Each of these is done over and over, on a connection of its own."""
        connections = [await self.open(rate) for _ in work]

        async def repeat(http: Http, one: Callable[[Http], Awaitable[Any]]) -> None:
            while True:
                await one(http)

        tasks = [asyncio.create_task(repeat(http, one)) for http, one in zip(connections, work, strict=True)]
        try:
            yield connections
            if ended := next((task for task in tasks if task.done()), None):
                ended.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for http in connections:
                http.close()


async def files(options: FileOptions) -> list[Result]:
    """One after the other: memory, while nothing else was there; speed, first byte, chat beside transfers."""
    staging = Options(options.url, 2, (), 1, 2, options.duration, "json")
    async with staged(staging, apart=True) as stage:
        accounts = await stage.accounts(2)
        room = await stage.rest.chatroom(accounts[0], accounts[1:])
        await stage.open(accounts, 2)
        them = Files(stage, accounts[0])
        http = await them.open()
        small = await them.upload(http, SMALL)
        await them.download(http, small, SMALL)  # what is loaded once is there from now on
        memory = await _memory(them, http, options.size * MB)
        large = await them.upload(http, LARGE)
        await them.download(http, large, LARGE)  # in the page cache from now on
        results = [
            await _speed(them, "download", lambda http: them.download(http, large, LARGE)),
            await _speed(them, "upload", lambda http: them.upload(http, LARGE)),
            await _first_byte(them, http, small),
            *await _beside_chat(them, room, large, options),
            *memory,
        ]
        http.close()
        return results


def _result(them: Files, title: str, figures: dict[str, Figure], own_cpu: float = 0.0) -> Result:
    failures = dict(them.stage.idle.failures)
    clean = not (them.failed or failures)
    return Result(title, clean, figures, {"failed": them.failed, "failures": failures}, report.saturated(own_cpu))


# --- speed -------------------------------------------------------------------------------------


async def _speed(them: Files, title: str, work: Callable[[Http], Awaitable[Any]]) -> Result:
    """One transfer at a time, for a while."""
    report.progress(f"measuring one {title} at a time")
    seconds = them.stage.options.duration
    async with them.running([work], None) as (http,):
        await asyncio.sleep(min(0.5, seconds))
        before, moved = _now(them.stage), http.moved
        await asyncio.sleep(seconds)
        took, own, used = (now - then for now, then in zip(_now(them.stage), before, strict=True))
        moved = http.moved - moved
    figures: dict[str, Figure] = {
        "mb_per_s": moved / MB / took,
        "mb_per_parley_cpu_s": moved / MB / used if used else None,
        "parley_cpu_share": used / took if used else None,
        "generator_cpu_share": own / took,
    }
    return _result(them, title, figures, own / took)


def _now(stage: Stage) -> tuple[float, float, float]:
    """The time, our own CPU seconds, and the server's; of a server that is not ours none."""
    used = stage.server.usage() or Usage(0.0, 0.0)
    return time.perf_counter(), time.process_time(), used.server


async def _first_byte(them: Files, http: Http, path: str) -> Result:
    """A small file every now and then."""
    report.progress("timing first bytes")
    taken: list[float] = []
    until = time.perf_counter() + them.stage.options.duration
    while time.perf_counter() < until:
        taken.append((await them.download(http, path, SMALL)).first_byte)
        await asyncio.sleep(SMALL_EVERY)
    return _result(them, "small files", report.times("first_byte", taken))


# --- chat beside transfers -----------------------------------------------------------------------


async def _beside_chat(them: Files, room: UUID, large: str, options: FileOptions) -> list[Result]:
    """The same chat by turns: alone, beside transfers of so many bytes a second, and beside ones without a limit."""
    load = Paced(them.stage.senders(room, them.stage.sessions), 0, 0)
    them.stage.wire.listener = load
    work: list[Callable[[Http], Awaitable[Any]]] = [
        (lambda http: them.download(http, large, LARGE)) if number % 2 else (lambda http: them.upload(http, LARGE // 8))
        for number in range(options.transfers)
    ]
    kinds: dict[str, tuple[list[Callable[[Http], Awaitable[Any]]], float | None]] = {
        "chat alone": ([], None),
        f"chat, {options.transfers} × {options.rate:g} MB/s": (work, options.rate * MB),
        f"chat, {options.transfers} at full speed": (work, None),
    }
    waits: dict[str, array[float]] = {title: array("d") for title in kinds}
    moved = dict.fromkeys(kinds, 0.0)
    for turn in range(ROUNDS):
        for title, (transfers, rate) in kinds.items():
            report.progress(f"{title}, turn {turn + 1} of {ROUNDS}")
            async with them.running(transfers, rate) as connections:
                await _chat(load, options.duration / ROUNDS + 0.5)
                del load.latencies[:]
                before = sum(http.moved for http in connections)
                waits[title] += await _chat(load, options.duration)
                moved[title] += (sum(http.moved for http in connections) - before) / MB / options.duration / ROUNDS
    them.stage.idle.failures.update(load.failures)
    them.stage.wire.listener = them.stage.idle
    alone = report.times("ack", waits["chat alone"])["ack_p99_ms"]
    return [_chat_result(them, title, waits[title], moved[title], alone) for title in kinds]


async def _chat(load: Paced, seconds: float) -> array[float]:
    """Messages for so many seconds. What the acks of all that was sent took, once they are there."""
    began = time.perf_counter()
    for number in range(round(seconds / CHAT_EVERY)):
        due = began + number * CHAT_EVERY
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        load.due(due)
    async with asyncio.timeout(60):
        while load.acks < load.sent:
            await asyncio.sleep(0.005)
    taken, load.latencies = load.latencies, array("d")
    return taken


def _chat_result(them: Files, title: str, waits: Sequence[float], moved: float, alone: Figure) -> Result:
    figures = report.times("ack", waits)
    p99 = figures["ack_p99_ms"]
    figures["ack_p99_of_alone"] = p99 / alone if p99 and alone else None
    figures["transfers_mb_per_s"] = moved
    return _result(them, title, figures)


# --- memory ----------------------------------------------------------------------------------


async def _memory(them: Files, http: Http, size: int) -> list[Result]:
    """What a large file takes of the server's memory, on its way in and on its way out."""
    results = []
    path = ""
    for title in ("large in", "large out"):
        report.progress(f"{title}: {size // MB} MB")
        async with _watched(them.stage) as grown:
            began = time.perf_counter()
            if title == "large in":
                path = await them.upload(http, size)
            else:
                await them.download(http, path, size)
            seconds = time.perf_counter() - began
        figures: dict[str, Figure] = {
            "mb": size // MB,
            "mb_per_s": size / MB / seconds,
            "rss_grown_mb": grown[0] / MB if grown else None,
            "pss_grown_mb": grown[1] / MB if grown else None,
        }
        results.append(_result(them, title, figures))
    return results


@asynccontextmanager
async def _watched(stage: Stage) -> AsyncIterator[list[int]]:
    """By how many bytes RSS and PSS are larger than at the beginning, at most; nothing where they cannot be read."""
    first = stage.server.memory()
    grown: list[int] = [] if first is None else [0, 0]

    async def look() -> None:
        while first is not None and (now := stage.server.memory()) is not None:
            grown[:] = max(grown[0], now.rss - first.rss), max(grown[1], now.pss - first.pss)
            await asyncio.sleep(LOOK_EVERY)

    task = asyncio.create_task(look())
    try:
        yield grown
    finally:
        task.cancel()
