"""What every answer goes through: failures become envelopes, headers are put on, the outcome is counted."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Awaitable, Callable

from aiohttp import web

from protocol.errors import ChatError
from rest.answers import refused, translated
from rest.charges import ALLOWANCE, Charges
from rest.routes import MOUNTS
from rest.settings import Observe

logger = logging.getLogger("parley.rest")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
PREFLIGHT_AGE = 600
"""Seconds a browser may remember what a preflight said."""

STRICT_AGE = 31_536_000
"""Seconds, a year, for which a browser remembers to come by TLS only (RFC 6797)."""

ALLOWED = (
    "Authorization, Content-Disposition, Content-Type, If-Match, If-Modified-Since, If-None-Match, If-Range,"
    " If-Unmodified-Since, Range, Tus-Resumable, Upload-Checksum, Upload-Defer-Length, Upload-Length, Upload-Metadata,"
    " Upload-Offset, X-HTTP-Method-Override, X-Requested-With"
)
"""Headers that a script of an allowed origin may send."""

EXPOSED = (
    "Accept-Ranges, Content-Disposition, Content-Range, ETag, Location, Parley-File, Retry-After,"
    " Tus-Checksum-Algorithm, Tus-Extension, Tus-Max-Size, Tus-Resumable, Tus-Version, Upload-Defer-Length,"
    " Upload-Expires, Upload-Length, Upload-Metadata, Upload-Offset, X-RateLimit-Limit, X-RateLimit-Remaining,"
    " X-RateLimit-Reset"
)
"""Headers that a script of an allowed origin may read."""

EXTRA = web.RequestKey[dict[str, str]]("extra", dict)
"""Where a request keeps headers that its answer has, refusals too."""


class Outcome:
    """Tells `observe` of every answer, under the route's template: paths are for people, templates for metrics."""

    def __init__(self, observe: Observe) -> None:
        self._observe = observe

    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Times one request."""
        began = time.monotonic()
        response = await handler(request)
        method = request.method if request.method in METHODS else "OTHER"
        self._observe(route_name(request), method, response.status, time.monotonic() - began)
        return response


def route_name(request: web.Request) -> str:
    """The template of a request's route without its mount, or `unmatched`."""
    resource = request.match_info.route.resource
    if resource is None:
        return "unmatched"
    return resource.canonical.removeprefix(MOUNTS[0])


class Headers:
    """Puts on every answer what browsers need to know, and what is left of the sender's limit."""

    def __init__(self, origins: tuple[str, ...], https_only: bool) -> None:
        self._origins = origins
        self._https_only = https_only

    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answers a preflight."""
        return self._preflight(request) or await handler(request)

    async def put_on(self, request: web.Request, response: web.StreamResponse) -> None:
        """Dresses an answer whose head is about to go out, which for a file is long before its end."""
        headers = response.headers
        # aiohttp would name itself, Python, and the versions of both.
        headers["Server"] = "Parley"
        headers.update(request.get(EXTRA, {}))
        headers["X-Content-Type-Options"] = "nosniff"
        headers["Referrer-Policy"] = "no-referrer"
        # What the API says is for its reader alone; the few public answers say so themselves.
        headers.setdefault("Cache-Control", "no-store")
        if self._https_only:
            headers["Strict-Transport-Security"] = f"max-age={STRICT_AGE}"
        self._share(request, response)
        _tell_allowance(request, response)

    def _preflight(self, request: web.Request) -> web.Response | None:
        asked = request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers
        if not asked or not (methods := _methods_at(request)) or self._allowed(request) is None:
            return None
        headers = {
            "Access-Control-Allow-Methods": ", ".join(sorted(methods)),
            "Access-Control-Allow-Headers": ALLOWED,
            "Access-Control-Max-Age": str(PREFLIGHT_AGE),
        }
        return web.Response(status=204, headers=headers)

    def _share(self, request: web.Request, response: web.StreamResponse) -> None:
        if self._origins and "*" not in self._origins:
            response.headers["Vary"] = "Origin"
        if (origin := self._allowed(request)) is not None:
            response.headers["Access-Control-Allow-Origin"] = origin
            response.headers["Access-Control-Expose-Headers"] = EXPOSED

    def _allowed(self, request: web.Request) -> str | None:
        origin = request.headers.get("Origin")
        if origin is None:
            return None
        return "*" if "*" in self._origins else origin if origin in self._origins else None


def _methods_at(request: web.Request) -> set[str]:
    """The methods of an address that was asked with OPTIONS, whether it has that one or not."""
    refusal = request.match_info.http_exception
    if isinstance(refusal, web.HTTPMethodNotAllowed):
        return refusal.allowed_methods
    resource = request.match_info.route.resource
    return set() if resource is None else {route.method for route in resource}


def _tell_allowance(request: web.Request, response: web.StreamResponse) -> None:
    allowance = request.get(ALLOWANCE)
    if allowance is not None:
        response.headers["X-RateLimit-Limit"] = str(allowance.limit)
        response.headers["X-RateLimit-Remaining"] = str(allowance.remaining)
        response.headers["X-RateLimit-Reset"] = str(int(time.time() + allowance.reset + 0.999))


class Failures:
    """Turns whatever a handler raises into the envelope of its code."""

    def __init__(self, charges: Charges) -> None:
        self._charges = charges

    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answers one request, whatever happens."""
        try:
            if request.match_info.http_exception is not None:
                await self._charges.address(request)
            return await handler(request)
        except ChatError as error:
            response = refused(error)
            if error.code == "REQUEST_TIMEOUT":
                response.force_close()
            return response
        except web.HTTPException as error:
            return translated(error)
        except Exception as error:
            return _unexpected(request, error)


def _unexpected(request: web.Request, error: Exception) -> web.Response:
    request_id = secrets.token_hex(8)
    # The template, not the path or the query: those may hold what a log should not.
    logger.error("Request %s failed: %s %s", request_id, request.method, route_name(request), exc_info=error)
    return refused(ChatError("INTERNAL_ERROR", details={"request_id": request_id}))
