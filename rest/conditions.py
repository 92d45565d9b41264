"""Requests that ask only for what has changed, or only for what has not (RFC 9110, 13). Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime
from typing import Literal, NamedTuple

_TAG = r'(?:W/)?"[\x21\x23-\x7e\x80-\uffff]*"'
_TAGS = re.compile(rf"[ \t,]*{_TAG}(?:[ \t]*,[ \t,]*{_TAG})*[ \t,]*")

Verdict = Literal["go on", "not modified", "failed"]


class Version(NamedTuple):
    """What of a file there is: `tag` in quotes, strong; `modified` to the second. Both change with its bytes."""

    tag: str
    modified: datetime

    @classmethod
    def of(cls, tag: str, modified: datetime) -> Version:
        """A version from a tag without quotes, and any time."""
        return cls(f'"{tag}"', modified.astimezone(UTC).replace(microsecond=0))

    @property
    def last_modified(self) -> str:
        """The time as a header has it (RFC 9110, 5.6.7)."""
        return format_datetime(self.modified, usegmt=True)


def weigh(headers: Mapping[str, str], version: Version) -> Verdict:
    """Whether a GET or HEAD goes on, in the order of RFC 9110, 13.2.2. Times that are none are not looked at."""
    if (tags := headers.get("If-Match")) is not None:
        if not _has(tags, version, weakly=False):
            return "failed"
    elif (time := _time(headers.get("If-Unmodified-Since"))) is not None and version.modified > time:
        return "failed"
    if (tags := headers.get("If-None-Match")) is not None:
        return "not modified" if _has(tags, version, weakly=True) else "go on"
    time = _time(headers.get("If-Modified-Since"))
    return "not modified" if time is not None and version.modified <= time else "go on"


def range_holds(headers: Mapping[str, str], version: Version) -> bool:
    """Whether If-Range lets a Range count: it names this version, and strongly (RFC 9110, 13.1.5)."""
    asked = headers.get("If-Range")
    return asked is None or asked.strip() == version.tag or _time(asked) == version.modified


def _has(tags: str, version: Version, *, weakly: bool) -> bool:
    if tags.strip() == "*":
        return True
    if _TAGS.fullmatch(tags) is None:
        return False
    found = re.findall(_TAG, tags)
    return version.tag in found or (weakly and f"W/{version.tag}" in found)


def _time(text: str | None) -> datetime | None:
    """A date of HTTP, in any of its three forms."""
    try:
        time = None if text is None else parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return None if time is None else time.replace(tzinfo=UTC) if time.tzinfo is None else time
