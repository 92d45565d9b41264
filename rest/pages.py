"""The pages for people: where to begin, and the API's description. No scripts, nothing from elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from importlib.resources import files

from aiohttp import web

from protocol.errors import ChatError
from rest import openapi
from rest.answers import json
from rest.docs import page
from rest.settings import RestSettings

POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""The Content-Security-Policy of every page."""

AGE = 300
"""Seconds a browser may keep a page; a new version shows soon after it runs."""

TYPES = {".css": "text/css", ".svg": "image/svg+xml"}
"""Files of `static` that have an address of their own, by their ending."""


@dataclass(frozen=True, slots=True)
class File:
    """One file, as it is sent."""

    body: bytes
    content_type: str

    def answer(self) -> web.Response:
        """The file as an answer."""
        headers = {"Content-Security-Policy": POLICY, "Cache-Control": f"public, max-age={AGE}"}
        return web.Response(body=self.body, content_type=self.content_type, charset="utf-8", headers=headers)


class Pages:
    """The handlers, with everything they send made beforehand."""

    def __init__(self, settings: RestSettings) -> None:
        self._document = openapi.document(settings.version)
        self._docs = File(page(self._document).encode(), "text/html")
        self._landing = File(_landing(settings).encode(), "text/html")
        self._static = _static()

    async def landing(self, _request: web.Request) -> web.Response:
        """What this is, and how to begin."""
        return self._landing.answer()

    async def docs(self, _request: web.Request) -> web.Response:
        """The API, readable."""
        return self._docs.answer()

    async def openapi(self, _request: web.Request) -> web.Response:
        """The API, for tools."""
        return json(self._document, headers={"Cache-Control": f"public, max-age={AGE}"})

    async def static(self, request: web.Request) -> web.Response:
        """One of the files that the pages use."""
        file = self._static.get(request.match_info["name"])
        if file is None:
            raise ChatError("RESOURCE_NOT_FOUND")
        return file.answer()


def _static() -> dict[str, File]:
    found = {}
    for entry in (files("rest") / "static").iterdir():
        kind = TYPES.get("." + entry.name.rpartition(".")[2])
        if kind is not None:
            found[entry.name] = File(entry.read_bytes(), kind)
    return found


def _landing(settings: RestSettings) -> str:
    url = settings.public_url.rstrip("/")
    values = {"url": url, "socket": "ws" + url.removeprefix("http"), "version": settings.version}
    text = (files("rest") / "static" / "index.html").read_text("utf-8")
    for name, value in values.items():
        text = text.replace("{{" + name + "}}", escape(value))
    return text


def add_pages(app: web.Application, settings: RestSettings) -> None:
    """Puts the pages into the application."""
    pages = Pages(settings)
    app.router.add_get("/", pages.landing)
    app.router.add_get("/api/docs", pages.docs)
    app.router.add_get("/api/openapi.json", pages.openapi)
    app.router.add_get("/static/{name}", pages.static)
