"""The headers of tus 1.0.0, read."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Mapping
from typing import get_args

from protocol.errors import ChatError
from rest.settings import Checksum, ChecksumAlgorithm

METADATA_BYTES = 2_048
"""Bytes of Upload-Metadata that are kept."""

FIELDS = ("filename", "chatroom_id", "encrypted", "expires_in")
"""Keys of Upload-Metadata that mean something here; the others are only kept."""


def number(headers: Mapping[str, str], name: str) -> int | None:
    """A number of bytes; None where there is no such header. Raises ChatError."""
    text = headers.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise ChatError("VALIDATION_INVALID_VALUE", f"{name} has to be a number of bytes.", details={"field": name})
    return int(text)


def fields(metadata: str) -> dict[str, str]:
    """What Upload-Metadata says of a file: keys with base64 behind them, parted by commas. Raises ChatError."""
    if len(metadata) > METADATA_BYTES:
        raise ChatError("VALIDATION_LENGTH_EXCEEDED", details={"field": "Upload-Metadata", "limit": METADATA_BYTES})
    if not (metadata.isascii() and metadata.isprintable()):
        raise _bad("Upload-Metadata")
    found: dict[str, str] = {}
    for pair in metadata.split(",") if metadata.strip() else ():
        key, _, value = pair.strip().partition(" ")
        if not key or key in found:
            raise _bad("Upload-Metadata")
        found[key] = _text(value) if key in (*FIELDS, "name") else ""
    if "filename" not in found and "name" in found:
        found["filename"] = found["name"]
    if "filename" not in found:
        raise missing("filename")
    return {key: found[key] for key in FIELDS if key in found}


def checksum(headers: Mapping[str, str]) -> Checksum | None:
    """What Upload-Checksum says; None where it is not there. Raises ChatError."""
    header = headers.get("Upload-Checksum")
    if header is None:
        return None
    name, _, value = header.partition(" ")
    for algorithm in get_args(ChecksumAlgorithm):
        if name == algorithm:
            return algorithm, _digest(value)
    raise ChatError("UPLOAD_CHECKSUM_UNSUPPORTED", details={"supported": get_args(ChecksumAlgorithm)})


def missing(name: str) -> ChatError:
    """The answer where a header, or a key of one, is not there."""
    return ChatError("VALIDATION_REQUIRED_FIELD", f"{name} is missing.", details={"field": name})


def _text(value: str) -> str:
    try:
        return b64decode(value, validate=True).decode()
    except ValueError:  # of base64, and of UTF-8
        raise _bad("Upload-Metadata") from None


def _digest(value: str) -> bytes:
    try:
        return b64decode(value, validate=True)
    except ValueError:  # not ASCII, or not base64
        raise _bad("Upload-Checksum") from None


def _bad(name: str) -> ChatError:
    return ChatError("VALIDATION_INVALID_FORMAT", f"{name} is not as tus 1.0.0 has it.", details={"field": name})
