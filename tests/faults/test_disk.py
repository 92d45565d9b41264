"""The disk under PostgreSQL is full."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest

from tests.e2e.socket_client import socket_client
from tests.faults.conftest import MakeCluster
from tests.faults.disks import fill

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
async def database_on_it(server_url: str, small_disk: Path) -> AsyncIterator[str]:
    """A database whose tables and indexes lie there. The log of writes does not: without it PostgreSQL itself stops."""
    small_disk.parent.chmod(0o755)
    name = f"small_{uuid4().hex}"
    admin = await asyncpg.connect(server_url, database="postgres")
    await admin.execute(f"CREATE TABLESPACE {name} LOCATION '{small_disk}'")
    await admin.execute(f"CREATE DATABASE {name} TEMPLATE parley TABLESPACE {name} STRATEGY file_copy")
    yield server_url.replace("/parley?", f"/{name}?")
    await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await admin.execute(f"DROP TABLESPACE {name}")
    await admin.close()


async def test_full_disk(cluster: MakeCluster, small_disk: Path, database_on_it: str) -> None:
    """Writing is refused with an error that says to try again, reading goes on, and with room again all goes on."""
    made = await cluster(1, database=database_on_it)
    load = await made.load(members=3, rooms=1)
    ann = (await made.nodes[0].server.people(1))[0]
    room = await made.nodes[0].server.chatroom(ann)
    await made.note_levels()
    async with load.running():
        await load.acked(20)
        ballast = fill(small_disk)
        async with socket_client(made.nodes[0].server) as client:
            await client.authenticate(ann.token)
            answers = [await client.say(room, "x" * 16_000)]
            while (answer := answers[-1])["event"] == "ack" and len(answers) < 1_000:
                answers.append(await client.say(room, "x" * 16_000))
            assert answer["data"]["code"] == "SERVICE_UNAVAILABLE", answer
            assert answer["data"]["retry_after"] > 0
            read = await client.ask("fetch_messages", {"chatroom_id": str(room)})
            assert read["event"] == "ack"
            ballast.unlink()
            while (await client.say(room, "there is room")).get("event") != "ack":
                pass
        await load.acked(20)
    await made.judge(load)
