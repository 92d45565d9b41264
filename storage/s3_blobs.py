"""Blobs in a bucket of a storage that speaks S3: Amazon's, MinIO, Ceph and others.

What they agree on is used, and no more: PutObject with Content-MD5 (RFC 1864), GetObject with Range,
DeleteObjects, ListObjectsV2. Nothing waits for longer than the bucket's `timeout` without a byte moving.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import logging
import re
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from botocore.exceptions import BotoCoreError, ClientError

from protocol.errors import ChatError
from storage.blobs import PAGE, RETRY_SECONDS, BlobMissing, Hands, seen
from storage.places import Bucket
from storage.s3_multipart import Multipart

log = logging.getLogger(__name__)

T = TypeVar("T")

CONNECT_SECONDS = 2.0
"""What opening a connection may take."""

ATTEMPTS = 3
"""How often something is tried that failed at once, within the time that it has in all."""

CONNECTIONS = 32
"""Requests to S3 at once; others wait for their turn, within their time."""

LOOK_SECONDS = 10.0
"""Time between two looks at whether the bucket can be reached."""


_RANGE = re.compile(r"bytes (?P<start>\d+)-\d+/(?P<size>\d+)")
"""Content-Range (RFC 9110, 14.4)."""


class _Wrong(Exception):
    """An answer that is not what was asked for."""


class _Moving(io.FileIO):
    """A file that knows when it was last read from."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.moved_at = time.monotonic()

    def read(self, size: int | None = -1, /) -> bytes:
        self.moved_at = time.monotonic()
        return super().read(-1 if size is None else size) or b""


class S3Blobs:
    """Blobs as objects of a bucket, each called by its id."""

    def __init__(self, client: Any, closing: AsyncExitStack, bucket: Bucket, spool: Path) -> None:
        self._client = client
        self._closing = closing
        self._bucket = bucket
        self._hands = Hands(spool)
        self.multipart = Multipart(client, bucket, self._answered) if bucket.direct else None
        self.reachable: bool | None = True
        self.spool = self._hands.spool
        self.run = self._hands.run
        self.clear_spool = self._hands.clear_spool
        self._looking = asyncio.create_task(self._look_forever())

    @classmethod
    async def open(cls, bucket: Bucket, spool: Path) -> S3Blobs:
        """Makes a client. Whether anyone is there turns out later: chat does not wait for it."""
        closing = AsyncExitStack()
        made = get_session().create_client(
            "s3", region_name=bucket.region, endpoint_url=bucket.endpoint_url, config=_config(bucket)
        )
        client = await closing.enter_async_context(made)
        client.meta.events.register_first("before-sign.s3.DeleteObjects", _add_md5)
        return cls(client, closing, bucket, spool)

    async def keep(self, blob_id: UUID, path: Path) -> None:
        """Uploads it, and looks whether S3 has what was sent."""
        try:
            digest = await self.run(partial(_md5, path))
            with _Moving(path) as body:
                await self._answered("keep", self._put(blob_id, body, digest), lambda: body.moved_at)
        finally:
            _drop(path)

    async def _put(self, blob_id: UUID, body: _Moving, digest: bytes) -> None:
        answer = await self._client.put_object(
            **self._named(blob_id),
            Body=body,
            ContentMD5=b64encode(digest).decode(),
            ContentType="application/octet-stream",
        )
        # Under keys of KMS an ETag is no MD5 (Amazon S3 User Guide, "Checking object integrity").
        told = answer.get("ETag", "").strip('"')
        if told != digest.hex() and not answer.get("ServerSideEncryption", "").startswith("aws:kms"):
            raise _Wrong(f"the ETag of {blob_id} is not the MD5 of what was sent")

    async def read(self, blob_id: UUID, start: int, length: int, then: Callable[[bytes], T]) -> T:
        """Asks for a range, and again where the answer breaks off."""
        data = await self._answered("read", self._read(blob_id, start, length))
        return await self.run(partial(then, data))

    async def _read(self, blob_id: UUID, start: int, length: int) -> bytes:
        for _ in range(ATTEMPTS - 1):
            with suppress(_Wrong):
                return await self._read_once(blob_id, start, length)
        return await self._read_once(blob_id, start, length)

    async def _read_once(self, blob_id: UUID, start: int, length: int) -> bytes:
        try:
            answer = await self._client.get_object(**self._named(blob_id), Range=f"bytes={start}-{start + length - 1}")
        except ClientError as error:
            if error.response["Error"]["Code"] in ("NoSuchKey", "404", "InvalidRange", "416"):
                raise BlobMissing(blob_id.hex) from None
            raise
        async with answer["Body"] as body:
            _check_range(answer, blob_id, start, length)
            try:
                data: bytes = await body.read()
            except Exception as error:  # aiohttp's own, and botocore's: all of them mean that it broke off
                raise _Wrong(f"{blob_id} broke off: {error}") from error
        if len(data) != length:
            raise _Wrong(f"{blob_id} broke off")
        return data

    async def delete(self, blob_ids: Iterable[UUID]) -> None:
        """As many at once as S3 takes."""
        keys = [{"Key": self._bucket.key_of(blob_id)} for blob_id in blob_ids]
        for at in range(0, len(keys), PAGE):
            await self._answered("delete", self._delete(keys[at : at + PAGE]))

    async def _delete(self, keys: list[dict[str, str]]) -> None:
        answer = await self._client.delete_objects(Bucket=self._bucket.name, Delete={"Objects": keys, "Quiet": True})
        if errors := answer.get("Errors"):
            raise _Wrong(f"{len(errors)} objects were not deleted: {errors[0].get('Code')}")

    async def listed(self, age: float) -> AsyncIterator[list[UUID]]:
        """A page of S3's at a time. The times are S3's, whose clock is never more than 15 minutes off ours."""
        before = datetime.now(UTC) - timedelta(seconds=age)
        after: dict[str, str] = {}
        while True:
            page = await self._answered("list", self._list(after))
            yield [blob_id for item in page.get("Contents", ()) if (blob_id := self._listed(item, before))]
            if not page["IsTruncated"]:
                return
            after = {"ContinuationToken": page["NextContinuationToken"]}

    async def _list(self, after: dict[str, str]) -> Any:
        return await self._client.list_objects_v2(
            Bucket=self._bucket.name, Prefix=self._bucket.prefix, MaxKeys=PAGE, **after
        )

    def _listed(self, item: Any, before: datetime) -> UUID | None:
        """The blob that an object is; None for one that is too young, or not ours."""
        return self._bucket.blob_of(item["Key"]) if item["LastModified"] < before else None

    async def close(self) -> None:
        """Ends threads and connections."""
        self._looking.cancel()
        self._hands.close()
        await self._closing.aclose()

    # --- what S3 answers -------------------------------------------------------------------------

    async def _answered(self, what: str, asking: Awaitable[T], moved_at: Callable[[], float] | None = None) -> T:
        """What S3 answers. Raises ChatError where it does not, or where the answer is none to rely on."""
        try:
            answer = await _in_time(asking, self._bucket.timeout, moved_at)
        except (BotoCoreError, ClientError, TimeoutError, _Wrong) as error:
            self.reachable = False
            reason = str(error) or f"silent for {self._bucket.timeout} s"
            log.warning("S3 failed", extra={"operation": what, "reason": reason})
            raise ChatError("SERVICE_UNAVAILABLE", "Files cannot be reached.", retry_after=RETRY_SECONDS) from error
        if not self.reachable:
            log.info("S3 answers again")
        self.reachable = True
        return answer

    async def _look_forever(self) -> None:
        while True:
            with suppress(ChatError):
                await self._answered("look", self._client.head_bucket(Bucket=self._bucket.name))
            await asyncio.sleep(LOOK_SECONDS)

    def _named(self, blob_id: UUID) -> dict[str, str]:
        return {"Bucket": self._bucket.name, "Key": self._bucket.key_of(blob_id)}


def _config(bucket: Bucket) -> AioConfig:
    return AioConfig(
        signature_version="s3v4",
        connect_timeout=min(CONNECT_SECONDS, bucket.timeout),
        read_timeout=bucket.timeout,
        retries={"total_max_attempts": ATTEMPTS, "mode": "standard"},
        max_pool_connections=CONNECTIONS,
        # Other storages than Amazon's do not know its newer checksums; Content-MD5 they all do, and it is signed.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        s3={"addressing_style": "path" if bucket.endpoint_url else "auto", "payload_signing_enabled": False},
    )


async def _in_time(asking: Awaitable[T], silence: float, moved_at: Callable[[], float] | None) -> T:
    """An answer, unless nothing has moved for so many seconds: TimeoutError. Without `moved_at`, so many in all."""
    began = time.monotonic()
    task = asyncio.ensure_future(asking)
    task.add_done_callback(seen)
    try:
        while not task.done():
            left = silence - (time.monotonic() - max(began, moved_at() if moved_at else 0))
            if left <= 0:
                raise TimeoutError
            await asyncio.wait({task}, timeout=left)
        return task.result()
    finally:
        task.cancel()


def _check_range(answer: Any, blob_id: UUID, start: int, length: int) -> None:
    """The answer announces what was asked for. Raises BlobMissing where the object is shorter."""
    told = _RANGE.fullmatch(answer.get("ContentRange", ""))
    if told is None or int(told["start"]) != start:
        raise _Wrong(f"{blob_id} came from another place than asked for")
    if int(told["size"]) < start + length:
        raise BlobMissing(blob_id.hex)
    if answer.get("ContentLength") != length:
        raise _Wrong(f"{blob_id} came in another length than asked for")


def _md5(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, partial(hashlib.md5, usedforsecurity=False)).digest()


def _add_md5(request: Any, **_: object) -> None:
    """DeleteObjects needs a checksum: botocore takes one that other storages than Amazon's may not know."""
    request.headers["Content-MD5"] = b64encode(hashlib.md5(request.body, usedforsecurity=False).digest()).decode()


def _drop(path: Path) -> None:
    path.unlink(missing_ok=True)
