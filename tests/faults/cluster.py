"""Several real nodes behind a balancer, with a chaos proxy wherever one is asked for."""

from __future__ import annotations

import asyncio
import random
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from socket import AF_UNIX
from typing import Any, NamedTuple
from uuid import UUID

import psutil  # type: ignore[import-untyped]

from bench.faults.addresses import Tcp, server_of, through
from bench.faults.balancer import Balancer
from bench.faults.checker import Report
from bench.faults.load import Load
from bench.faults.proxy import Proxy
from bench.faults.redis_commands import LosePublishes
from bench.faults.talker import Member
from tests.e2e.server import Person, Server

POOL = 5
"""Connections to PostgreSQL that a node may have."""

SETTINGS = {
    "PARLEY_ACCESS_TOKEN_LIFE": "86400",
    "PARLEY_DATABASE_POOL": str(POOL),
    "PARLEY_LOG_LEVEL": "info",
    # A client that was away for a while may miss more than a sync brings; that verdict has tests of its own.
    "PARLEY_LIMIT_SYNC": "1000000",
}
PATIENCE = 60.0
"""Seconds that anything may take which has to come: five times what a busy machine needs."""
LEFT_BEHIND = 10.0
"""Seconds after a scenario by which everything that it took is given back."""


class Level(NamedTuple):
    """What a node holds: tasks, sockets to clients, to PostgreSQL and to Redis, and every other open file."""

    tasks: int
    clients: int
    database: int
    redis: int
    files: int

    def most(self) -> Level:
        """What it may hold: pools may have opened what they may have."""
        return self._replace(database=max(self.database, POOL + 4), redis=self.redis + 3)


@dataclass
class Node:
    """One node. `postgres` and `redis` are the proxies it goes through, where there are any."""

    server: Server
    postgres: Proxy | None = None
    redis: Proxy | None = None
    losing: LosePublishes | None = None

    @property
    def address(self) -> Tcp:
        """Where it takes WebSockets."""
        return Tcp("127.0.0.1", self.server.port)

    async def metric(self, sample: str) -> float:
        """A metric of this node, by its name and labels."""
        return metric(await self.metrics(), sample)

    async def metrics(self) -> str:
        """All of them as text."""
        reader, writer = await asyncio.open_connection(*self.address)
        try:
            writer.write(b"GET /metrics HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n")
            async with asyncio.timeout(PATIENCE):
                return (await reader.read()).decode()
        finally:
            writer.close()

    async def level(self) -> Level:
        """What it holds now. The connection that asks is gone by the time of counting sockets."""
        tasks = int(await self.metric("parley_tasks"))
        process = psutil.Process(self.server.pid)
        files = process.num_fds()
        kinds = Counter(self._kind(socket) for socket in process.net_connections("all"))
        clients, database, redis = kinds["clients"], kinds["database"], kinds["redis"]
        return Level(tasks, clients, database, redis, files - clients - database - redis)

    def _kind(self, socket: Any) -> str:
        """Whom a socket is to. Its only Unix sockets are those to PostgreSQL, and the event loop's own pair."""
        if socket.family == AF_UNIX or (self.postgres and port_of(socket.raddr) == self.postgres.port):
            return "database"
        if port_of(socket.raddr) == self.redis_port:
            return "redis"
        ours = port_of(socket.laddr) in (self.server.port, self.server.tcp_port)
        return "clients" if ours and socket.raddr else "other"

    @property
    def redis_port(self) -> int:
        """Where it reaches Redis; 0 without one."""
        url = self.server.settings.get("REDIS_URL")
        return server_of(url).port if url else 0  # type: ignore[union-attr]


def port_of(address: Any) -> int:
    """The port of an address as psutil has it; 0 where there is none."""
    return getattr(address, "port", 0)


def metric(text: str, sample: str) -> float:
    """The value of a sample in Prometheus' text; 0 where there is none."""
    found = re.search(rf"^{re.escape(sample)} (\S+)$", text, re.MULTILINE)
    return float(found.group(1)) if found else 0.0


@dataclass
class Cluster:
    """Nodes on one database and one Redis. Clients use `ws`, which is the balancer's."""

    directory: Path
    database_url: str
    redis_url: str | None
    dice: random.Random
    seed: int
    nodes: list[Node] = field(default_factory=list)
    levels: dict[int, Level] = field(default_factory=dict)
    people: list[Person] = field(default_factory=list)
    rooms: list[UUID] = field(default_factory=list)

    # --- making it -----------------------------------------------------------------------------

    async def add(
        self, *, postgres: bool = False, redis: bool = False, settings: Mapping[str, str] | None = None
    ) -> Node:
        """Starts another node; with a proxy before its PostgreSQL and its Redis where that is asked for."""
        name = f"node-{len(self.nodes)}"
        (self.directory / name).mkdir()
        data = {"PARLEY_DATA": str(self.directory / "data")}
        node = Node(Server(self.directory / name, self.database_url, {**SETTINGS, **data}))
        if postgres:
            node.postgres = await self._proxy(self.database_url)
            node.server.settings["DATABASE_URL"] = through(self.database_url, node.postgres.address)
        if self.redis_url:
            node.server.settings["REDIS_URL"] = self.redis_url
        if redis:
            assert self.redis_url
            node.losing = LosePublishes(random.Random(self.seed))
            node.redis = await self._proxy(self.redis_url, node.losing)
            node.server.settings["REDIS_URL"] = through(self.redis_url, node.redis.address)
        node.server.settings.update(settings or {})
        self.nodes.append(node)
        await node.server.start()
        return node

    async def _proxy(self, url: str, losing: LosePublishes | None = None) -> Proxy:
        proxy = Proxy(server_of(url), filter_up=losing.line if losing else None, dice=self.dice)
        await proxy.open()
        return proxy

    async def open(self) -> None:
        """Waits until the nodes know of each other, and puts the balancer before them."""
        for node in self.nodes:
            while self.redis_url and await node.metric("parley_nodes") < len(self.nodes) - 1:
                await asyncio.sleep(0.02)
        self.balancer = Balancer([node.address for node in self.nodes], dice=self.dice)
        await self.balancer.open()

    async def reopen(self) -> None:
        """Puts the balancer before nodes that were added since, too."""
        await self.balancer.close()
        await self.open()

    async def close(self) -> None:
        """Ends everything."""
        if hasattr(self, "balancer"):
            await self.balancer.close()
        await asyncio.gather(*(node.server.stop() for node in self.nodes))
        for node in self.nodes:
            for proxy in (node.postgres, node.redis):
                if proxy is not None:
                    await proxy.close()

    @property
    def ws(self) -> str:
        """Where clients connect."""
        return f"ws://127.0.0.1:{self.balancer.port}/ws"

    @property
    def servers(self) -> list[Server]:
        """The nodes' processes."""
        return [node.server for node in self.nodes]

    # --- using it --------------------------------------------------------------------------------

    async def load(self, members: int = 6, rooms: int = 2, *, rate: float = 60.0) -> Load:
        """Users who are all in some new chatrooms, and connect by the balancer.

        The Python client speaks both encodings; every third user has a bare socket.
        """
        first = self.nodes[0].server
        self.people = await first.people(members)
        self.rooms = [await first.chatroom(self.people[0], *self.people[1:]) for _ in range(rooms)]
        given = [
            Member(f"m{number}", person.token, self.ws, "msgpack" if number % 2 else "json", raw=number % 3 == 2)
            for number, person in enumerate(self.people)
        ]
        return Load(given, self.rooms, rate=rate, seed=self.seed)

    async def spread(self) -> None:
        """Has clients on every node again: when all are ready, half of the connections break and go round."""
        await until(lambda: len(self.balancer.ready) < len(self.nodes) and "not every node is ready")
        self.balancer.reset_lines(0.5)

    async def judge(self, load: Load) -> Report:
        """Everything was right, and nothing is left behind. A history that was not is kept beside the logs."""
        report = load.judge()
        if not report.clean:
            load.history.save(self.directory / "history.jsonl")
        assert report.clean, f"seed {self.seed}, {self.directory}/history.jsonl\n{report}"
        assert report.acks > 0
        await self.nothing_left()
        for node in self.nodes:
            assert "Traceback" not in node.server.logs(), node.server.log_files
        return report

    async def note_levels(self) -> None:
        """Takes down what each node holds before a scenario begins: nobody may be connected."""
        self.levels = {node.server.port: await node.level() for node in self.nodes}

    async def nothing_left(self) -> None:
        """Within ten seconds each node holds no more than before; one that was started since, no more than others."""
        most = Level(*map(max, *self.levels.values())) if len(self.levels) > 1 else next(iter(self.levels.values()))
        for node in self.nodes:
            await until(partial(_kept, node, most.most()), LEFT_BEHIND)


async def _kept(node: Node, most: Level) -> str:
    """What a node holds, where that is too much."""
    now = await node.level()
    return "" if all(map(int.__le__, now, most)) else f"port {node.server.port}: {now}, allowed {most}"


async def until(wrong: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Waits until this says, plainly or awaited, nothing is wrong any more."""
    told: object = None
    try:
        async with asyncio.timeout(seconds):
            while told := await _told(wrong()):
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(str(told)) from None


async def _told(answer: object) -> object:
    return await answer if asyncio.iscoroutine(answer) else answer
