"""When S3 is away, slow or wrong: a refusal in bounded time, nothing in the spool, and never wrong bytes."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from protocol.errors import ChatError
from storage.blobs import Blobs
from storage.places import open_blobs, place_of
from storage.s3_blobs import _in_time
from tests.s3 import S3, Fault

SIZE = 300_000


@pytest.fixture
async def blobs(s3: S3, tmp_path: Path) -> AsyncIterator[Blobs]:
    """A bucket with time enough for a slow machine."""
    place = await open_blobs(place_of(s3.setting()), tmp_path / "spool")
    yield place
    await place.close()


@pytest.fixture
async def hasty(s3: S3, tmp_path: Path) -> AsyncIterator[Blobs]:
    """The same bucket, for who gives up after a second of silence."""
    place = await open_blobs(place_of(s3.setting(timeout=1)), tmp_path / "spool")
    yield place
    await place.close()


async def _keep(blobs: Blobs, data: bytes) -> UUID:
    path, blob_id = blobs.spool(), uuid4()
    await blobs.run(lambda: path.write_bytes(data))
    try:
        await blobs.keep(blob_id, path)
    finally:
        assert list(path.parent.iterdir()) == []
    return blob_id


async def _read(blobs: Blobs, blob_id: UUID, start: int = 0, length: int = SIZE) -> bytes:
    return await blobs.read(blob_id, start, length, lambda data: data)


async def _refused(doing: Awaitable[object]) -> None:
    with pytest.raises(ChatError) as raised:
        await doing
    assert (raised.value.code, raised.value.kind.status) == ("SERVICE_UNAVAILABLE", 503)
    assert raised.value.retry_after


async def _first_page(blobs: Blobs) -> list[UUID]:
    return await anext(aiter(blobs.listed(0)))


async def _everything_is_refused(blobs: Blobs, blob_id: UUID) -> None:
    async with asyncio.TaskGroup() as group:
        for doing in (_keep(blobs, b"more"), _read(blobs, blob_id), blobs.delete([blob_id]), _first_page(blobs)):
            group.create_task(_refused(doing))


async def test_errors(s3: S3, blobs: Blobs) -> None:
    """Where S3 answers 500 it is asked again, and a refusal follows; once it is well again, so is everything."""
    data = os.urandom(SIZE)
    blob_id = await _keep(blobs, data)
    s3.spoiler.spoil("error")
    s3.spoiler.asked.clear()
    await _everything_is_refused(blobs, blob_id)
    assert (s3.spoiler.asked["PUT"], s3.spoiler.asked["POST"]) == (3, 3)
    for method in ("GET", "PUT"):
        s3.spoiler.spoil("error", only=method, times=1)
        assert await _read(blobs, blob_id) == data
        await _keep(blobs, data)


async def test_refused_connections(s3: S3, blobs: Blobs) -> None:
    """Nobody listens."""
    blob_id = await _keep(blobs, os.urandom(SIZE))
    await s3.spoiler.refuse()
    await _everything_is_refused(blobs, blob_id)
    await s3.spoiler.listen()
    assert len(await _read(blobs, blob_id)) == SIZE


async def test_silence(s3: S3, blobs: Blobs, hasty: Blobs) -> None:
    """Nobody answers: the refusal comes when the time is over, for what fits into the sockets and what does not."""
    blob_id = await _keep(blobs, os.urandom(SIZE))
    s3.spoiler.spoil("hang")
    began = time.monotonic()
    async with asyncio.TaskGroup() as group:
        group.create_task(_refused(_read(hasty, blob_id)))
        group.create_task(_refused(hasty.delete([blob_id])))
        group.create_task(_refused(_first_page(hasty)))
        paths = [hasty.spool(), hasty.spool()]
        for path, size in zip(paths, (10, 40_000_000), strict=True):
            await hasty.run(partial(path.write_bytes, bytes(size)))
            group.create_task(_refused(hasty.keep(uuid4(), path)))
    assert time.monotonic() - began >= 1
    assert list(paths[0].parent.iterdir()) == []


async def test_silence_is_counted_from_the_last_byte() -> None:
    """What moves has as long as it takes."""
    asked = 0
    done = asyncio.Event()

    def moved_at() -> float:
        nonlocal asked
        asked += 1
        if asked == 4:
            done.set()
        return time.monotonic()

    assert await _in_time(done.wait(), 0.01, moved_at)
    with pytest.raises(TimeoutError):
        await _in_time(asyncio.Event().wait(), 0.01, None)


async def test_answers_that_break_off(s3: S3, blobs: Blobs) -> None:
    """A range that breaks off is asked for again; where it always does, the refusal comes, and never fewer bytes."""
    data = os.urandom(SIZE)
    blob_id = await _keep(blobs, data)
    s3.spoiler.spoil("truncate", only="GET", times=2)
    assert await _read(blobs, blob_id, 1, SIZE - 1) == data[1:]
    s3.spoiler.spoil("truncate", only="GET")
    await _refused(_read(blobs, blob_id))


@pytest.mark.parametrize(("fault", "method"), [("wrong etag", "PUT"), ("wrong range", "GET")])
async def test_other_than_asked_for(s3: S3, blobs: Blobs, fault: Fault, method: str) -> None:
    """An ETag that is not the MD5 of what was sent, or another range than asked for, is a failure."""
    blob_id = await _keep(blobs, os.urandom(SIZE))
    asked: dict[str, Callable[[], Awaitable[object]]] = {
        "PUT": lambda: _keep(blobs, b"more"),
        "GET": lambda: _read(blobs, blob_id, 5, 10),
    }
    s3.spoiler.spoil(fault)
    await _refused(asked[method]())


async def test_no_bucket(s3: S3, blobs: Blobs, tmp_path: Path) -> None:
    """A bucket that is not there is a refusal too, and seen without anybody's asking for a file."""
    nowhere = await open_blobs(place_of(s3.setting().replace(s3.name, "nowhere")), tmp_path / "spool")
    async with asyncio.timeout(60):
        while nowhere.reachable:
            await asyncio.sleep(0.01)
    await _refused(_keep(nowhere, b"bytes"))
    assert blobs.reachable
    await nowhere.close()
