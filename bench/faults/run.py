"""`parley bench faults`: load through a bad network to one server, and the checker's word on it."""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID

from bench.display import progress
from bench.faults.addresses import Tcp
from bench.faults.chaos import Chaos
from bench.faults.checker import Report
from bench.faults.load import Load
from bench.faults.proxy import Proxy
from bench.faults.talker import Member
from bench.rest import Account, Rest
from bench.target import TargetError, target

PROXIES = 3
"""Ways to the server, each with faults of its own: what happens to some clients does not happen to the others."""
BOTS = 20
"""Bots of one account: a server's default limit. Bots are quick to make, and their keys do not run out."""
SCHEMES = {"ws": "http", "wss": "https", "http": "http", "https": "https"}
PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Options:
    """What a run was asked to do. `duration` is in seconds, `rate` in messages a second, by all clients together."""

    url: str | None
    clients: int
    rooms: int
    rate: float
    duration: float
    seed: int
    history: Path | None = None


class _NamedContext(ssl.SSLContext):
    """TLS by way of a proxy: the certificate has to be the server's, not the proxy's."""

    name = ""

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: Any = None,
    ) -> ssl.SSLObject:
        """Asks for the server's name, whatever address is connected to."""
        return super().wrap_bio(incoming, outgoing, server_side, self.name, session)


async def faults(options: Options) -> Report:
    """Runs it. Raises TargetError when the server cannot be used."""
    async with target(_base(options.url), apart=False) as server:
        rest = Rest(server.url)
        progress(f"signing up, and making {options.clients} bots")
        accounts, rooms = await _people(rest, options)
        dice = random.Random(options.seed)
        async with _ways(server.url, dice) as (proxies, urls):
            load = Load(_members(accounts, urls, _tls(server.url)), rooms, rate=options.rate, seed=options.seed)
            chaos = Chaos(proxies, dice)
            async with load.running():
                progress(f"writing and breaking things for {options.duration:g} s")
                await _for(options.duration, chaos)
                for proxy in proxies:
                    await proxy.heal()
                progress("waiting until everything has come")
        if options.history is not None:
            load.history.save(options.history)
        print("faults: " + ", ".join(f"{count} {name}" for name, count in sorted(chaos.done.items())))
        return load.judge()


def _base(url: str | None) -> str | None:
    """Where REST is, beside a WebSocket's URL."""
    if url is None:
        return None
    parts = urlsplit(url)
    if parts.scheme not in SCHEMES or not parts.hostname:
        raise TargetError(f"{url!r} is no address such as ws://127.0.0.1:8000/ws")
    return urlunsplit((SCHEMES[parts.scheme], parts.netloc, "", "", ""))


async def _people(rest: Rest, options: Options) -> tuple[list[Account], list[UUID]]:
    """Bots, and chatrooms that all of them are in."""
    owners = await rest.accounts(-(-options.clients // BOTS))
    bots: list[Account] = []
    for owner in owners:
        bots += await rest.bots(owner, min(BOTS, options.clients - len(bots)))
    rooms = [await rest.chatroom(owners[0], bots) for _ in range(options.rooms)]
    return bots, rooms


@asynccontextmanager
async def _ways(base: str, dice: random.Random) -> AsyncIterator[tuple[list[Proxy], list[str]]]:
    """Proxies before the server, and the URLs that lead through them."""
    parts = urlsplit(base)
    server = Tcp(str(parts.hostname), parts.port or PORTS[parts.scheme])
    async with AsyncExitStack() as stack:
        proxies = [
            await stack.enter_async_context(Proxy(server, dice=random.Random(dice.random()))) for _ in range(PROXIES)
        ]
        scheme = "wss" if parts.scheme == "https" else "ws"
        yield proxies, [f"{scheme}://127.0.0.1:{proxy.port}/ws" for proxy in proxies]


def _tls(base: str) -> ssl.SSLContext | None:
    parts = urlsplit(base)
    if parts.scheme != "https":
        return None
    context = _NamedContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_default_certs()
    context.name = str(parts.hostname)
    return context


def _members(accounts: Sequence[Account], urls: Sequence[str], tls: ssl.SSLContext | None) -> list[Member]:
    """The Python client in both encodings, and a bare socket every third time."""
    return [
        Member(
            f"bot-{number}",
            account.token,
            urls[number % len(urls)],
            codec="msgpack" if number % 2 else "json",
            raw=number % 3 == 2,
            tls=tls,
        )
        for number, account in enumerate(accounts)
    ]


async def _for(seconds: float, chaos: Chaos) -> None:
    task = asyncio.create_task(chaos.run())
    try:
        await asyncio.wait({task}, timeout=seconds)
        if task.done():
            task.result()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
