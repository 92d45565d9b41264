"""Parts of a file that clients send to S3 themselves, by addresses that were signed for it: Multipart Upload."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from botocore.exceptions import ClientError

from storage.places import Bucket

Answered = Callable[[str, Awaitable[Any]], Awaitable[Any]]
"""What S3 answers, in time, or ChatError."""


class SentPart(NamedTuple):
    """A part that S3 has: its size in bytes, and its ETag, by which it is called."""

    number: int
    size: int
    etag: str


class Multipart:
    """The multipart uploads of a bucket. Raises ChatError SERVICE_UNAVAILABLE as a place for blobs does."""

    def __init__(self, client: Any, bucket: Bucket, answered: Answered) -> None:
        self._client = client
        self._bucket = bucket
        self._answered = answered

    async def begin(self, blob_id: UUID) -> str:
        """A new upload of what will be this blob; S3's name for it."""
        answer = await self._answered("begin an upload", self._client.create_multipart_upload(**self._named(blob_id)))
        upload_id: str = answer["UploadId"]
        return upload_id

    async def url(self, blob_id: UUID, upload_id: str, number: int, size: int, seconds: int) -> str:
        """Where a client sends a part of exactly this size, without any other right, within so many seconds."""
        asked = {**self._named(blob_id), "UploadId": upload_id, "PartNumber": number, "ContentLength": size}
        url: str = await self._client.generate_presigned_url("upload_part", asked, ExpiresIn=seconds)
        return url

    async def parts(self, blob_id: UUID, upload_id: str) -> list[SentPart] | None:
        """What S3 has of an upload, in order; None where it is over."""
        found: list[SentPart] = []
        page: dict[str, Any] = {"IsTruncated": True, "NextPartNumberMarker": 0}
        while page["IsTruncated"]:
            after = page["NextPartNumberMarker"]
            page = await self._answered("list parts", self._listed(blob_id, upload_id, after))
            if not page:
                return None
            found += [SentPart(part["PartNumber"], part["Size"], part["ETag"]) for part in page.get("Parts", ())]
        return found

    async def _listed(self, blob_id: UUID, upload_id: str, after: int) -> Any:
        asking = self._client.list_parts(**self._named(blob_id), UploadId=upload_id, PartNumberMarker=after)
        return await _unless_over(asking)

    async def complete(self, blob_id: UUID, upload_id: str, parts: Sequence[SentPart]) -> None:
        """Makes the blob of its parts. An upload that is over is left alone: it may have been completed before."""
        named = [{"PartNumber": part.number, "ETag": part.etag} for part in parts]
        asking = self._client.complete_multipart_upload(
            **self._named(blob_id), UploadId=upload_id, MultipartUpload={"Parts": named}
        )
        await self._answered("complete an upload", _unless_over(asking))

    async def abort(self, blob_id: UUID, upload_id: str) -> None:
        """Drops the parts. An upload that is over is left alone."""
        asking = self._client.abort_multipart_upload(**self._named(blob_id), UploadId=upload_id)
        await self._answered("abort an upload", _unless_over(asking))

    async def clear(self, age: float) -> int:
        """Drops uploads that were begun more than `age` seconds ago. Returns how many there were."""
        before = datetime.now(UTC) - timedelta(seconds=age)
        count = 0
        page: dict[str, Any] = {"IsTruncated": True}
        while page["IsTruncated"]:
            page = await self._answered("list uploads", self._uploads(page))
            for upload in page.get("Uploads", ()):
                blob_id = self._bucket.blob_of(upload["Key"])
                if blob_id is not None and upload["Initiated"] < before:
                    await self.abort(blob_id, upload["UploadId"])
                    count += 1
        return count

    def _uploads(self, page: dict[str, Any]) -> Awaitable[Any]:
        after = {
            marker: page[f"Next{marker}"] for marker in ("KeyMarker", "UploadIdMarker") if page.get(f"Next{marker}")
        }
        asking: Awaitable[Any] = self._client.list_multipart_uploads(
            Bucket=self._bucket.name, Prefix=self._bucket.prefix, **after
        )
        return asking

    def _named(self, blob_id: UUID) -> dict[str, str]:
        return {"Bucket": self._bucket.name, "Key": self._bucket.key_of(blob_id)}


async def _unless_over(asking: Awaitable[Any]) -> Any:
    try:
        return await asking
    except ClientError as error:
        if error.response["Error"]["Code"] in ("NoSuchUpload", "404"):
            return None
        raise
