"""The connections of HTTP: aiohttp's own, with a total deadline for every part of an exchange."""

from __future__ import annotations

import asyncio
import logging

from aiohttp import web

from protocol.errors import ChatError
from rest.answers import refused, translated
from rest.settings import RestSettings

logger = logging.getLogger("parley.rest")

MAX_LINE = 8_190
"""Bytes of a request line, and of one header; what Apache and aiohttp take."""

MAX_HEADERS = 64
"""Headers of a request."""

LINGER = 2.0
"""Seconds in which a client that is still sending a refused body may read why, before the connection is cut."""


class Connection(web.RequestHandler):
    """One HTTP connection.

    aiohttp bounds the time between two requests, but a head that comes a byte at a time may use all of it, and an
    answer that nobody reads may wait for ever; both get a deadline here.
    """

    __slots__ = ("_head_timer", "_heads_seen", "_settings")

    def __init__(self, server: web.Server, settings: RestSettings) -> None:
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=settings.keep_alive,
            max_line_size=MAX_LINE,
            max_field_size=MAX_LINE,
            max_headers=MAX_HEADERS,
            lingering_time=LINGER,
            access_log=None,  # type: ignore[arg-type]  # None is how aiohttp turns it off
            auto_decompress=False,
            logger=logger,
        )
        self._settings = settings
        self._head_timer: asyncio.TimerHandle | None = None
        self._heads_seen = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Starts the connection; its first head is due at once."""
        super().connection_made(transport)
        self._expect_head()

    def data_received(self, data: bytes) -> None:
        """Takes bytes. Those that come between requests and make no head yet start the head's deadline."""
        super().data_received(data)
        if self._between_requests():
            self._expect_head()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Ends the connection."""
        if self._head_timer is not None:
            self._head_timer.cancel()
        super().connection_lost(exc)

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Sends an answer. A client that does not read it in the time a body may take is cut off."""
        if isinstance(resp, web.HTTPException):
            resp = translated(resp)  # refused before any middleware saw it
        # aiohttp would name itself, Python, and the versions of both.
        resp.headers["Server"] = "Parley"
        try:
            async with asyncio.timeout(self._settings.body_deadline):
                return await super().finish_response(request, resp, start_time)
        except TimeoutError:
            if self.transport is not None:
                self.transport.abort()
            raise ConnectionResetError("the answer was not read in time") from None

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # it quotes the request, and so perhaps a token
    ) -> web.StreamResponse:
        """The answer to what is no HTTP, or to what no handler caught."""
        if status == 500:
            logger.error("A request failed outside its handler.", exc_info=exc)
            response = refused(ChatError("INTERNAL_ERROR"))
        else:
            response = refused(ChatError("VALIDATION_INVALID_FORMAT", "The request is not HTTP as we take it."), status)
        response.force_close()
        return response

    def _between_requests(self) -> bool:
        # The test by which aiohttp's own keep-alive timer knows an idle connection.
        return self._waiter is not None and not self._waiter.done()

    def _expect_head(self) -> None:
        if self._head_timer is not None:
            if self._heads_seen == self._request_count:
                return
            self._head_timer.cancel()
        self._heads_seen = self._request_count
        self._head_timer = self._loop.call_later(self._settings.header_deadline, self._cut_head)

    def _cut_head(self) -> None:
        self._head_timer = None
        if self._heads_seen == self._request_count and self._between_requests():
            self.force_close()


class HttpServer:
    """aiohttp behind the front door: call it for the protocol of one connection.

    The protocol wants `connection_made(transport)`, then `data_received` with what was
    read already, then to be the transport's protocol.
    """

    def __init__(self, runner: web.AppRunner, server: web.Server, settings: RestSettings) -> None:
        self._runner = runner
        self._server = server
        self._settings = settings

    @classmethod
    async def start(cls, app: web.Application, settings: RestSettings) -> HttpServer:
        """Makes the application ready to serve."""
        runner = web.AppRunner(app)
        await runner.setup()
        if runner.server is None:
            raise RuntimeError("aiohttp made no server")
        return cls(runner, runner.server, settings)

    def __call__(self) -> asyncio.Protocol:
        """A protocol for one new connection."""
        return Connection(self._server, self._settings)

    async def stop(self, grace: float) -> None:
        """Closes idle connections at once, the others when their answer is out, all after `grace` seconds."""
        self._server.pre_shutdown()
        await self._server.shutdown(grace)
        await self._runner.cleanup()
