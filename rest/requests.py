"""Requests as commands: the token, the path, the query and the body, each checked once."""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar
from uuid import UUID

import msgspec
from aiohttp import web

from protocol.codec import refusal
from protocol.commands import Command
from protocol.errors import ChatError

C = TypeVar("C", bound=Command)

UNKNOWN_ID = {
    "chatroom_id": "CHATROOM_NOT_FOUND",
    "user_id": "AUTH_USER_NOT_FOUND",
    "bot_id": "RESOURCE_NOT_FOUND",
    "file_id": "FILE_NOT_FOUND",
    "message_id": "MESSAGE_NOT_FOUND",
}
"""What an id in the path that is no id gets: the same answer as one that nobody has."""

_body = msgspec.json.Decoder(dict[str, Any])


def bearer(request: web.Request) -> str:
    """The access token of a request. Raises ChatError AUTH_REQUIRED where there is none."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not (token := token.strip()):
        raise ChatError("AUTH_REQUIRED")
    return token


async def read_command(request: web.Request, command: type[C], deadline: float) -> C:
    """The command in a request: body or query, and on top of them the path.

    Raises ChatError for whatever is wrong with it, REQUEST_TIMEOUT where the body
    takes longer than `deadline` seconds.
    """
    path = {name: path_id(request, name) for name in request.match_info}
    if request.method in ("POST", "PUT"):
        return convert(await _read_body(request, deadline) | path, command, strict=True)
    return convert(dict(request.query) | path, command, strict=False)


def path_id(request: web.Request, name: str) -> UUID:
    """An id in the path. Raises ChatError, as for one that nobody has."""
    try:
        return UUID(request.match_info[name])
    except ValueError:
        raise ChatError(UNKNOWN_ID[name]) from None


def convert(values: dict[str, Any], command: type[C], *, strict: bool) -> C:
    """Values as a command. What is not `strict` takes numbers and ids as text. Raises ChatError."""
    try:
        return msgspec.convert(values, command, strict=strict)
    except msgspec.ValidationError as error:
        raise refusal(error) from None


async def _read_body(request: web.Request, deadline: float) -> dict[str, Any]:
    _check_head(request)
    try:
        async with asyncio.timeout(deadline):
            body = await request.read()
    except TimeoutError:
        raise ChatError("REQUEST_TIMEOUT") from None
    except ConnectionError:
        raise ChatError("REQUEST_TIMEOUT", "The connection ended before the body did.") from None
    if not body:
        return {}  # whatever its type: clients give one even to nothing
    # aiohttp reads a missing type as application/octet-stream; a body without a type is taken for JSON here.
    if "Content-Type" in request.headers and request.content_type != "application/json":
        raise _bad_body("The body has to be application/json.")
    return _decode(body)


def _check_head(request: web.Request) -> None:
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise _bad_body("The body cannot be compressed.")
    if (request.content_length or 0) > request.client_max_size:
        raise ChatError("REQUEST_TOO_LARGE")


def _decode(body: bytes) -> dict[str, Any]:
    try:
        return _body.decode(body)
    except msgspec.ValidationError as error:
        raise refusal(error) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise _bad_body("The body is not JSON.") from None


def _bad_body(message: str) -> ChatError:
    return ChatError("VALIDATION_INVALID_FORMAT", message)
