"""One `/metrics` for all workers: whichever is asked asks the others, over Unix sockets, and answers for all."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path

from gateway.worker import Worker

PATIENCE = 1.0
"""Seconds that the other workers have to answer; who is asked has a deadline of their own."""

WORKERS = """\
# HELP parley_workers Workers, by whether they answered when metrics were read
# TYPE parley_workers gauge
parley_workers{{state="answering"}} {answering}
parley_workers{{state="silent"}} {silent}
"""

Render = Callable[[], bytes]
Read = Callable[[], Awaitable[bytes]]


@contextlib.asynccontextmanager
async def metrics_of_all(render: Render, worker: Worker | None) -> AsyncIterator[Read]:
    """What reads the metrics of the whole server. Meanwhile, the other workers may read those of this one."""

    async def alone() -> bytes:
        return render()

    async def together() -> bytes:
        return await _read_all(render, worker) if worker is not None else render()

    if worker is None:
        yield alone
        return
    path = _socket(worker.directory, worker.number)
    worker.directory.mkdir(mode=0o700, exist_ok=True)  # an orphan may find it cleared away by another
    server = await asyncio.start_unix_server(_teller(render), path)
    try:
        yield together
    finally:
        server.close()
        path.unlink(missing_ok=True)
        if worker.orphaned:  # then it falls to the last worker to clear away
            with contextlib.suppress(OSError):
                worker.directory.rmdir()


def _socket(directory: Path, number: int) -> Path:
    return directory / f"worker-{number}.sock"


def _teller(render: Render) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
    async def tell(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError), contextlib.closing(writer):
            writer.write(render())
            await writer.drain()

    return tell


async def _read_all(render: Render, worker: Worker) -> bytes:
    others = [number for number in range(worker.count) if number != worker.number]
    answers = await asyncio.gather(*(_ask(_socket(worker.directory, number)) for number in others))
    texts = {number: text for number, text in zip(others, answers, strict=True) if text}
    texts[worker.number] = render()
    counts = WORKERS.format(answering=len(texts), silent=worker.count - len(texts))
    return merged(dict(sorted(texts.items()))) + counts.encode()


async def _ask(path: Path) -> bytes:
    """What the worker counts; nothing, if it does not say so in time."""
    try:
        async with asyncio.timeout(PATIENCE):
            reader, writer = await asyncio.open_unix_connection(path)
            with contextlib.closing(writer):
                return await reader.read()
    except OSError:  # TimeoutError is one
        return b""


def merged(texts: Mapping[int, bytes]) -> bytes:
    """Texts of Prometheus' format 0.0.4 in one: each family once, each sample with its worker's number as a label."""
    families: dict[str, dict[str, None]] = {}  # by name: its lines in order, with those that repeat left out
    for number, text in texts.items():
        lines = families.setdefault("", {})
        for line in text.decode().splitlines():
            if line.startswith("# "):
                lines = families.setdefault(line.split(" ", 3)[2], {})
                lines[line] = None
            else:
                lines[_labelled(line, f'worker="{number}"')] = None
    return "".join(f"{line}\n" for lines in families.values() for line in lines).encode()


def _labelled(sample: str, label: str) -> str:
    name, brace, rest = sample.partition("{")
    if brace:
        return f"{name}{{{label},{rest}"
    name, _, value = sample.partition(" ")
    return f"{name}{{{label}}} {value}"
