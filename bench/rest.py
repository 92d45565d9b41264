"""The calls that set a scenario up: accounts, chatrooms, metrics. Not under measurement, so plain and blocking."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPConnection, HTTPSConnection
from itertools import count as counter
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import msgspec

from bench.target import TargetError
from protocol.discovery import WELL_KNOWN, ServerInfo

AT_ONCE = 8
"""Calls under way together; the server hashes two passwords at a time anyway."""
TRIES = 20
"""How often a call is made that is told to come back later."""
ADDED_AT_ONCE = 500
"""Users that one command may add to a chatroom."""
PASSWORD = "as long as it has to be"


@dataclass(frozen=True, slots=True)
class Account:
    """A user who is signed in."""

    id: str
    token: str


class Rest:
    """The REST layer of one server."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._url = urlsplit(url)
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._run = secrets.token_hex(4)  # names of an earlier run may still be taken
        self._names = counter()

    async def accounts(self, count: int) -> list[Account]:
        """So many new users. Each costs the server an argon2 hash of some 30 ms."""
        return list(await asyncio.gather(*(self._account() for _ in range(count))))

    async def _account(self) -> Account:
        name = f"bench-{self._run}-{next(self._names)}"
        body = {"username": name, "email": f"{name}@example.com", "password": PASSWORD}
        data = await self._data("POST", "/auth/register", None, body)
        return Account(data["user"]["id"], data["access_token"])

    async def chatroom(self, owner: Account, others: Sequence[Account]) -> UUID:
        """A group of these users."""
        body = {"name": "bench", "max_members": max(2, len(others) + 1)}
        data = await self._data("POST", "/chatrooms", owner.token, body)
        id = data["chatroom"]["id"]
        for at in range(0, len(others), ADDED_AT_ONCE):
            added = {"user_ids": [account.id for account in others[at : at + ADDED_AT_ONCE]]}
            await self._data("POST", f"/chatrooms/{id}/members", owner.token, added)
        return UUID(id)

    async def message(self, account: Account, chatroom: UUID, text: str) -> None:
        """A message of this user."""
        await self._data("POST", f"/chatrooms/{chatroom}/messages", account.token, {"content": text})

    async def bots(self, owner: Account, count: int) -> list[Account]:
        """So many bots of one user, each with its API key."""
        return list(await asyncio.gather(*(self._bot(owner) for _ in range(count))))

    async def _bot(self, owner: Account) -> Account:
        body = {"username": f"bot-{self._run}-{next(self._names)}", "scopes": ["read", "write", "manage"]}
        data = await self._data("POST", "/bots", owner.token, body)
        return Account(data["bot"]["id"], data["api_key"])

    async def info(self) -> ServerInfo:
        """What the server says of itself. Raises TargetError."""
        status, body = await self._call("GET", WELL_KNOWN, None, None)
        if status != HTTPStatus.OK:
            raise TargetError(f"{self._url.geturl()}{WELL_KNOWN} answers {status}")
        return msgspec.json.decode(body, type=ServerInfo)

    async def metrics(self) -> dict[str, float]:
        """The server's metrics without labels but the worker's; those of several workers are added up."""
        found: defaultdict[str, float] = defaultdict(float)
        lines = re.findall(r'^(\w+)(?:\{worker="\d+"\})? ([0-9.e+-]+)$', await self.metrics_text(), re.MULTILINE)
        for name, value in lines:
            found[name] += float(value)
        return dict(found)

    async def metrics_text(self) -> str:
        """The server's metrics as it tells them; nothing where it does not."""
        status, body = await self._call("GET", "/metrics", None, None)
        return body.decode() if status == HTTPStatus.OK else ""

    async def histogram(self, name: str) -> dict[float, float]:
        """How often one of the server's histograms had at most each of its bounds."""
        _, body = await self._call("GET", "/metrics", None, None)
        lines = re.findall(rb'^%s_bucket\{le="([^"]+)"\} ([0-9.e+-]+)$' % name.encode(), body, re.MULTILINE)
        return {float(bound): float(count) for bound, count in lines}

    async def _data(self, method: str, path: str, token: str | None, body: Any) -> Any:
        """The `data` of an answer. Waits when told to; raises TargetError for other refusals."""
        answer = b""
        for _ in range(TRIES):
            status, answer = await self._call(method, path, token, body)
            if status < HTTPStatus.BAD_REQUEST:
                return msgspec.json.decode(answer)["data"]
            if status != HTTPStatus.TOO_MANY_REQUESTS:
                break
            await asyncio.sleep(msgspec.json.decode(answer)["error"].get("retry_after") or 1.0)
        raise TargetError(f"{method} {path}: {answer.decode(errors='replace')}")

    async def _call(self, method: str, path: str, token: str | None, body: Any) -> tuple[int, bytes]:
        async with self._turns:
            return await asyncio.to_thread(self._blocking, method, path, token, body)

    def _blocking(self, method: str, path: str, token: str | None, body: Any) -> tuple[int, bytes]:
        kind = HTTPSConnection if self._url.scheme == "https" else HTTPConnection
        connection = kind(self._url.netloc, timeout=30)
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
        try:
            connection.request(method, self._url.path + path, msgspec.json.encode(body) if body else None, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        except OSError as error:
            raise TargetError(f"{self._url.geturl()} does not answer: {error}") from error
        finally:
            connection.close()
