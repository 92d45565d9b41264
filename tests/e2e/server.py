"""A real Parley in a process of its own, and what a test needs to talk to it as any client would."""

from __future__ import annotations

import asyncio
import base64
import os
import signal
import ssl
import sys
from asyncio.subprocess import Process
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import aiohttp

from tests.e2e.forks import Forked, fork
from tests.e2e.lines import Transport
from tests.ports import free_port

GENEROUS = {
    "PARLEY_LIMIT_REQUESTS": "1000000",
    "PARLEY_LIMIT_COMMANDS": "100000000",
    "PARLEY_LIMIT_BURST": "1000000",
    "PARLEY_LIMIT_CONNECTIONS": "100000",
    "PARLEY_LIMIT_UNAUTHENTICATED": "100000",
    "PARLEY_LIMIT_PASSWORD_QUEUE": "10000",
    "PARLEY_LIMIT_UPLOADS": "1000000",
    "PARLEY_DRAIN": "0.2",
}
"""Limits out of the way, for tests that are about something else."""

PASSWORD = "planted-password-0451"
"""Every test account's; the scan of dumps and logs looks for it."""


@dataclass(slots=True)
class Person:
    """An account that is signed in."""

    id: UUID
    username: str
    token: str
    refresh_token: str


@dataclass(slots=True)
class Server:
    """`parley serve` as a child process, with these arguments. It can be killed and started again on the same data
    and port.

    `trust` is how its clients check its certificate, where it has one; `transport` is
    how they talk to it when a test does not say.
    """

    directory: Path
    database_url: str
    settings: dict[str, str]
    arguments: tuple[str, ...] = ()
    port: int = 0
    tcp_port: int = 0
    process: Process | Forked | None = None
    log_files: list[Path] = field(default_factory=list)
    trust: ssl.SSLContext | None = None
    transport: Transport = "ws-json"
    _noise_key: bytes = b""

    def over(self, transport: Transport) -> Server:
        """The same server, which runs already, as clients of this transport see it."""
        return replace(self, transport=transport)

    @property
    def http(self) -> str:
        """Where REST is."""
        return f"http{self._secure}://127.0.0.1:{self.port}"

    @property
    def ws(self) -> str:
        """Where the WebSocket is."""
        return f"ws{self._secure}://127.0.0.1:{self.port}/ws"

    @property
    def _secure(self) -> str:
        return "s" if "PARLEY_TLS_CERT" in self.settings else ""

    @property
    def tcp(self) -> str:
        """Where TCP without Noise is."""
        return f"parley+clear://127.0.0.1:{self.tcp_port}"

    @property
    def sealed(self) -> str:
        """Where TCP under Noise is; the key is looked up."""
        return f"parley://127.0.0.1:{self.tcp_port}?discover={self.http}"

    @property
    def pid(self) -> int:
        """The running process."""
        assert self.process is not None
        return self.process.pid

    async def start(self) -> None:
        """Starts it, and returns when it answers."""
        self.port = self.port or free_port()
        self.tcp_port = self.tcp_port or free_port()
        log = self.directory / f"server-{len(self.log_files)}.log"
        self.log_files.append(log)
        self.process = await self._launch(log)
        async with asyncio.timeout(90):
            while not await self._answers():
                assert self.process.returncode is None, log.read_text()
                await asyncio.sleep(0.02)

    async def _launch(self, log: Path) -> Process | Forked:
        """A fork; but workers are started as their parent was, and a library is only put before others at a start."""
        with log.open("wb") as out:
            if not self.arguments and "LD_PRELOAD" not in self.settings:
                return await fork(["serve"], self.environment(), log)
            return await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "gateway", "serve", *self.arguments),
                env=self.environment(),
                stdout=out,
                stderr=out,
            )

    def environment(self) -> dict[str, str]:
        """What the process is started with."""
        return {
            **os.environ,
            **GENEROUS,
            "PARLEY_DATA": str(self.directory / "data"),
            "DATABASE_URL": self.database_url,
            "PARLEY_HTTP": f"127.0.0.1:{self.port}",
            "PARLEY_TCP": f"127.0.0.1:{self.tcp_port}",
            **self.settings,
        }

    async def _answers(self) -> bool:
        try:
            for port in (self.port, self.tcp_port):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
        except OSError:
            return False
        return True

    async def noise_key(self) -> bytes:
        """Its public key, as it says itself."""
        if not self._noise_key:
            _, info = await self.call("GET", "/.well-known/parley")
            self._noise_key = base64.urlsafe_b64decode(info["noise"]["public_key"] + "=")
        return self._noise_key

    async def kill(self) -> None:
        """kill -9."""
        await self._end(signal.SIGKILL)

    async def stop(self) -> None:
        """SIGTERM, and wait for the drain."""
        await self._end(signal.SIGTERM)

    async def _end(self, number: signal.Signals) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.send_signal(number)
            async with asyncio.timeout(30):
                await self.process.wait()

    def logs(self) -> str:
        """Everything it has written, over all its starts."""
        return "".join(path.read_text() for path in self.log_files)

    # --- REST --------------------------------------------------------------------------------

    async def call(self, method: str, path: str, token: str | None = None, body: Any = None) -> tuple[int, Any]:
        """One request: the status and the JSON of the answer."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        async with (
            aiohttp.ClientSession() as http,
            http.request(method, self.http + path, headers=headers, json=body, ssl=self.trust or True) as answer,
        ):
            return answer.status, await answer.json()

    async def data(self, method: str, path: str, token: str | None = None, body: Any = None) -> Any:
        """The `data` of an answer that has to be a success."""
        status, answer = await self.call(method, path, token, body)
        assert status < 300, answer
        return answer.get("data")

    async def person(self, username: str | None = None) -> Person:
        """A new account."""
        name = username or f"user-{uuid4().hex[:12]}"
        body = {"username": name, "email": f"{name}@example.com", "password": PASSWORD, "display_name": name.title()}
        data = await self.data("POST", "/auth/register", body=body)
        return Person(UUID(data["user"]["id"]), name, data["access_token"], data["refresh_token"])

    async def people(self, count: int) -> list[Person]:
        """So many new accounts."""
        return list(await asyncio.gather(*(self.person() for _ in range(count))))

    async def chatroom(self, owner: Person, *members: Person, **settings: Any) -> UUID:
        """A group of these people."""
        body = {"name": "room", "user_ids": [str(person.id) for person in members], "max_members": 1000, **settings}
        data = await self.data("POST", "/chatrooms", owner.token, body)
        return UUID(data["chatroom"]["id"])

    async def history(self, person: Person, chatroom_id: UUID) -> list[dict[str, Any]]:
        """All messages of a chatroom, oldest first, page by page."""
        messages: list[dict[str, Any]] = []
        after = 0
        while True:
            path = f"/chatrooms/{chatroom_id}/messages?after={after}&limit=100"
            data = await self.data("GET", path, person.token)
            messages += data["messages"]
            if not data["pagination"]["has_more"]:
                return messages
            after = messages[-1]["seq"]
