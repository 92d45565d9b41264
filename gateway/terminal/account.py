"""Signing in, by REST: a socket takes tokens only. Blocking, for a thread or for the time before there is a loop."""

from __future__ import annotations

import asyncio
import time
from typing import Any, TypeVar
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlsplit
from urllib.request import Request, urlopen
from uuid import UUID

import msgspec

from gateway.client_address import parse_address
from protocol.commands import Command, Login, Refresh, Register
from protocol.errors import ERRORS, ChatError
from protocol.events import Refreshed, SignedIn, UsersFound

TIMEOUT = 20.0
"""Seconds that a request may wait for the server."""

EARLY = 30.0
"""Seconds before its end from which an access token is no longer used."""

T = TypeVar("T")


class Rest:
    """REST beside the socket at `url`."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.base = f"{parts.scheme.replace('ws', 'http')}://{parts.netloc}/api/v1"

    @classmethod
    def beside(cls, url: str) -> Rest | None:
        """REST, where it is as safe as the socket: not beside TCP, and not in clear beside Noise. Raises ValueError."""
        address = parse_address(url)
        return cls(address.url) if address.transport == "ws" and (address.tls or not address.noise) else None

    def post(self, path: str, command: Command, kind: type[T]) -> T:
        """Gives a command. Raises ChatError, SERVICE_UNAVAILABLE if nobody answers."""
        return self._call(Request(self.base + path, msgspec.json.encode(command)), kind)  # noqa: S310 - http, see above

    def get(self, path: str, token: str, kind: type[T]) -> T:
        """Asks for something, signed in."""
        return self._call(Request(self.base + path, headers={"Authorization": f"Bearer {token}"}), kind)  # noqa: S310

    def _call(self, request: Request, kind: type[T]) -> T:
        request.add_header("Content-Type", "application/json")
        try:
            with urlopen(request, timeout=TIMEOUT) as answer:  # noqa: S310
                return msgspec.convert(_field(answer.read(), "data"), kind, strict=False)
        except HTTPError as error:
            raise _refusal(error) from None
        except (URLError, TimeoutError, ConnectionError) as error:
            reason = getattr(error, "reason", error)
            raise ChatError("SERVICE_UNAVAILABLE", f"{self.base} cannot be reached: {reason}") from None


def _field(body: bytes, name: str) -> Any:
    try:
        return msgspec.json.decode(body, type=dict[str, Any])[name]
    except (msgspec.MsgspecError, KeyError):
        raise ChatError("INTERNAL_ERROR", "What answers there is no Parley.") from None


def _refusal(error: HTTPError) -> ChatError:
    told = _field(error.read(), "error")
    code = told.get("code")
    return ChatError(code if code in ERRORS else "INTERNAL_ERROR", told.get("message"), details=told.get("details"))


class Account:
    """Someone who has signed in. `token` and `find` are for the loop; they wait in a thread."""

    def __init__(self, rest: Rest | None, username: str, access: str, refresh: str | None, ends: float) -> None:
        self.username = username
        self._rest = rest
        self._access = access
        self._refresh = refresh
        self._ends = ends
        self._refreshing = asyncio.Lock()

    @classmethod
    def with_token(cls, rest: Rest | None, token: str) -> Account:
        """Someone with an access token or an API key, which is used until it ends."""
        return cls(rest, "", token, None, 0.0)

    @classmethod
    def log_in(cls, rest: Rest, username: str, password: str) -> Account:
        """Someone with a password."""
        return cls._of(rest, rest.post("/auth/login", Login(username=username, password=password), SignedIn))

    @classmethod
    def register(cls, rest: Rest, username: str, email: str, password: str) -> Account:
        """Someone new."""
        command = Register(username=username, email=email, password=password)
        return cls._of(rest, rest.post("/auth/register", command, SignedIn))

    @classmethod
    def _of(cls, rest: Rest, signed_in: SignedIn) -> Account:
        ends = time.monotonic() + signed_in.expires_in
        return cls(rest, signed_in.user.username, signed_in.access_token, signed_in.refresh_token, ends)

    async def token(self) -> str:
        """A token that is good for now: the one there is, or a fresh one. Raises ChatError."""
        async with self._refreshing:  # a refresh token that is used twice looks stolen
            if self._rest is not None and self._refresh is not None and time.monotonic() > self._ends - EARLY:
                command = Refresh(refresh_token=self._refresh)
                fresh = await asyncio.to_thread(self._rest.post, "/auth/refresh", command, Refreshed)
                self._access, self._refresh = fresh.access_token, fresh.refresh_token
                self._ends = time.monotonic() + fresh.expires_in
            return self._access

    async def find(self, username: str) -> UUID:
        """The id of the user with this name. Raises ChatError AUTH_USER_NOT_FOUND."""
        if self._rest is None:
            raise ChatError("SERVICE_UNAVAILABLE", "Users are found by REST, which this address does not have.")
        path = f"/users?limit=100&search={quote(username, safe='')}"
        found = await asyncio.to_thread(self._rest.get, path, await self.token(), UsersFound)
        for user in found.users:
            if user.username.casefold() == username.casefold():
                return user.id
        raise ChatError("AUTH_USER_NOT_FOUND", f"There is no user called {username}.")
