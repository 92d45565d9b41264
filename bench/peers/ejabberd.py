"""ejabberd from Debian's package: chatrooms (MUC) whose messages are archived (MAM) in PostgreSQL."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping, Sequence

from bench import usage
from bench.deployment import Seats
from bench.dialect import Dialect
from bench.peers import installed
from bench.peers.postgres import Postgres
from bench.peers.process import Process
from bench.peers.xmpp import XmppDialect
from bench.usage import Memory, Usage

LACKS = (
    "a message whose INSERT failed is delivered and sent back all the same, marked as if it were in the archive",
    "no seq: a client can't tell that something is missing",
    "a retry is a second message",
    "texts and their senders lie open in the database",
)
"""What it does promise: a room waits for its INSERT, a commit of its own, before anyone gets the message.

Both were seen on 23.01: with PostgreSQL stopped nothing came back, with the table dropped everything did.
"""

CONFIG = """
loglevel: warning
hosts: [localhost]
listen:
  - {{port: {port}, ip: 127.0.0.1, module: ejabberd_c2s, shaper: none, access: all, backlog: 1024}}
auth_method: [anonymous]
anonymous_protocol: login_anon
allow_multiple_connections: true
default_db: sql
sql_type: pgsql
sql_server: 127.0.0.1
sql_port: {sql_port}
sql_database: postgres
sql_username: bench
sql_password: ""
sql_pool_size: {pool}
max_fsm_queue: 100000
modules:
  mod_muc:
    access: all
    access_create: all
    access_persistent: all
    access_mam: all
    history_size: 0
    max_users: 100000
    max_users_presence: 1
    max_user_conferences: 1000
    default_room_options:
      max_users: 100000
      mam: true
      persistent: true
      allow_subscription: false
      presence_broadcast: []
  mod_mam: {{db_type: sql, default: always}}
"""
"""No shapers, no history in memory, no presence of others: what costs, and what a message does not need, is off."""
POOL = 32
"""Connections to the database: rooms wait for their INSERT, and those that wait together share a flush."""


class Ejabberd:
    """A fresh one, with its own cluster. Raises NotInstalledError when there is nothing to run."""

    name = "ejabberd"
    lacks: tuple[str, ...] = LACKS

    def __init__(self) -> None:
        self._modules = installed.ejabberd()
        self._process: Process | None = None
        self._postgres: Postgres | None = None
        self._port = 0

    async def start(self) -> None:
        """The database with its tables, then ejabberd. Raises TargetError."""
        self._process = Process(self.name)
        self._port, sql_port = _free_ports()
        self._postgres = Postgres(self._process.folder, sql_port)
        await asyncio.to_thread(self._postgres.start)
        await asyncio.to_thread(self._postgres.sql, installed.schema().read_text())
        self._launch(self._process, CONFIG.format(port=self._port, sql_port=sql_port, pool=POOL))
        await self._process.answers(self._port)

    def _launch(self, process: Process, config: str) -> None:
        """As `ejabberdctl foreground` does, without a node name: then nothing else listens. Idle threads sleep."""
        (process.folder / "ejabberd.yml").write_text(config)
        env = {
            "EJABBERD_CONFIG_PATH": str(process.folder / "ejabberd.yml"),
            "EJABBERD_LOG_PATH": str(process.folder / "ejabberd.log"),
            "ERL_LIBS": str(self._modules.parent.parent),
            "HOME": str(process.folder),
        }
        sleepy = ["+sbwt", "none", "+sbwtdcpu", "none", "+sbwtdio", "none"]
        spool = ["-mnesia", "dir", f'"{process.folder}/spool"']
        process.start(
            ["erl", "+K", "true", "+P", "250000", "+Q", "65536", *sleepy, *spool, "-s", "ejabberd", "-noinput"], env
        )

    async def stop(self) -> None:
        """Ends both."""
        if self._postgres is not None:
            await asyncio.to_thread(self._postgres.stop)
        if self._process is not None:
            self._process.stop()
        self._postgres = self._process = None

    async def seat(self, accounts: int, rooms: Sequence[Sequence[int]]) -> Seats:
        """Any name may sign in, and the first to join a room makes it."""
        return Seats.by_name(accounts, rooms)

    def dialect(self) -> Dialect:
        """XMPP."""
        return XmppDialect(self._port)

    def usage(self) -> Usage | None:
        """Erlang with all its threads and helpers, and PostgreSQL."""
        if self._process is None or self._postgres is None or not usage.available():
            return None
        postmaster = self._postgres.pid
        return Usage(usage.cpu_of_tree(self._process.pid), usage.cpu_of_tree(postmaster) if postmaster else 0.0)

    def memory(self) -> Memory | None:
        """Of Erlang."""
        if self._process is None or not usage.available():
            return None
        return usage.read_memory(self._process.pid)

    async def counters(self) -> Mapping[str, float]:
        """How many messages are in the archive."""
        if self._postgres is None:
            return {}
        return {"archived": float(await asyncio.to_thread(self._postgres.sql, "SELECT count(*) FROM archive"))}

    def about(self) -> dict[str, str]:
        """Its version; its PostgreSQL is Parley's."""
        return {"ejabberd": self._modules.parent.name.removeprefix("ejabberd-"), "sql_pool_size": str(POOL)}


def _free_ports() -> tuple[int, int]:
    """Two that were free a moment ago: ejabberd and PostgreSQL can't choose their own."""
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        return one.getsockname()[1], other.getsockname()[1]
