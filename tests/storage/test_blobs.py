"""Blobs behave alike, whether they are in a directory or in a bucket."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from protocol.errors import ChatError
from storage import blobs as blobs_module
from storage.blobs import BlobMissing, Blobs
from storage.places import Bucket, open_blobs, place_of
from tests.s3 import S3

YEAR = 365 * 86_400


@pytest.fixture(params=["directory", "s3"])
async def blobs(request: pytest.FixtureRequest, s3: S3, tmp_path: Path) -> AsyncIterator[Blobs]:
    """An empty place of each kind."""
    setting = s3.setting() if request.param == "s3" else f"file:{tmp_path / 'blobs'}"
    place = await open_blobs(place_of(setting), tmp_path / "spool")
    yield place
    await place.close()


async def _keep(blobs: Blobs, data: bytes) -> UUID:
    path = blobs.spool()
    await blobs.run(lambda: path.write_bytes(data))
    blob_id = uuid4()
    await blobs.keep(blob_id, path)
    assert not path.exists()
    return blob_id


async def _read(blobs: Blobs, blob_id: UUID, start: int, length: int) -> bytes:
    return await blobs.read(blob_id, start, length, lambda data: data)


async def _listed(blobs: Blobs, age: float = -10.0) -> list[UUID]:
    """All of them; ten seconds from now, since a file system's times are coarse, and a listing's whole seconds."""
    return [blob_id async for page in blobs.listed(age) for blob_id in page]


async def test_who_is_cancelled_waits_for_the_thread(blobs: Blobs) -> None:
    """What a thread works on is left alone until it has ended, also by whoever was cancelled meanwhile."""
    may_end, ended = threading.Event(), False

    def work() -> None:
        nonlocal ended
        may_end.wait(60)
        ended = True

    task = asyncio.create_task(blobs.run(work))
    await asyncio.sleep(0)
    task.cancel()
    done, _ = await asyncio.wait([task], timeout=0.1)
    assert not done
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended


async def test_ranges(blobs: Blobs) -> None:
    """Any range comes back as it was written, and goes through the function that was given."""
    data = os.urandom(300_000)
    blob_id = await _keep(blobs, data)
    for start, length in ((0, 300_000), (0, 1), (65_536, 65_536), (299_999, 1), (1, 299_998)):
        assert await _read(blobs, blob_id, start, length) == data[start : start + length]
    assert await blobs.read(blob_id, 10, 20, len) == 20


async def test_missing_and_short(blobs: Blobs) -> None:
    """A blob that is not there, or has fewer bytes than it should, is missing: it never gives fewer than asked for."""
    blob_id = await _keep(blobs, b"0123456789")
    for asked, start, length in (
        (uuid4(), 0, 1),
        (blob_id, 0, 11),
        (blob_id, 5, 6),
        (blob_id, 10, 1),
        (blob_id, 90, 9),
    ):
        with pytest.raises(BlobMissing):
            await _read(blobs, asked, start, length)


async def test_what_reads_may_fail(blobs: Blobs) -> None:
    """An error of the function that takes the bytes is the caller's."""
    blob_id = await _keep(blobs, b"0123456789")

    def fail(_: bytes) -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await blobs.read(blob_id, 0, 10, fail)


async def test_delete(blobs: Blobs) -> None:
    """Blobs go together; those that are not there are no error, and neither is none at all."""
    first, second, third = [await _keep(blobs, b"bytes") for _ in range(3)]
    await blobs.delete([first, uuid4(), second])
    await blobs.delete([])
    assert await _listed(blobs) == [third]
    with pytest.raises(BlobMissing):
        await _read(blobs, first, 0, 1)


async def test_list(blobs: Blobs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every blob is listed once, over several pages, and only those that are old enough."""
    monkeypatch.setattr(blobs_module, "PAGE", 3)
    monkeypatch.setattr("storage.s3_blobs.PAGE", 3)
    kept = {await _keep(blobs, b"x") for _ in range(8)}
    found = await _listed(blobs)
    assert (len(found), set(found)) == (8, kept)
    assert await _listed(blobs, age=3_600) == []


async def test_what_is_not_ours_is_not_listed(s3: S3, tmp_path: Path) -> None:
    """What else lies in the bucket, beside the prefix or below it, is left alone."""
    blobs = await open_blobs(place_of(s3.setting()), tmp_path)
    kept = await _keep(blobs, b"ours")
    for key in (f"{uuid4().hex}", f"{s3.prefix}readme.txt", f"{s3.prefix}deeper/{uuid4().hex}"):
        await s3.put(key, b"another's")
    assert await _listed(blobs) == [kept]
    assert f"{s3.prefix}{kept.hex}" in await s3.objects()
    await blobs.close()


async def test_spool(blobs: Blobs) -> None:
    """What was left in the spool goes when it is old enough, and not before."""
    old, new = blobs.spool(), blobs.spool()
    for path in (old, new):
        await blobs.run(partial(path.write_bytes, b"half"))
    os.utime(old, (time.time() - 7_200,) * 2)
    assert await blobs.clear_spool(3_600) == 1
    assert (old.exists(), new.exists()) == (False, True)


@pytest.mark.parametrize(("error", "said"), [(OSError(28, "full"), "no room"), (OSError(5, "broken"), "reached")])
async def test_a_disk_that_fails(blobs: Blobs, error: OSError, said: str) -> None:
    """An error of the disk is a refusal that says when to try again."""

    def fail() -> None:
        raise error

    with pytest.raises(ChatError, match=said) as raised:
        await blobs.run(fail)
    assert (raised.value.code, raised.value.kind.status) == ("SERVICE_UNAVAILABLE", 503)
    assert raised.value.retry_after


async def test_what_is_kept_is_not_spooled(blobs: Blobs) -> None:
    """A blob that cannot be kept leaves nothing in the spool either."""
    path = blobs.spool()
    with pytest.raises(ChatError):
        await blobs.keep(uuid4(), path)
    assert list(path.parent.iterdir()) == []


async def test_what_every_storage_understands(s3: S3, tmp_path: Path) -> None:
    """What is sent has the checksum that all storages know and none of the newer ones, and is signed with it."""
    blobs = await open_blobs(place_of(s3.setting()), tmp_path)
    await blobs.delete([await _keep(blobs, b"bytes")])
    put, delete = s3.spoiler.headers["PUT"], s3.spoiler.headers["POST"]
    assert put["Content-MD5"] == "SzpiGLs+OnMD6KFxpg/Pkg=="
    assert put["Content-Length"] == "5"
    assert not [name for name in put if "checksum" in name.lower() or name == "Content-Encoding"]
    for headers in (put, delete):
        signed = headers["Authorization"].partition("SignedHeaders=")[2].partition(",")[0]
        assert "content-md5" in signed.split(";")
    await blobs.close()


def test_who_has_no_bucket_does_without() -> None:
    """A server whose files are in a directory does not load what only S3 needs."""
    code = "import sys, gateway.__main__; sys.exit(any(name.endswith('botocore') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], timeout=100, check=False).returncode == 0


async def test_uploads_that_were_left(s3: S3, tmp_path: Path) -> None:
    """Multipart uploads that were begun long ago are dropped, and no others; nothing is left of them."""
    place = place_of(s3.setting())
    assert isinstance(place, Bucket)
    blobs = await open_blobs(replace(place, direct=True), tmp_path)
    assert blobs.multipart is not None
    begun = {blob_id: await blobs.multipart.begin(blob_id) for blob_id in (uuid4(), uuid4())}
    assert await blobs.multipart.clear(50 * YEAR) == 0  # moto says of all that they were begun in 2010
    assert await s3.uploads() == 2
    assert await blobs.multipart.clear(3_600) == 2
    assert await s3.uploads() == 0
    for blob_id, upload_id in begun.items():
        assert await blobs.multipart.parts(blob_id, upload_id) is None
        await blobs.multipart.abort(blob_id, upload_id)
    await blobs.close()
