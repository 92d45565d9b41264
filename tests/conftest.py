"""What tests share: one PostgreSQL and one Valkey for the run, a fresh database for each test that asks."""

from __future__ import annotations

import asyncio
import logging
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest

from storage.database import Database, migrate
from storage.embedded import EmbeddedPostgres
from tests.s3 import S3, Moto, Spoiler
from tests.valkey import Valkey


@pytest.fixture(scope="session")
def server_url() -> Iterator[str]:
    """The URL of a server with the settings that users get, and a migrated database to copy from."""
    # Not in pytest's own directory: another pytest that starts closes that to all users but ours, and the
    # server of a root user is not ours.
    directory = Path(tempfile.mkdtemp(prefix="parley-tests-"))
    server = EmbeddedPostgres(directory)
    url = server.start()
    asyncio.run(_migrate(url))
    yield url
    server.stop()
    shutil.rmtree(directory)


async def _migrate(url: str) -> None:
    connection = await asyncpg.connect(url)
    await migrate(connection)
    await connection.close()


@pytest.fixture
def own_logging() -> Iterator[None]:
    """Lets a test set up logging for the whole process; afterwards it is as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers.clear()
    yield
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
async def database_url(server_url: str) -> AsyncIterator[str]:
    """The URL of a migrated, empty database of the test's own."""
    name = f"test_{uuid4().hex}"
    admin = await asyncpg.connect(server_url, database="postgres")
    await admin.execute(f"CREATE DATABASE {name} TEMPLATE parley")
    yield server_url.replace("/parley?", f"/{name}?")
    await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await admin.close()


@pytest.fixture
async def db(database_url: str) -> AsyncIterator[Database]:
    """An open database, migrated and empty."""
    database = await Database.open(database_url, pool_size=10)
    yield database
    await database.close()


@pytest.fixture(scope="session")
def one_valkey() -> Iterator[Valkey]:
    """The run's Valkey. Tests ask for `valkey`, which is this one as if it were new."""
    directory = Path(tempfile.mkdtemp(prefix="parley-tests-"))
    server = Valkey(directory)
    yield server
    server.stop()
    shutil.rmtree(directory)


@pytest.fixture
def valkey(one_valkey: Valkey) -> Valkey:
    """A running, empty Valkey: `.url`, `.kill()`, `.start()`, `.flush()`, `.pause()`, `.resume()`."""
    one_valkey.renew()
    return one_valkey


@pytest.fixture
def valkey_url(valkey: Valkey) -> str:
    """The URL of a running, empty Valkey."""
    return valkey.url


@pytest.fixture(scope="session")
def moto() -> Iterator[Moto]:
    """The run's S3, which speaks real HTTP. Tests ask for `s3`, which has a bucket of the test's own there."""
    server = Moto()
    yield server
    server.stop()


@pytest.fixture
async def s3(moto: Moto, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[S3]:
    """An empty bucket, and what can go wrong on the way to it."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    async with Spoiler(moto.url) as spoiler:
        bucket = S3(moto.url, spoiler, f"bucket-{uuid4().hex}")
        await bucket.create()
        yield bucket
