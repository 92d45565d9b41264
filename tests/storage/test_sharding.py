"""The schema stays such that chatrooms could be spread over several databases by their id."""

from __future__ import annotations

import re
from pathlib import Path

from storage.database import Database

PAGE = (Path(__file__).parent.parent.parent / "docs" / "operations.md").read_text()

_TABLES = """
SELECT c.relname AS name, bool_or(a.attname = 'chatroom_id') OR c.relname = 'chatrooms' AS of_a_chatroom
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace GROUP BY c.relname
"""
_KEYS = """
SELECT i.indrelid::regclass::text AS name, i.indexrelid::regclass::text AS key,
       array_agg(a.attname::text) AS columns
FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey::int2[])
WHERE i.indisunique AND i.indrelid::regclass::text = ANY ($1) GROUP BY 1, 2
"""
_LINKS = """
SELECT conrelid::regclass::text AS name, confrelid::regclass::text AS target, conname
FROM pg_constraint WHERE contype = 'f'
"""


def _listed(how: str) -> set[str]:
    (line,) = (line for line in PAGE.splitlines() if line.startswith("|") and how in line)
    return set(re.findall(r"`(\w+)`", line.split("|")[1]))


async def test_every_table_has_its_place(db: Database) -> None:
    """The page on operations says of each table whether it is spread by chatroom, on every shard, or on none."""
    async with db.acquire() as conn:
        tables = {row["name"]: row["of_a_chatroom"] for row in await conn.fetch(_TABLES)}
    spread, elsewhere = _listed("distributed by"), _listed("reference tables") | _listed("on the coordinator")
    assert spread | elsewhere == tables.keys()
    assert spread == {name for name, of_a_chatroom in tables.items() if of_a_chatroom} - {"direct_chatrooms", "files"}


async def test_keys_have_the_chatroom(db: Database) -> None:
    """Every unique key of what is spread has the chatroom's id in it."""
    async with db.acquire() as conn:
        keys = await conn.fetch(_KEYS, list(_listed("distributed by")))
    assert keys
    for key in keys:
        assert ("id" if key["name"] == "chatrooms" else "chatroom_id") in key["columns"], key["key"]


async def test_links_can_be_kept(db: Database) -> None:
    """Of the foreign keys, one alone leads from elsewhere to what is spread, and the page says so."""
    spread = _listed("distributed by")
    async with db.acquire() as conn:
        links = await conn.fetch(_LINKS)
    wrong = {link["conname"] for link in links if link["target"] in spread and link["name"] not in spread}
    assert wrong == {"direct_chatrooms_chatroom_id_fkey"}
    assert all(f"`{name}`" in PAGE for name in wrong)
