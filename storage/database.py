"""The database: a pool of connections, transactions and migrations.

A connection that fails is the caller's `SERVICE_UNAVAILABLE`, never a traceback;
a statement that fails is a mistake of ours and stays what it is.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from importlib.resources import files
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias
from uuid import UUID

import asyncpg
import orjson

from protocol.errors import ChatError
from storage.standing import Opener, Standing, Standings

if TYPE_CHECKING:
    from asyncpg.pool import Pool, PoolConnectionProxy

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]"
"""What storage functions take: a connection, in a transaction wherever they write."""

OLDEST_POSTGRES = 14
"""The oldest major version that the tests of the schema cover; what is older is out of its makers' support."""

CONNECT_SECONDS = 5.0
"""How long a caller waits for a free connection, or for a new one to open, before it is told to retry."""

STATEMENT_SECONDS = 30.0
"""How long one statement may take. Longer means that the server is gone without a word."""

MIGRATION_SECONDS = 3_600.0
"""How long one migration may take, or wait for another process that migrates."""

RETRY_SECONDS = 1.0
"""What a client is told to wait while the database is away: a restart takes about that long."""

IDLE_SECONDS = 5
"""How long a transaction may wait for us until the server ends it: a stopped process must not keep others waiting."""

TRANSACTION_SECONDS = 30
"""How long a transaction may take in all, where the server can count that (17 and newer).

A process that is stopped between preparing a statement and running it does not count as idle, and would keep its locks.
"""

MIGRATION_LOCK = 0x5041_524C_4559
"""The advisory lock under which migrations run: "PARLEY" in ASCII."""


class Guard(Protocol):
    """Whether what was begun may still be committed: it must wait for `passed`, and not if `losses` has changed."""

    losses: int

    async def passed(self) -> None:
        """Returns when it is known."""
        ...


class DatabaseError(Exception):
    """The database cannot be used as it is; the message says why and what to do. It never holds the password."""


class Database:
    """A pool of connections to one PostgreSQL database. It heals by itself when the server comes back."""

    def __init__(self, pool: Pool[asyncpg.Record], look_ups: Standings, opener: Opener) -> None:
        self._pool = pool
        self._look_ups = look_ups
        self._opener = opener
        self._standing: list[Standing] = []
        self._guard: Guard | None = None

    def guard(self, guard: Guard) -> None:
        """From now on, transactions are committed only as far as this allows."""
        self._guard = guard

    @classmethod
    async def open(cls, url: str, pool_size: int) -> Database:
        """Connects once, to see that the server is there and new enough. Raises DatabaseError.

        Of `pool_size` connections a third is for `look_up`, and at least one for each kind.
        """
        look_ups = max(1, (pool_size + 1) // 3)
        pool = asyncpg.create_pool(
            url,
            min_size=0,  # connections open as they are needed: a restart of the server leaves nothing to repair
            max_size=max(1, pool_size - look_ups),
            timeout=CONNECT_SECONDS,
            command_timeout=STATEMENT_SECONDS,
            init=_prepare,
            reset=_keep,
        )
        try:
            await pool
            async with pool.acquire() as connection:
                check_version(connection.get_server_version().major)
        except BaseException as error:
            await pool.close()
            raise _unusable(error) from None
        opener = partial(_open, url)
        return cls(pool, Standings(opener, look_ups), opener)

    @property
    def losses(self) -> int:
        """How often the guard found that what was begun before must not be committed."""
        return self._guard.losses if self._guard else 0

    async def close(self) -> None:
        """Waits for the connections in use, then closes all."""
        for standing in self._standing:
            await standing.close()
        await self._look_ups.close()
        await self._pool.close()

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[Connection]:
        """A connection for reading. Talk to nothing but the database inside.

        Raises ChatError SERVICE_UNAVAILABLE when none is free in time, and when the server goes away inside.
        """
        with _failures():
            async with self._pool.acquire(timeout=CONNECT_SECONDS) as connection:
                yield connection

    @asynccontextmanager
    async def look_up(self) -> AsyncIterator[Connection]:
        """A connection for one short query that names its rows by key, planned once: the same ones serve such alone.

        Raises what `acquire` raises.
        """
        with _failures():
            async with self._look_ups.turn(CONNECT_SECONDS) as standing:
                with _failures(standing):
                    await standing.renew()
                    yield standing.connection

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """A connection in a transaction, committed at the end and rolled back by any exception.

        Raises what `acquire` raises. After SERVICE_UNAVAILABLE the commit may have happened or not.
        """
        losses = self.losses
        async with self.acquire() as connection, connection.transaction():
            yield connection
            await self._may_commit(losses)

    def standing(self) -> Standing:
        """A connection beside the pool, for one task that uses it all the time; it is closed with the database."""
        self._standing.append(Standing(self._opener))
        return self._standing[-1]

    async def renew(self, standing: Standing) -> bool:
        """Opens the connection before use, unless it is open; whether it had to. Raises what `acquire` raises."""
        with _failures(standing):
            return await standing.renew()

    async def read(self, standing: Standing, query: str, *args: Any) -> list[Any]:
        """Runs a query. Raises what `acquire` raises."""
        with _failures(standing):
            return await (await standing.prepared(query)).fetch(*args)

    async def write(self, standing: Standing, losses: int, query: str, *args: Any) -> list[Any]:
        """Runs a statement that is a transaction by itself, which began when the guard's losses were these.

        The guard is asked before it is sent, as before a COMMIT. Raises what `transaction` raises.
        """
        with _failures(standing):
            statement = await standing.prepared(query)
            await self._may_commit(losses)
            return await statement.fetch(*args)

    async def _may_commit(self, losses: int) -> None:
        if self._guard is not None:
            await self._guard.passed()
            if self._guard.losses != losses:
                raise ChatError("SERVICE_UNAVAILABLE", retry_after=RETRY_SECONDS)


@contextmanager
def _failures(standing: Standing | None = None) -> Iterator[None]:
    """What a failure of the driver is to callers. A standing connection that something is wrong with is left.

    So is one whose user was cancelled: an answer may be on its way.
    """
    try:
        yield
    except BaseException as error:
        if standing is not None and not isinstance(error, ChatError | asyncpg.IntegrityConstraintViolationError):
            standing.leave()
        if _is_away(error):
            raise ChatError("SERVICE_UNAVAILABLE", retry_after=RETRY_SECONDS) from error
        if isinstance(error, asyncpg.PostgresError):
            error.detail = None  # it quotes the row, and a traceback would take it to the log
        raise


async def _open(url: str, settings: dict[str, str]) -> asyncpg.Connection[asyncpg.Record]:
    """A connection like the pool's, with these settings besides."""
    connection = await asyncpg.connect(url, timeout=CONNECT_SECONDS, command_timeout=STATEMENT_SECONDS)
    await _prepare(connection)
    await connection.execute("; ".join(f"SET {name} = {value}" for name, value in settings.items()))
    return connection


def _unusable(error: BaseException) -> BaseException:
    """What a failure to open means to the person who starts Parley."""
    if isinstance(error, ValueError):  # its words may quote the password
        return DatabaseError("DATABASE_URL is not a URL as in postgresql://user:password@host:5432/name.")
    if isinstance(error, OSError | asyncpg.PostgresError | asyncpg.InterfaceError):
        return DatabaseError(f"The database at DATABASE_URL cannot be used: {error!s}.")
    return error


def check_version(major: int) -> None:
    """Raises DatabaseError when the server is too old."""
    if major < OLDEST_POSTGRES:
        raise DatabaseError(f"The database is PostgreSQL {major}; Parley needs {OLDEST_POSTGRES} or newer.")


_AWAY = (
    OSError,  # TimeoutError is one of them
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
    asyncpg.InsufficientResourcesError,  # too many connections, a full disk: nothing was written, and it may pass
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.TransactionTimeoutError,
)


def _is_away(error: BaseException) -> bool:
    if isinstance(error, asyncpg.InterfaceError):
        # One class for a connection that was closed under us and for our own mistakes; only the words differ.
        return any(words in str(error) for words in ("is closed", "is closing", "released back to the pool"))
    if isinstance(error, asyncpg.InternalClientError):
        # State 2: the server's last words have come and the end of the stream has not.
        return "another operation (2)" in str(error)
    return isinstance(error, _AWAY)


async def _prepare(connection: Connection) -> None:
    await connection.execute(f"SET idle_in_transaction_session_timeout = '{IDLE_SECONDS}s'")
    if _limits_transactions(connection):
        await connection.execute(f"SET transaction_timeout = '{TRANSACTION_SECONDS}s'")
    await connection.set_type_codec(
        "jsonb",
        schema="pg_catalog",
        format="binary",
        encoder=lambda value: b"\x01" + orjson.dumps(value, default=_json_id),  # 1 is the version of the format
        decoder=lambda data: orjson.loads(data[1:]),
    )


def _json_id(value: Any) -> str:
    """The driver's ids are a subclass of UUID, which orjson does not take by itself."""
    if isinstance(value, UUID):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _limits_transactions(connection: Connection) -> bool:
    return connection.get_server_version().major >= 17


async def take_as_long_as_it_takes(connection: Connection) -> None:
    """Lifts TRANSACTION_SECONDS for the transaction that is open."""
    if _limits_transactions(connection):
        await connection.execute("SET LOCAL transaction_timeout = 0")


async def _keep(connection: Connection) -> None:
    """Between uses the driver itself rolls back what is open; nothing of ours leaves other traces to reset."""


# --- migrations ------------------------------------------------------------------------------


class Migration(NamedTuple):
    """A numbered change of the schema. The checksum is the SHA-256 of its text, in hex."""

    name: str
    sql: str
    checksum: str


def migrations() -> list[Migration]:
    """All there are, in order."""
    found = [path for path in (files("storage") / "migrations").iterdir() if path.name.endswith(".sql")]
    texts = [(path.name.removesuffix(".sql"), path.read_text(encoding="utf-8")) for path in found]
    return [Migration(name, sql, hashlib.sha256(sql.encode()).hexdigest()) for name, sql in sorted(texts)]


async def migrate(connection: Connection) -> list[str]:
    """Applies the migrations that are missing, all or none, and returns their names.

    Processes that start together do it one after the other. Raises DatabaseError when
    a migration was changed after it had been applied, or is unknown to this Parley.
    """
    async with connection.transaction():
        await take_as_long_as_it_takes(connection)
        await connection.execute("SELECT pg_advisory_xact_lock($1)", MIGRATION_LOCK, timeout=MIGRATION_SECONDS)
        missing = _missing(await _applied(connection), migrations())
        for migration in missing:
            await _apply(connection, migration)
    return [migration.name for migration in missing]


async def check_migrated(connection: Connection) -> None:
    """Raises DatabaseError where `migrate` would have something to do, or would refuse."""
    if missing := _missing(await _applied(connection), migrations()):
        names = ", ".join(migration.name for migration in missing)
        raise DatabaseError(f"The database lacks what this Parley needs ({names}): run `parley migrate`.")


async def _applied(connection: Connection) -> dict[str, str]:
    await connection.execute(
        "CREATE TABLE IF NOT EXISTS schema_migrations "
        "(name text PRIMARY KEY, checksum text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())"
    )
    rows = await connection.fetch("SELECT name, checksum FROM schema_migrations")
    return {row["name"]: row["checksum"] for row in rows}


def _missing(applied: dict[str, str], known: list[Migration]) -> list[Migration]:
    if unknown := applied.keys() - {migration.name for migration in known}:
        raise DatabaseError(f"A newer Parley has migrated this database ({', '.join(sorted(unknown))}); install that.")
    for migration in known:
        if applied.get(migration.name, migration.checksum) != migration.checksum:
            raise DatabaseError(
                f"The migration {migration.name} was changed after it had been applied to this database. "
                "Undo the change, and put what it was for into a new migration."
            )
    return [migration for migration in known if migration.name not in applied]


async def _apply(connection: Connection, migration: Migration) -> None:
    await connection.execute(migration.sql, timeout=MIGRATION_SECONDS)
    await connection.execute(
        "INSERT INTO schema_migrations (name, checksum) VALUES ($1, $2)", migration.name, migration.checksum
    )
