import asyncio
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from protocol.errors import ChatError
from storage import database as module
from storage import sign_ins, users
from storage.database import Connection, Database, DatabaseError, check_version, migrate, migrations
from storage.embedded import EmbeddedPostgres

ID = UUID("01890a5d-ac96-774b-bcce-b302099a8057")


async def _schema(connection: Connection) -> list[tuple[Any, ...]]:
    rows = await connection.fetch(
        "SELECT table_name, column_name, data_type, is_nullable, column_default FROM information_schema.columns "
        "WHERE table_schema = 'public' ORDER BY 1, 2"
    )
    indexes = await connection.fetch(
        "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1"
    )
    return [tuple(row) for row in [*rows, *indexes]]


async def _empty(db: Database) -> None:
    async with db.acquire() as connection:
        await connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")


class TestConnections:
    async def test_transaction_commits(self, db: Database) -> None:
        """What a transaction wrote is there after it."""
        async with db.transaction() as connection:
            await connection.execute("CREATE TABLE kept (n int)")
        async with db.acquire() as connection:
            assert await connection.fetchval("SELECT to_regclass('kept')") == "kept"

    async def test_transaction_rolls_back(self, db: Database) -> None:
        """An exception of any kind undoes the transaction, and comes out unchanged."""
        with pytest.raises(ChatError, match="MESSAGE_NOT_FOUND"):
            async with db.transaction() as connection:
                await connection.execute("CREATE TABLE gone (n int)")
                raise ChatError("MESSAGE_NOT_FOUND")
        async with db.acquire() as connection:
            assert await connection.fetchval("SELECT to_regclass('gone')") is None

    async def test_nothing_open_is_handed_on(self, database_url: str) -> None:
        """A transaction left open by hand does not reach the next user of the connection."""
        db = await Database.open(database_url, pool_size=1)
        async with db.acquire() as connection:
            await connection.execute("CREATE TABLE open (n int)")
            await connection.execute("BEGIN; INSERT INTO open VALUES (1)")
        async with db.acquire() as connection:
            assert not connection.is_in_transaction()
            assert await connection.fetchval("SELECT count(*) FROM open") == 0
        await db.close()

    async def test_statement_errors_stay(self, db: Database) -> None:
        """A wrong statement is a mistake of ours and is not dressed up as an outage."""
        with pytest.raises(asyncpg.UndefinedTableError):
            async with db.acquire() as connection:
                await connection.fetch("SELECT * FROM nowhere")

    async def test_own_mistakes_stay(self, db: Database) -> None:
        """Two statements at once on one connection are a mistake of ours too."""
        with pytest.raises(asyncpg.InterfaceError, match="another operation"):
            async with db.acquire() as connection:
                await asyncio.gather(*(connection.fetch("SELECT pg_sleep(0.05)") for _ in range(2)))

    async def test_json_and_ids(self, db: Database) -> None:
        """jsonb goes in and comes out as plain values, ids as UUID, also ids that came out of the database."""
        async with db.acquire() as connection:
            got = await connection.fetchval("SELECT $1::uuid", ID)
            assert isinstance(got, UUID)
            assert got == ID
            value = {"a": [1, None, "ü"], "id": got}
            assert await connection.fetchval("SELECT $1::jsonb", value) == {"a": [1, None, "ü"], "id": str(ID)}

    async def test_unknown_values_are_no_json(self, db: Database) -> None:
        """A value without a JSON form is refused rather than stored as its repr."""
        async with db.acquire() as connection:
            with pytest.raises(asyncpg.DataError):
                await connection.fetchval("SELECT $1::jsonb", {"a": object()})


class TestLookUps:
    async def test_a_query_is_planned_once(self, db: Database) -> None:
        """However often it is run: its rows are found by key, so no value of a parameter would change its plan."""
        async with db.look_up() as connection:
            for limit in range(10):
                await connection.fetch("SELECT id FROM users WHERE id > $1 ORDER BY id LIMIT $2", UUID(int=0), limit)
            plans = "SELECT generic_plans, custom_plans FROM pg_prepared_statements WHERE statement LIKE '%LIMIT $2'"
            assert tuple(await connection.fetchrow(plans) or ()) == (10, 0)

    async def test_they_take_turns(self, database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """A connection serves one after the other; waiting too long for one is an outage to the caller."""
        db = await Database.open(database_url, pool_size=1)
        waiting = asyncio.create_task(_pid_by_look_up(db))
        async with db.look_up() as connection:
            pid = await connection.fetchval("SELECT pg_backend_pid()")
            monkeypatch.setattr(module, "CONNECT_SECONDS", 0.05)
            with pytest.raises(ChatError, match="SERVICE_UNAVAILABLE"):
                await _pid_by_look_up(db)
        assert await waiting == pid
        await db.close()

    async def test_a_refusal_is_no_failure(self, database_url: str) -> None:
        """What an action refuses while it looks something up costs no new connection."""
        db = await Database.open(database_url, pool_size=1)
        pid = await _pid_by_look_up(db)
        with pytest.raises(ChatError, match="CHATROOM_NOT_FOUND"):
            async with db.look_up():
                raise ChatError("CHATROOM_NOT_FOUND")
        assert await _pid_by_look_up(db) == pid
        await db.close()

    async def test_who_is_cancelled_leaves_no_answer_behind(self, database_url: str) -> None:
        """The next one gets another connection, and its own answer."""
        db = await Database.open(database_url, pool_size=1)
        pid = await _pid_by_look_up(db)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05), db.look_up() as connection:
                await connection.fetchval("SELECT pg_sleep(5)")
        assert await _pid_by_look_up(db) != pid
        await db.close()

    async def test_a_connection_killed_while_idle(self, db: Database, server_url: str) -> None:
        """It is replaced before anyone notices."""
        pid = await _pid_by_look_up(db)
        await _kill(server_url, pid)
        assert await _pid_by_look_up(db) != pid

    async def test_closing(self, database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """While a close waits for those who are not done, and after it, newcomers are turned away at once."""
        monkeypatch.setattr(module, "CONNECT_SECONDS", 600.0)  # nobody waits for a turn that will not come
        db = await Database.open(database_url, pool_size=2)
        async with db.look_up():
            closing = asyncio.create_task(db.close())
            await asyncio.sleep(0)
            with pytest.raises(ChatError, match="SERVICE_UNAVAILABLE"):
                await _pid_by_look_up(db)
        await closing
        with pytest.raises(ChatError, match="SERVICE_UNAVAILABLE"):
            await _pid_by_look_up(db)


class TestOutages:
    async def test_no_free_connection(self, database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Waiting too long for a free connection is an outage to the caller, who may retry."""
        monkeypatch.setattr(module, "CONNECT_SECONDS", 0.05)
        db = await Database.open(database_url, pool_size=1)
        async with db.acquire():
            with pytest.raises(ChatError) as refusal:
                async with db.acquire():
                    pass
        assert (refusal.value.code, refusal.value.retry_after) == ("SERVICE_UNAVAILABLE", 1.0)
        await db.close()

    async def test_connection_killed_inside(self, db: Database) -> None:
        """A connection cut in the middle is an outage; the next one works."""
        with pytest.raises(ChatError, match="SERVICE_UNAVAILABLE"):
            async with db.transaction() as connection:
                await connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")
        async with db.acquire() as connection:
            assert await connection.fetchval("SELECT 1") == 1

    async def test_connection_killed_between_statements(self, db: Database, server_url: str) -> None:
        """A connection that dies while its user does something else is an outage at the next statement."""
        with pytest.raises(ChatError, match="SERVICE_UNAVAILABLE"):
            async with db.acquire() as connection:
                await _kill(server_url, await connection.fetchval("SELECT pg_backend_pid()"))
                await connection.execute("SELECT 1")

    async def test_connection_killed_while_idle(self, db: Database, server_url: str) -> None:
        """A connection that died in the pool is replaced before anyone notices."""
        async with db.acquire() as connection:
            pid = await connection.fetchval("SELECT pg_backend_pid()")
        await _kill(server_url, pid)
        async with db.acquire() as connection:
            assert await connection.fetchval("SELECT pg_backend_pid()") != pid

    @pytest.mark.parametrize("error", [asyncpg.TooManyConnectionsError, asyncpg.DiskFullError])
    async def test_no_room(self, db: Database, error: type[asyncpg.PostgresError]) -> None:
        """A server that has no connection or no disk left is an outage."""
        with pytest.raises(ChatError, match="SERVICE_UNAVAILABLE"):
            async with db.acquire():
                raise error("there is no room")

    async def test_last_words(self, db: Database) -> None:
        """A statement between the server's last words and the end of the stream is an outage too."""
        with pytest.raises(ChatError, match="SERVICE_UNAVAILABLE"):
            async with db.acquire():
                raise asyncpg.InternalClientError("cannot switch to state 15; another operation (2) is in progress")

    async def test_closed_database(self, database_url: str) -> None:
        """After close, asking for a connection is an outage, not a crash of what is still running."""
        db = await Database.open(database_url, pool_size=1)
        await db.close()
        with pytest.raises(ChatError, match="SERVICE_UNAVAILABLE"):
            async with db.acquire():
                pass

    async def test_closing_database(self, database_url: str) -> None:
        """While a close waits for those who are not done, newcomers are turned away."""
        db = await Database.open(database_url, pool_size=2)
        async with db.acquire():
            closing = asyncio.create_task(db.close())
            await asyncio.sleep(0)
            with pytest.raises(ChatError, match="SERVICE_UNAVAILABLE"):
                async with db.acquire():
                    pass
        await closing

    async def test_restart_under_load(self, tmp_path: Path) -> None:
        """While the server restarts, callers see SERVICE_UNAVAILABLE and nothing else; within 5 s all is well again."""
        server = EmbeddedPostgres(tmp_path)
        db = await Database.open(await asyncio.to_thread(server.start), pool_size=4)
        outcomes: list[str] = []
        users = [asyncio.create_task(_use(db, outcomes)) for _ in range(8)]
        await asyncio.sleep(0.2)
        await asyncio.to_thread(server.stop)
        await asyncio.sleep(0.2)
        await asyncio.to_thread(server.start)
        back = asyncio.get_running_loop().time()
        async with asyncio.timeout(5):
            outcomes.clear()
            while outcomes[-100:] != ["ok"] * 100:
                await asyncio.sleep(0.02)
        assert asyncio.get_running_loop().time() - back < 5
        for user in users:
            user.cancel()
        results = await asyncio.gather(*users, return_exceptions=True)
        await db.close()
        await asyncio.to_thread(server.stop)
        assert all(isinstance(result, asyncio.CancelledError) for result in results), results


async def _kill(server_url: str, pid: int) -> None:
    """Ends a connection from the server's side, and lets the driver notice."""
    admin = await asyncpg.connect(server_url)
    await admin.execute("SELECT pg_terminate_backend($1, 1000)", pid)
    await admin.close()
    await asyncio.sleep(0.05)


async def _pid_by_look_up(db: Database) -> int:
    async with db.look_up() as connection:
        pid: int = await connection.fetchval("SELECT pg_backend_pid()")
    return pid


async def _use(db: Database, outcomes: list[str]) -> None:
    while True:
        try:
            async with db.transaction() as connection:
                await connection.execute("SELECT pg_sleep(0.002)")
            outcomes.append("ok")
        except ChatError as error:
            outcomes.append(error.code)
            await asyncio.sleep(0.01)


class TestOpen:
    async def test_nobody_listens(self, tmp_path: Path) -> None:
        """A server that is not there is named as such, in one line."""
        with pytest.raises(DatabaseError, match="cannot be used"):
            await Database.open(f"postgresql://parley@/parley?host={tmp_path}", pool_size=1)

    async def test_wrong_database(self, server_url: str) -> None:
        """A database that does not exist is a refusal with the server's own words."""
        with pytest.raises(DatabaseError, match="does not exist"):
            await Database.open(server_url.replace("/parley?", "/other?"), pool_size=1)

    async def test_bad_url_keeps_the_password(self) -> None:
        """A URL that cannot be read is refused without quoting it."""
        with pytest.raises(DatabaseError) as refusal:
            await Database.open("postgresql://ann:horse/battery@db:port/parley", pool_size=1)
        assert "horse" not in str(refusal.value)
        assert "battery" not in str(refusal.value)

    @pytest.mark.parametrize("major", [9, 13])
    def test_old_servers_are_refused(self, major: int) -> None:
        """A server older than 14 is refused by name."""
        with pytest.raises(DatabaseError, match=f"PostgreSQL {major}; Parley needs 14"):
            check_version(major)

    @pytest.mark.parametrize("major", [14, 18])
    def test_newer_servers_are_fine(self, major: int) -> None:
        """14 is enough."""
        check_version(major)


class TestMigrations:
    def test_names_are_numbered_without_gaps(self) -> None:
        """0001, 0002, …: two people cannot take the same number unnoticed."""
        assert [migration.name[:5] for migration in migrations()] == [
            f"{n:04}_" for n in range(1, len(migrations()) + 1)
        ]

    async def test_schema_is_the_sum_of_the_migrations(self, db: Database) -> None:
        """One migration at a time or all at once ends in the same schema, and a second run changes nothing."""
        async with db.acquire() as connection:
            at_once = await _schema(connection)
        await _empty(db)
        async with db.acquire() as connection:
            assert await migrate(connection) == [migration.name for migration in migrations()]
            assert await _schema(connection) == at_once
            assert await migrate(connection) == []
            assert await _schema(connection) == at_once

    async def test_data_of_earlier_versions_stays(self, db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        """A database of version 0.1 with people in it is migrated, and they sign in as before."""
        await _empty(db)
        async with db.acquire() as connection:
            with monkeypatch.context() as first:
                first.setattr(module, "migrations", lambda: migrations()[:1])
                await migrate(connection)
            await connection.execute(
                """INSERT INTO users (id, username, username_key, email, email_key, display_name, password_hash,
                       created_at, updated_at) VALUES ($1, 'Ann', 'ann', 'a@b.c', 'a@b.c', 'Ann', 'x', now(), now())""",
                ID,
            )
            await connection.execute(
                "INSERT INTO sign_ins (id, user_id, client_type, created_at) VALUES ($1, $1, 'mobile', now())", ID
            )
            assert await migrate(connection) == [migration.name for migration in migrations()[1:]]
            sign_in = (await sign_ins.find(connection, [(ID, ID)])).get((ID, ID))
            login = await users.find_login(connection, "ANN")
        assert sign_in is not None
        assert (sign_in.is_active, sign_in.is_revoked) == (True, False)
        assert login == users.Login(ID, "x")

    async def test_concurrent_runs_apply_once(self, db: Database) -> None:
        """Of processes that start together one migrates, and the others find it done."""
        await _empty(db)

        async def run() -> list[str]:
            async with db.acquire() as connection:
                return await migrate(connection)

        results = await asyncio.gather(*(run() for _ in range(5)))
        assert sorted(results, key=len, reverse=True) == [[m.name for m in migrations()], [], [], [], []]

    async def test_changed_migration_is_refused(self, db: Database) -> None:
        """A migration whose text differs from what was applied stops the start."""
        async with db.acquire() as connection:
            await connection.execute("UPDATE schema_migrations SET checksum = 'other' WHERE name LIKE '0001%'")
            with pytest.raises(DatabaseError, match="0001_spine was changed"):
                await migrate(connection)

    async def test_newer_schema_is_refused(self, db: Database) -> None:
        """A database that a newer Parley has migrated is left alone."""
        async with db.acquire() as connection:
            await connection.execute("INSERT INTO schema_migrations (name, checksum) VALUES ('9999_later', '')")
            with pytest.raises(DatabaseError, match="9999_later"):
                await migrate(connection)

    async def test_failing_migration_leaves_nothing(self, db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        """All or none: the good half of a failing run is undone."""
        good = module.Migration("9998_good", "CREATE TABLE good (n int)", "1")
        bad = module.Migration("9999_bad", "CREATE TABLE good (n int)", "2")
        known = [*migrations(), good, bad]
        monkeypatch.setattr(module, "migrations", lambda: known)
        async with db.acquire() as connection:
            with pytest.raises(asyncpg.DuplicateTableError):
                await migrate(connection)
            assert await connection.fetchval("SELECT to_regclass('good')") is None


class TestStoppedProcess:
    """What a process that was stopped in the middle of a transaction has locked does not stay locked."""

    @pytest.mark.parametrize("prepared", [False, True], ids=["between statements", "between preparing and running one"])
    async def test_lock_is_given_up(self, database_url: str, monkeypatch: pytest.MonkeyPatch, prepared: bool) -> None:
        """PostgreSQL ends the transaction, others go on, and the process is told to retry when it goes on itself."""
        other = await Database.open(database_url, pool_size=1)
        monkeypatch.setattr(module, "TRANSACTION_SECONDS" if prepared else "IDLE_SECONDS", 1)
        stopped = await Database.open(database_url, pool_size=1)
        went_on = False
        with pytest.raises(ChatError) as refused:
            async with stopped.transaction() as conn:
                await conn.execute("LOCK TABLE users")
                if prepared:
                    await conn.prepare("SELECT count(*) FROM users")
                async with other.transaction() as another:
                    await another.execute("LOCK TABLE users", timeout=20)
                    went_on = True
                await conn.fetchval("SELECT 1")
        assert went_on
        assert refused.value.code == "SERVICE_UNAVAILABLE"
        await stopped.close()
        await other.close()

    async def test_a_migration_may_take_long(self, database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Only what has no end of its own in sight is bounded: a migration has its own time."""
        slow = module.Migration("9999_slow", "SELECT pg_sleep(1.5)", "1")
        known = [*migrations(), slow]
        monkeypatch.setattr(module, "migrations", lambda: known)
        monkeypatch.setattr(module, "TRANSACTION_SECONDS", 1)
        impatient = await Database.open(database_url, pool_size=1)
        async with impatient.acquire() as connection:
            assert await migrate(connection) == ["9999_slow"]
        await impatient.close()
