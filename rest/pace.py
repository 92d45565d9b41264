"""How slow the other end may be: a transfer has a total deadline that grows with every byte that moves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable, AsyncIterator, Awaitable
from typing import TypeVar

from aiohttp import web

from protocol.errors import ChatError
from rest.settings import RestSettings

T = TypeVar("T")


class Pace:
    """What a transfer has waited for its client, and may. Time that we ourselves take does not count.

    It may wait `grace` seconds, and as long as its bytes take at `slowest` a second.
    """

    def __init__(self, slowest: int, grace: float) -> None:
        self._slowest = slowest
        self._left = grace

    async def wait(self, awaitable: Awaitable[T]) -> T:
        """Waits for the client. Raises TimeoutError when it has taken too long in all."""
        began = time.monotonic()
        try:
            async with asyncio.timeout(self._left):
                return await awaitable
        finally:
            self._left -= time.monotonic() - began

    def moved(self, size: int) -> None:
        """So many bytes have come or gone."""
        self._left += size / self._slowest


async def paced(body: AsyncIterable[bytes], settings: RestSettings) -> AsyncIterator[bytes]:
    """A request's body, which has the time of any body and what its bytes take at `slowest_transfer`.

    Raises ChatError REQUEST_TIMEOUT when that is over, or when the body is cut short.
    """
    pace = Pace(settings.slowest_transfer, settings.body_deadline)
    pieces = aiter(body)
    while True:
        try:
            piece = await pace.wait(anext(pieces))
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise ChatError("REQUEST_TIMEOUT", "The file came too slowly.") from None
        except OSError:
            raise ChatError("REQUEST_TIMEOUT", "The connection ended before the file did.") from None
        except web.RequestPayloadError:
            raise ChatError("VALIDATION_INVALID_FORMAT", "The body is not HTTP as we take it.") from None
        pace.moved(len(piece))
        yield piece
