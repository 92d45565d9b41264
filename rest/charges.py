"""Who a request is counted against: the user who has signed it, or else the address it comes from."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from aiohttp import web

from protocol.addresses import Network, client_of, network_of
from protocol.errors import ChatError
from rest.settings import Allowance, Chat

ALLOWANCE = web.RequestKey[Allowance]("allowance", Allowance)
"""Where a request keeps what its limit said, for the headers of its answer."""


class Charges:
    """Counts requests. `proxies` say truly whom they have heard."""

    def __init__(self, chat: Chat, proxies: Sequence[Network]) -> None:
        self._chat = chat
        self._proxies = proxies

    async def user(self, request: web.Request, user_id: UUID) -> None:
        """Counts a signed request. Raises ChatError RATE_LIMIT_EXCEEDED when it is one too many."""
        await self._charge(request, f"user:{user_id}")

    async def upload(self, request: web.Request, user_id: UUID) -> None:
        """Counts an upload beside that: from now on the headers tell of uploads. Raises the same."""
        self._check(request, await self._chat.take_upload(user_id))

    async def address(self, request: web.Request) -> None:
        """Counts a request that nobody has signed. Raises the same."""
        client = client_of(request.remote, request.headers.getall("X-Forwarded-For", ()), self._proxies)
        await self._charge(request, f"address:{network_of(client)}")

    async def _charge(self, request: web.Request, key: str) -> None:
        self._check(request, await self._chat.take(key))

    def _check(self, request: web.Request, allowance: Allowance) -> None:
        request[ALLOWANCE] = allowance
        if not allowance.allowed:
            raise ChatError("RATE_LIMIT_EXCEEDED", retry_after=allowance.retry_after)
