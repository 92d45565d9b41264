"""The addresses that are commands: who asks, may they, what do they ask, what came of it."""

from __future__ import annotations

from aiohttp import web

from rest.admission import Admission
from rest.answers import succeeded
from rest.requests import read_command
from rest.routes import MOUNTS, ROUTES, Route
from rest.settings import Chat


class Endpoint:
    """One line of the route table, answering."""

    def __init__(self, route: Route, chat: Chat, admission: Admission, body_deadline: float) -> None:
        self._route = route
        self._chat = chat
        signed = admission.uploader if route.upload else admission.signed
        self._admit = admission.unsigned if route.anonymous else signed
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


def add_endpoints(app: web.Application, chat: Chat, admission: Admission, body_deadline: float) -> None:
    """Puts the whole route table into the application, at each of its mounts."""
    for mount in MOUNTS:
        for route in ROUTES:
            endpoint = Endpoint(route, chat, admission, body_deadline)
            app.router.add_route(route.method, mount + route.path, endpoint.answer)
