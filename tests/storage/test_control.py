"""The control log: no row is missed, whatever the order of commits, and none is read twice."""

from __future__ import annotations

from uuid import uuid4

from protocol.models import User
from storage import control
from storage.control import ControlReader
from storage.database import Database
from storage.hints import MembersAdded, SignInEnded, UserChanged

HINTS = [
    SignInEnded(uuid4(), 4001, "over"),
    UserChanged(User(id=uuid4(), username="ann", display_name="Ann", avatar_url=None)),
    MembersAdded(uuid4(), 7, (uuid4(), uuid4())),
]


async def test_read(db: Database) -> None:
    """A reader begins at the end, and gets each row once, as it was written."""
    reader = ControlReader()
    async with db.transaction() as conn:
        await control.write(conn, HINTS[0])
    async with db.acquire() as conn:
        assert await reader.read(conn) == []
    async with db.transaction() as conn:
        for hint in HINTS:
            await control.write(conn, hint)
    async with db.acquire() as conn:
        assert await reader.read(conn) == HINTS
        assert await reader.read(conn) == []


async def test_late_commit(db: Database) -> None:
    """A row with a lower number that is committed after others were read is still read, once."""
    reader = ControlReader()
    async with db.acquire() as looking:
        assert await reader.read(looking) == []
        async with db.transaction() as slow:
            await control.write(slow, HINTS[0])
            async with db.transaction() as quick:
                await control.write(quick, HINTS[1])
            assert await reader.read(looking) == [HINTS[1]]
            assert await reader.read(looking) == []
        assert await reader.read(looking) == [HINTS[0]]
        assert await reader.read(looking) == []


async def test_purge(db: Database) -> None:
    """Old rows go, fresh ones stay."""
    reader = ControlReader()
    async with db.acquire() as conn:
        await reader.read(conn)
        await control.write(conn, HINTS[0])
        await conn.execute("UPDATE control_log SET created_at = now() - interval '25 hours'")
        await control.write(conn, HINTS[1])
        await control.purge(conn)
        assert await reader.read(conn) == [HINTS[1]]


async def test_unknown(db: Database) -> None:
    """What a newer Parley writes is left out, and holds up nothing else."""
    reader = ControlReader()
    async with db.acquire() as conn:
        await reader.read(conn)
        await control.write(conn, HINTS[0])
        await conn.execute("INSERT INTO control_log (hint) VALUES ($1)", {"type": "Unheard", "of": 1})
        await control.write(conn, HINTS[1])
        assert await reader.read(conn) == HINTS[:2]
        assert await reader.read(conn) == []
