"""The addresses that are commands: who asks, may they, what do they ask, what came of it."""

from __future__ import annotations

from collections.abc import Hashable

from aiohttp import web

from protocol.addresses import network_of
from protocol.errors import ChatError
from rest.answers import succeeded
from rest.limits import Allowance, Limits
from rest.requests import bearer, read_command
from rest.routes import MOUNTS, ROUTES, Route
from rest.settings import Actor, Chat

ALLOWANCE = web.RequestKey("allowance", Allowance)
"""Where a request keeps what its limit said, for the headers of its answer."""


def charge(request: web.Request, limits: Limits, key: Hashable) -> None:
    """Counts a request. Raises ChatError RATE_LIMIT_EXCEEDED when it is one too many."""
    request[ALLOWANCE] = allowance = limits.take(key)
    if not allowance.allowed:
        raise ChatError("RATE_LIMIT_EXCEEDED", retry_after=allowance.retry_after)


def charge_address(request: web.Request, limits: Limits) -> None:
    """Counts a request that nobody has signed. The address is the connection's: headers can say anything."""
    charge(request, limits, network_of(request.remote))


class Endpoint:
    """One line of the route table, answering."""

    def __init__(self, route: Route, chat: Chat, limits: Limits, body_deadline: float) -> None:
        self._route = route
        self._chat = chat
        self._limits = limits
        self._body_deadline = body_deadline

    async def answer(self, request: web.Request) -> web.Response:
        """Does what the request asks. Raises ChatError."""
        route = self._route
        actor = await self._admit(request)
        command = await read_command(request, route.command, self._body_deadline)
        result = await self._chat.handle(actor, command)
        if route.result is None:
            return succeeded(status=route.status, message=route.message)
        return succeeded(result, route.status_of(result), route.message)

    async def _admit(self, request: web.Request) -> Actor | None:
        if self._route.anonymous:
            charge_address(request, self._limits)
            return None
        try:
            actor = await self._chat.authenticate(bearer(request))
        except ChatError:
            # Guessing at tokens is counted too, where it comes from.
            charge_address(request, self._limits)
            raise
        charge(request, self._limits, actor.user.id)
        return actor


def add_endpoints(app: web.Application, chat: Chat, limits: Limits, body_deadline: float) -> None:
    """Puts the whole route table into the application, at each of its mounts."""
    for mount in MOUNTS:
        for route in ROUTES:
            endpoint = Endpoint(route, chat, limits, body_deadline)
            app.router.add_route(route.method, mount + route.path, endpoint.answer)
