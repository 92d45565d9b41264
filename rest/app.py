"""The aiohttp application: the route table, the pages around it, and what all answers go through."""

from __future__ import annotations

from aiohttp import web

from rest.admission import Admission
from rest.avatars import add_avatars
from rest.charges import Charges
from rest.downloads import add_downloads
from rest.endpoints import add_endpoints
from rest.middleware import Failures, Headers, Outcome
from rest.pages import add_pages
from rest.parts import add_parts
from rest.service import add_service
from rest.settings import Chat, Observe, ReadMetrics, RestSettings
from rest.tus import add_tus
from rest.uploads import add_uploads


def make_app(chat: Chat, settings: RestSettings, metrics: ReadMetrics, observe: Observe) -> web.Application:
    """The application that answers all HTTP but the WebSocket.

    `metrics` reads the text of `/metrics`; `observe` is told of every answer.
    """
    charges = Charges(chat, settings.proxies)
    headers = Headers(settings.origins, settings.https_only)
    middlewares = [web.middleware(m) for m in (Outcome(observe), headers, Failures(charges))]
    app = web.Application(middlewares=middlewares, client_max_size=settings.body_limit)
    app.on_response_prepare.append(headers.put_on)
    admission = Admission(chat, charges)
    add_endpoints(app, chat, admission, settings.body_deadline)
    add_uploads(app, chat, admission, settings)
    add_avatars(app, chat, admission, settings)
    add_tus(app, chat, admission, settings)
    add_parts(app, chat, admission, settings)
    add_downloads(app, chat, admission, settings)
    add_service(app, chat, settings, metrics)
    add_pages(app, settings)
    return app
