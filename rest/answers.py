"""Results and refusals as HTTP: the one envelope that every answer of the API has."""

from __future__ import annotations

import math
from typing import Any

import msgspec
from aiohttp import web
from msgspec import UNSET, Struct, UnsetType

from protocol.errors import ChatError

_encode = msgspec.json.Encoder().encode


class Success(Struct, frozen=True, kw_only=True):
    """The envelope of what went well."""

    success: bool = True
    data: Any = UNSET
    message: str | UnsetType = UNSET


class ErrorBody(Struct, frozen=True, kw_only=True):
    """The `error` of an envelope. `retry_after` is in seconds, and only there where waiting helps."""

    code: str
    message: str
    details: dict[str, Any]
    retry_after: float | UnsetType = UNSET


class Failure(Struct, frozen=True, kw_only=True):
    """The envelope of what did not. A failed check of health carries `data` as well."""

    success: bool = False
    error: ErrorBody
    data: Any = UNSET


def json(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """Any value as a JSON answer."""
    return web.Response(body=_encode(value), status=status, content_type="application/json", headers=headers)


def succeeded(data: Any = UNSET, status: int = 200, message: str | None = None) -> web.Response:
    """The answer to a command that was done."""
    return json(Success(data=data, message=UNSET if message is None else message), status)


def refused(error: ChatError, status: int | None = None, data: Any = UNSET) -> web.Response:
    """The answer to a command that was refused, with the status of its code unless another is given."""
    status = error.kind.status if status is None else status
    return json(Failure(error=_body(error), data=data), status, _headers(error, status))


def translated(error: web.HTTPException) -> web.Response:
    """What aiohttp itself refuses, in our envelope."""
    if isinstance(error, web.HTTPMethodNotAllowed):
        response = refused(ChatError("METHOD_NOT_ALLOWED"))
        response.headers["Allow"] = ", ".join(sorted(error.allowed_methods))
        return response
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        return refused(ChatError("REQUEST_TOO_LARGE"))
    if isinstance(error, web.HTTPNotFound):
        return refused(ChatError("RESOURCE_NOT_FOUND"))
    return refused(ChatError("VALIDATION_INVALID_FORMAT", "The request is not HTTP as we take it."), error.status)


def _body(error: ChatError) -> ErrorBody:
    retry_after = UNSET if error.retry_after is None else round(error.retry_after, 3)
    return ErrorBody(code=error.code, message=error.message, details=error.details, retry_after=retry_after)


def _headers(error: ChatError, status: int) -> dict[str, str]:
    headers: dict[str, str] = {}
    if error.retry_after is not None:
        # The header takes whole seconds only (RFC 9110, 10.2.3); coming a moment late is better than early.
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after)))
    if status == 401:
        # RFC 9110, 11.6.1 asks for a challenge with every 401; RFC 6750 says what a bad token adds to it.
        bad_token = error.code in ("AUTH_TOKEN_EXPIRED", "AUTH_TOKEN_INVALID")
        headers["WWW-Authenticate"] = 'Bearer error="invalid_token"' if bad_token else "Bearer"
    return headers
