"""What machines around the server ask: is it well, what does it count, how is it reached, whose are its tokens."""

from __future__ import annotations

from datetime import UTC, datetime

from aiohttp import web
from msgspec import Struct

from protocol.discovery import WELL_KNOWN
from protocol.errors import ChatError
from rest.answers import json, refused, succeeded
from rest.routes import MOUNTS
from rest.settings import Chat, ReadMetrics, RestSettings

JWKS_AGE = 300
"""Seconds a verifier may keep the keys; rotation keeps an old one for longer than that."""

INFO_AGE = 60
"""Seconds a client may keep what the server says of itself: after a restart it may say something else."""

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""The text format of Prometheus."""


class Health(Struct, frozen=True, kw_only=True):
    """How the server is, and each service behind it."""

    status: str
    timestamp: datetime
    version: str
    services: dict[str, str]


class Service:
    """The handlers, with what they report on."""

    def __init__(self, chat: Chat, settings: RestSettings, metrics: ReadMetrics) -> None:
        self._chat = chat
        self._version = settings.version
        self._info = settings.info
        self._metrics = metrics

    async def live(self, _request: web.Request) -> web.Response:
        """Whether the process answers; asks nobody else, so that a database away is no reason to kill it."""
        return succeeded(self._report({}, well=True))

    async def health(self, _request: web.Request) -> web.Response:
        """Whether every service behind the server is well."""
        services = await self._chat.health()
        return self._answer(services, _all_well(services))

    async def ready(self, _request: web.Request) -> web.Response:
        """Whether new work is welcome: all is well, and the server is not draining."""
        services = await self._chat.health()
        return self._answer(services, self._chat.ready and _all_well(services))

    async def metrics(self, _request: web.Request) -> web.Response:
        """What the server counts."""
        return web.Response(body=await self._metrics(), headers={"Content-Type": METRICS_TYPE})

    async def jwks(self, _request: web.Request) -> web.Response:
        """The public keys of access tokens."""
        return json(self._chat.jwks(), headers={"Cache-Control": f"public, max-age={JWKS_AGE}"})

    async def discover(self, _request: web.Request) -> web.Response:
        """What a client has to know: the server's key, its ports, what it speaks, what it allows."""
        return json(self._info, headers={"Cache-Control": f"public, max-age={INFO_AGE}"})

    def _answer(self, services: dict[str, str], well: bool) -> web.Response:
        report = self._report(services, well)
        return succeeded(report) if well else refused(ChatError("SERVICE_UNAVAILABLE"), data=report)

    def _report(self, services: dict[str, str], well: bool) -> Health:
        status = ("degraded" if "degraded" in services.values() else "healthy") if well else "unhealthy"
        return Health(status=status, timestamp=datetime.now(UTC), version=self._version, services=services)


def _all_well(services: dict[str, str]) -> bool:
    return "unhealthy" not in services.values()


def add_service(app: web.Application, chat: Chat, settings: RestSettings, metrics: ReadMetrics) -> None:
    """Puts the handlers into the application."""
    service = Service(chat, settings, metrics)
    for mount in MOUNTS:
        app.router.add_get(f"{mount}/health", service.health)
        app.router.add_get(f"{mount}/health/live", service.live)
        app.router.add_get(f"{mount}/health/ready", service.ready)
        app.router.add_get(f"{mount}/metrics", service.metrics)
    app.router.add_get("/.well-known/jwks.json", service.jwks)
    app.router.add_get(WELL_KNOWN, service.discover)
