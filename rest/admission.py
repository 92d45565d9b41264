"""Who asks: every request is admitted as somebody, or as an address, and counted."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web

from protocol.errors import ChatError
from rest.charges import Charges
from rest.requests import bearer, path_id
from rest.settings import Actor, Chat


class Admission:
    """Lets requests in."""

    def __init__(self, chat: Chat, charges: Charges) -> None:
        self._chat = chat
        self._charges = charges

    async def signed(self, request: web.Request) -> Actor:
        """Whose token the request brings. Raises ChatError."""
        return await self._known(request, lambda: self._chat.authenticate(bearer(request)))

    async def reader(self, request: web.Request) -> Actor:
        """Who asks for a file: by the signature in its address, or else by a token. Raises ChatError."""
        signature = request.query.get("signature")
        if signature is None:
            return await self.signed(request)
        return await self._known(request, lambda: self._chat.files.redeem(path_id(request, "file_id"), signature))

    async def unsigned(self, request: web.Request) -> None:
        """A request that needs no token. Raises ChatError RATE_LIMIT_EXCEEDED."""
        await self._charges.address(request)

    async def part_sender(self, request: web.Request, number: int) -> Actor:
        """Who sends a part of an upload, by the signature in its address. Raises ChatError."""
        signature = request.query.get("signature", "")
        files = self._chat.files
        return await self._known(request, lambda: files.redeem_part(path_id(request, "file_id"), number, signature))

    async def _known(self, request: web.Request, who: Callable[[], Awaitable[Actor]]) -> Actor:
        try:
            actor = await who()
        except ChatError:
            # Guessing at tokens is counted too, where it comes from.
            await self._charges.address(request)
            raise
        await self._charges.user(request, actor.user.id)
        return actor

    async def uploader(self, request: web.Request) -> Actor:
        """Who uploads, which is counted beside requests. Raises ChatError."""
        actor = await self.signed(request)
        await self._charges.upload(request, actor.user.id)
        return actor
