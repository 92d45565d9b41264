"""`parley bench files`, small, against a real server: what moves is counted and looked at. Times are not."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from bench import files
from bench.display import Display
from bench.files import MB, FileOptions
from bench.http import Http
from bench.results import Run
from bench.target import Target, TargetError

OTHERS = os.urandom(MB)
SMALL = FileOptions(url=None, duration=0.2, size=3, transfers=4, rate=5.0)


@pytest.fixture(autouse=True)
def _server(running: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scenario uses the server that is there, and files that take no time."""

    @asynccontextmanager
    async def target(url: str | None, *, apart: bool, workers: int) -> AsyncIterator[Target]:
        yield running

    monkeypatch.setattr("bench.parley.target", target)
    monkeypatch.setattr("bench.files.LARGE", 2 * MB)
    monkeypatch.setattr("bench.files.ROUNDS", 1)


async def test_all_of_it() -> None:
    """Each part has its figures, and every byte that came was one that had gone."""
    results = {result.title: result for result in await files.files(SMALL, Display())}
    assert list(results) == [
        "download",
        "upload",
        "small files",
        "chat alone",
        "chat, 4 × 5 MB/s",
        "chat, 4 at full speed",
        "large in",
        "large out",
    ]
    assert all(result.verdict.clean for result in results.values())
    assert _figure(results["download"], "mb_per_s") > 0
    assert _figure(results["upload"], "mb_per_s") > 0
    assert results["small files"].latency["first_byte"].p50_ms > 0
    assert results["chat alone"].figures["ack_p99_of_alone"] == 1
    assert _figure(results["chat, 4 at full speed"], "transfers_mb_per_s") > 0
    assert results["large in"].figures["mb"] == 3
    if sys.platform == "linux":
        assert _figure(results["large in"], "rss_grown_mb") >= 0


def _figure(result: Run, name: str) -> float:
    value = result.figures[name]
    assert value is not None
    return value


async def test_wrong_bytes_fail_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that does not begin as what was sent is counted."""
    download = files.Files.download

    async def other(self: files.Files, http: Http, path: str, size: int) -> object:
        monkeypatch.setattr("bench.files.PIECE", OTHERS)
        return await download(self, http, path, size)

    monkeypatch.setattr(files.Files, "download", other)
    results = await files.files(FileOptions(url=None, duration=0.1, size=1, transfers=1, rate=5.0), Display())
    assert all(result.title.startswith("chat") for result in results if result.verdict.clean)


async def test_a_rate_is_kept(running: Target) -> None:
    """A connection that has a rate does not move more than that, in either direction."""
    http = await Http.open(running.url, rate=1e9)
    assert (await http.get("/health", "")).status == 200
    http.moved = 10**10
    assert http._ahead() > 1
    http.close()


async def test_a_connection_that_ends(running: Target) -> None:
    """Nothing there, or nothing more, is a TargetError."""
    with pytest.raises(TargetError, match="does not answer"):
        await Http.open("http://127.0.0.1:1")
    http = await Http.open(running.url)
    http.connection_made(http._transport)
    asked = http.get("/health", "")
    http._transport.abort()
    with pytest.raises(TargetError, match="connection lost"):
        await asked
