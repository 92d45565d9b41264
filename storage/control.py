"""The control log: what every node has to do, written in the transaction that makes it so.

Numbers from a sequence are not in commit order, so a reader that went by the
highest number would miss rows. It goes by transactions instead: all that began
before `pg_snapshot_xmin` have ended, so it never has to look at them again; of
the others it remembers which rows it has had.
"""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any

import msgspec

from storage.database import Connection
from storage.hints import AnyHint, Hint

log = logging.getLogger(__name__)

KEPT = timedelta(days=1)
"""How long rows are kept. A node that was stopped for longer has no session left that could be resumed."""


async def write(conn: Connection, hint: Hint) -> None:
    """Adds to the log."""
    await conn.execute("INSERT INTO control_log (hint) VALUES ($1)", msgspec.to_builtins(hint))


async def purge(conn: Connection) -> None:
    """Forgets what every node has read."""
    await conn.execute("DELETE FROM control_log WHERE created_at < now() - $1::interval", KEPT)


class ControlReader:
    """One node's place in the log. It begins at its end: a new node has nothing to undo."""

    def __init__(self) -> None:
        self._from: str | None = None
        self._had: set[int] = set()

    async def read(self, conn: Connection) -> list[AnyHint]:
        """What was committed since the last time, in order; nothing the first time."""
        rows = await conn.fetch(_READ, self._from)
        first, self._from = self._from is None, rows[0]["xmin"]
        entries = [row for row in rows if row["id"] is not None]
        fresh = [] if first else [row["hint"] for row in entries if row["id"] not in self._had]
        self._had = {row["id"] for row in entries if row["is_open"]}
        return [hint for row in fresh if (hint := _hint(row)) is not None]


def _hint(row: Any) -> AnyHint | None:
    """None for what a newer Parley has written: that must not hold up the others."""
    try:
        hint: AnyHint = msgspec.convert(row, AnyHint, strict=False)
    except msgspec.ValidationError:
        log.warning("the control log says something unknown")
        return None
    return hint


_READ = """
WITH now AS (SELECT pg_snapshot_xmin(pg_current_snapshot()) AS xmin)
SELECT now.xmin::text AS xmin, c.id, c.hint, c.xact_id >= now.xmin AS is_open
FROM now LEFT JOIN control_log c ON c.xact_id >= coalesce($1::text::xid8, now.xmin) ORDER BY c.id
"""
