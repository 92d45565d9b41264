"""Files: how fast they go in and out, when their first byte comes, and what they do to chat and to memory."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import msgspec

from bench.cores import generators_core
from bench.display import Display
from bench.http import Answer, Http
from bench.load import Buckets
from bench.parley import ParleyDeployment
from bench.results import Figure, Run, Verdict, distributions, median
from bench.stage import Drive, Stage, staged
from bench.target import TargetError
from bench.usage import Usage
from bench.validity import reasons

MB = 10**6
LARGE = 256 * MB
"""Bytes of the file whose speed is measured: long enough that its beginning does not count."""
SMALL = 4_096
"""Bytes of the file whose first byte is timed."""
SMALL_EVERY = 0.01
"""Seconds between two of its downloads."""
CHAT_RATE = 50.0
"""Messages a second while transfers run; they do not wait for each other."""
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


class Files:
    """The files of one run."""

    def __init__(self, stage: Stage, url: str, token: str) -> None:
        self.stage = stage
        self.failed = 0
        self._url = url
        self._token = token

    async def open(self, rate: float | None = None) -> Http:
        """A connection."""
        return await Http.open(self._url, rate)

    async def upload(self, http: Http, size: int) -> str:
        """Sends a file, and checks what the server says of it. Its path."""
        answer = await http.post("/upload/file?filename=bench", self._token, PIECE, size)
        self._check(answer, HTTPStatus.CREATED)
        file = msgspec.json.decode(answer.body)["data"]["file"]
        self.failed += file["file_size"] != size
        return str(file["encrypted_url"])

    async def download(self, http: Http, path: str, size: int) -> Answer:
        """Fetches a file, and checks that it is whole, and begins as it should."""
        answer = await http.get(path, self._token)
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


async def files(options: FileOptions, display: Display) -> list[Run]:
    """One after the other: memory, while nothing else was there; speed, first byte, chat beside transfers."""
    server = ParleyDeployment(options.url)
    async with staged(server, 1, display) as stage:
        seats = await stage.seat(2, [[0, 1]])
        await stage.open(seats.credentials, 2)
        with generators_core():  # transfers are this process's own
            return await _transfers(Files(stage, server.rest.url, seats.credentials[0]), seats.rooms[0], options)


async def _transfers(them: Files, room: str, options: FileOptions) -> list[Run]:
    http = await them.open()
    small = await them.upload(http, SMALL)
    await them.download(http, small, SMALL)  # what is loaded once is there from now on
    memory = await _memory(them, http, options.size * MB)
    large = await them.upload(http, LARGE)
    await them.download(http, large, LARGE)  # in the page cache from now on
    runs = [
        await _speed(them, "download", lambda http: them.download(http, large, LARGE), options.duration),
        await _speed(them, "upload", lambda http: them.upload(http, LARGE), options.duration),
        await _first_byte(them, http, small, options.duration),
        *await _beside_chat(them, room, large, options),
        *memory,
    ]
    http.close()
    return runs


def _run(them: Files, title: str, figures: dict[str, Figure], own_cpu: float = 0.0) -> Run:
    failures = {"transfers": them.failed} if them.failed else {}
    return Run(title, Verdict(not failures, reasons([own_cpu], []), failures=failures), figures=figures)


# --- speed -------------------------------------------------------------------------------------


async def _speed(them: Files, title: str, work: Callable[[Http], Awaitable[Any]], seconds: float) -> Run:
    """One transfer at a time, for a while."""
    them.stage.display.say(f"measuring one {title} at a time")
    async with them.running([work], None) as (http,):
        await asyncio.sleep(min(0.5, seconds))
        before, moved = _now(them.stage), http.moved
        await asyncio.sleep(seconds)
        took, own, used = (now - then for now, then in zip(_now(them.stage), before, strict=True))
        moved = http.moved - moved
    figures: dict[str, Figure] = {
        "mb_per_s": moved / MB / took,
        "mb_per_process_cpu_s": moved / MB / used if used else None,
        "process_cpu_share": used / took if used else None,
        "generator_cpu_share": own / took,
    }
    return _run(them, title, figures, own / took)


def _now(stage: Stage) -> tuple[float, float, float]:
    """The time, our own CPU seconds, and the server's; of a server that is not ours none."""
    used = stage.deployment.usage() or Usage(0.0, 0.0)
    return time.perf_counter(), time.process_time(), used.server


async def _first_byte(them: Files, http: Http, path: str, seconds: float) -> Run:
    """A small file every now and then."""
    them.stage.display.say("timing first bytes")
    taken = Buckets()
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        taken.count(int((await them.download(http, path, SMALL)).first_byte * 1e6))
        await asyncio.sleep(SMALL_EVERY)
    run = _run(them, "small files", {})
    return msgspec.structs.replace(run, latency=distributions(first_byte=taken))


# --- chat beside transfers -----------------------------------------------------------------------


async def _beside_chat(them: Files, room: str, large: str, options: FileOptions) -> list[Run]:
    """The same chat by turns: alone, beside transfers of so many bytes a second, and beside ones without a limit."""
    work: list[Callable[[Http], Awaitable[Any]]] = [
        (lambda http: them.download(http, large, LARGE)) if number % 2 else (lambda http: them.upload(http, LARGE // 8))
        for number in range(options.transfers)
    ]
    kinds: dict[str, tuple[list[Callable[[Http], Awaitable[Any]]], float | None]] = {
        "chat alone": ([], None),
        f"chat, {options.transfers} × {options.rate:g} MB/s": (work, options.rate * MB),
        f"chat, {options.transfers} at full speed": (work, None),
    }
    runs: dict[str, list[Run]] = {title: [] for title in kinds}
    for _ in range(ROUNDS):
        for title, (transfers, rate) in kinds.items():
            async with them.running(transfers, rate) as connections:
                runs[title].append(await _chat(them, room, connections, options.duration))
    found = [median(each).titled(title) for title, each in runs.items()]
    alone = found[0].latency["ack"].p99_ms
    return [run.with_figures({"ack_p99_of_alone": run.latency["ack"].p99_ms / alone}) for run in found]


async def _chat(them: Files, room: str, connections: Sequence[Http], seconds: float) -> Run:
    """Messages for so many seconds, and what was moved beside them."""
    began, before = time.perf_counter(), sum(http.moved for http in connections)
    run = await them.stage.run(Drive(rate=CHAT_RATE), [(room, [0, 1])], seconds)
    moved = sum(http.moved for http in connections) - before
    return run.with_figures({"transfers_mb_per_s": moved / MB / (time.perf_counter() - began)})


# --- memory ----------------------------------------------------------------------------------


async def _memory(them: Files, http: Http, size: int) -> list[Run]:
    """What a large file takes of the server's memory, on its way in and on its way out."""
    runs = []
    path = ""
    for title in ("large in", "large out"):
        them.stage.display.say(f"{title}: {size // MB} MB")
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
        runs.append(_run(them, title, figures))
    return runs


@asynccontextmanager
async def _watched(stage: Stage) -> AsyncIterator[list[int]]:
    """By how many bytes RSS and PSS are larger than at the beginning, at most; nothing where they cannot be read."""
    first = stage.deployment.memory()
    grown: list[int] = [] if first is None else [0, 0]

    async def look() -> None:
        while first is not None and (now := stage.deployment.memory()) is not None:
            grown[:] = max(grown[0], now.rss - first.rss), max(grown[1], now.pss - first.pss)
            await asyncio.sleep(LOOK_EVERY)

    task = asyncio.create_task(look())
    try:
        yield grown
    finally:
        task.cancel()
