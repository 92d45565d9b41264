"""Which place for blobs a setting names: a directory of this machine's, or a bucket that speaks S3."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, urlsplit
from uuid import UUID

from storage.blobs import Blobs, Directory

TIMEOUT = 10.0
"""Seconds that S3 may be silent, unless the setting says otherwise."""

_BLOB = re.compile("[0-9a-f]{32}")

OPTIONS = ("endpoint_url", "region", "timeout")


@dataclass(frozen=True, slots=True)
class Bucket:
    """A bucket, or what is below a `prefix` in it (empty, or ending with a slash). `timeout` is in seconds.

    `endpoint_url` is where it is, of a storage that is not Amazon's. Credentials are the environment's. `direct` says
    that clients may send parts of files there themselves.
    """

    name: str
    prefix: str = ""
    endpoint_url: str | None = None
    region: str | None = None
    timeout: float = TIMEOUT
    direct: bool = False

    def key_of(self, blob_id: UUID) -> str:
        """What a blob is called there."""
        return self.prefix + blob_id.hex

    def blob_of(self, key: str) -> UUID | None:
        """The blob that is called so; None for what is not ours."""
        name = key.removeprefix(self.prefix)
        return UUID(hex=name) if _BLOB.fullmatch(name) else None


Place = Path | Bucket


def place_of(text: str) -> Place:
    """What a setting names. Raises ValueError, which says what it has to be."""
    if text.startswith("s3://"):
        return _bucket(urlsplit(text))
    scheme, _, path = text.partition(":")
    if scheme != "file" or not path:
        raise ValueError("it has to be a directory, as in file:/srv/blobs, or a bucket, as in s3://bucket/prefix")
    return Path(path)


def _bucket(url: SplitResult) -> Bucket:
    if "@" in url.netloc:
        raise ValueError("credentials do not belong there: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
    options = dict(parse_qsl(url.query, keep_blank_values=True))
    if unknown := options.keys() - set(OPTIONS):
        raise ValueError(f"{min(unknown)} is no option of s3:// there; {', '.join(OPTIONS)} are")
    if not url.netloc or url.fragment:
        raise ValueError("it has to name a bucket, as in s3://bucket/prefix")
    prefix = url.path.strip("/")
    return Bucket(
        name=url.netloc,
        prefix=f"{prefix}/" if prefix else "",
        endpoint_url=_endpoint(options.get("endpoint_url")),
        region=options.get("region") or None,
        timeout=_seconds(options.get("timeout")),
    )


def _endpoint(text: str | None) -> str | None:
    if text and (urlsplit(text).scheme not in ("http", "https") or not urlsplit(text).hostname):
        raise ValueError("endpoint_url has to be http://… or https://…, and & in it %26")
    return text or None


def _seconds(text: str | None) -> float:
    try:
        seconds = TIMEOUT if text is None else float(text)
    except ValueError:
        seconds = 0
    if not 0 < seconds < math.inf:
        raise ValueError("timeout has to be seconds, above zero")
    return seconds


async def open_blobs(place: Place, spool: Path) -> Blobs:
    """The place itself. What is on its way into a bucket is in `spool` meanwhile."""
    if isinstance(place, Path):
        return Directory(place)
    # It takes half a second and 30 MB, which only who uses it should pay.
    from storage.s3_blobs import S3Blobs

    return await S3Blobs.open(place, spool)
