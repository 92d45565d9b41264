"""What is in a file, told by its first bytes and never by its name: libmagic, as the command `file` has it."""

from __future__ import annotations

from typing import Literal

import pylibmagic  # noqa: F401  # brings libmagic, and lets `magic` find it
from magic import Magic

HEAD = 65_536
"""Bytes that are looked at."""

UNKNOWN = "application/octet-stream"

Kind = Literal["file", "image", "media"]


class Types:
    """Names types as in IANA's registry of media types."""

    def __init__(self) -> None:
        self._magic = Magic(mime=True)

    def of(self, head: bytes) -> str:
        """The type of a file that begins so."""
        found: str = self._magic.from_buffer(head) if head else UNKNOWN
        # It guesses at programming languages; to who gets the file, it is text.
        return "text/plain" if found.startswith("text/x-") else found


def kind_of(file_type: str) -> Kind:
    """Which limit a type has."""
    family = file_type.partition("/")[0]
    if family == "image":
        return "image"
    return "media" if family in ("audio", "video") else "file"
