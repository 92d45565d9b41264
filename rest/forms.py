"""Forms with files in them (RFC 7578), read as they come."""

from __future__ import annotations

from collections.abc import AsyncIterator

from aiohttp import BodyPartReader, MultipartReader, web
from aiohttp.http import HttpProcessingError

from protocol.errors import ChatError

PIECE = 65_536
"""Bytes of a form's file that are taken at once."""

FIELDS = 8
"""Fields that a form may have beside its file."""

FIELD_BYTES = 4_096
"""Bytes of one of them."""


async def multipart(request: web.Request) -> MultipartReader:
    """A request's form. Raises ChatError where it has none."""
    try:
        return await request.multipart()
    except (KeyError, ValueError, AssertionError):  # as a missing type, one without a boundary, and another one
        raise bad_form() from None


async def next_part(reader: MultipartReader) -> MultipartReader | BodyPartReader | None:
    """The next field or file of a form, None at its end. Raises ChatError."""
    try:
        return await reader.next()
    except (ValueError, HttpProcessingError):
        raise bad_form() from None


async def pieces(part: BodyPartReader) -> AsyncIterator[bytes]:
    """A file in a form, as it comes. Raises ChatError."""
    try:
        while piece := await part.read_chunk(PIECE):
            yield bytes(piece)
    except ValueError:
        raise bad_form() from None


async def text(part: BodyPartReader) -> str:
    """A field of a form. Raises ChatError."""
    data = await part.read_chunk(FIELD_BYTES)
    if not part.at_eof():
        raise ChatError("VALIDATION_LENGTH_EXCEEDED", "A field of the form is too long.", details={"field": part.name})
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise bad_form() from None


def bad_form() -> ChatError:
    """The refusal of what is no form."""
    return ChatError("VALIDATION_INVALID_FORMAT", "The body is not a form as RFC 7578 has it.")
