"""The addresses that are commands: who asks, may they, what do they ask, what came of it."""

from __future__ import annotations

from aiohttp import web

from protocol.errors import ChatError
from rest.answers import succeeded
from rest.charges import Charges
from rest.requests import bearer, read_command
from rest.routes import MOUNTS, ROUTES, Route
from rest.settings import Actor, Chat


class Endpoint:
    """One line of the route table, answering."""

    def __init__(self, route: Route, chat: Chat, charges: Charges, body_deadline: float) -> None:
        self._route = route
        self._chat = chat
        self._charges = charges
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
            await self._charges.address(request)
            return None
        try:
            actor = await self._chat.authenticate(bearer(request))
        except ChatError:
            # Guessing at tokens is counted too, where it comes from.
            await self._charges.address(request)
            raise
        await self._charges.user(request, actor.user.id)
        return actor


def add_endpoints(app: web.Application, chat: Chat, charges: Charges, body_deadline: float) -> None:
    """Puts the whole route table into the application, at each of its mounts."""
    for mount in MOUNTS:
        for route in ROUTES:
            endpoint = Endpoint(route, chat, charges, body_deadline)
            app.router.add_route(route.method, mount + route.path, endpoint.answer)
