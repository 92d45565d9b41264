"""Files where they lie: whoever changes them there makes an error of them and nothing else, and reads nothing."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import aiohttp
import asyncpg

from crypto.file_sealing import SEALED_CHUNK
from tests.e2e.conftest import StartServer
from tests.e2e.server import Person, Server
from tests.e2e.socket_client import socket_client
from tests.e2e.test_downloads import ask
from tests.e2e.test_files import signed, upload
from tests.e2e.test_files_s3 import try_to_upload
from tests.e2e.test_secrets import dump, found
from tests.e2e.tus import append, create

SIZES = (150_000, 150_000, 100_000)
"""Of the parts of a file: three chunks, three, and two."""

Blobs = list[bytes]


def _with_bit(blob: bytes, at: int) -> bytes:
    return blob[:at] + bytes([blob[at] ^ 1]) + blob[at + 1 :]


def _chunks(blob: bytes) -> list[bytes]:
    return [blob[at : at + SEALED_CHUNK] for at in range(0, len(blob), SEALED_CHUNK)]


def _swapped(blob: bytes) -> bytes:
    first, second, *rest = _chunks(blob)
    return b"".join([second, first, *rest])


CHANGED: dict[str, Callable[[Blobs], list[bytes | None]]] = {
    "a bit of a nonce": lambda b: [_with_bit(b[0], 3), b[1], b[2]],
    "a bit of the first chunk": lambda b: [_with_bit(b[0], 5_000), b[1], b[2]],
    "a bit of a tag": lambda b: [b[0], b[1], _with_bit(b[2], len(b[2]) - 1)],
    "a bit in the middle": lambda b: [b[0], _with_bit(b[1], SEALED_CHUNK + 99), b[2]],
    "two chunks change places": lambda b: [b[0], _swapped(b[1]), b[2]],
    "a chunk stands in another part": lambda b: [b[0], b"".join([_chunks(b[0])[0], *_chunks(b[1])[1:]]), b[2]],
    "a chunk comes twice": lambda b: [b[0], b"".join([_chunks(b[1])[0], *_chunks(b[1])[:1], _chunks(b[1])[2]]), b[2]],
    "a byte is missing": lambda b: [b[0], b[1], b[2][:-1]],
    "the last chunk is missing": lambda b: [b[0], b[1][: 2 * SEALED_CHUNK], b[2]],
    "nothing is left of a blob": lambda b: [b"", b[1], b[2]],
    "a blob is gone": lambda b: [b[0], None, b[2]],
    "two blobs change places": lambda b: [b[1], b[0], b[2]],
}

MOVED: dict[str, str] = {
    "the last part is gone": "DELETE FROM file_parts WHERE file_id = $1 AND number = 2",
    "a part is gone": "DELETE FROM file_parts WHERE file_id = $1 AND number = 1",
    "all parts are gone": "DELETE FROM file_parts WHERE file_id = $1",
    "a part comes twice": """INSERT INTO file_parts SELECT file_id, variant, 3, gen_random_uuid(), size FROM file_parts
                             WHERE file_id = $1 AND number = 2""",
    "two parts change places": """WITH gone AS (DELETE FROM file_parts WHERE file_id = $1 AND number < 2 RETURNING *)
                                  INSERT INTO file_parts SELECT file_id, variant, 1 - number, blob_id, size
                                  FROM gone ORDER BY number""",
    "a part is longer": "UPDATE file_parts SET size = size + 1 WHERE file_id = $1 AND number = 2",
    "a part is shorter": "UPDATE file_parts SET size = size - 1 WHERE file_id = $1 AND number = 0",
    "a part is a blob of another": "UPDATE file_parts SET blob_id = $2 WHERE file_id = $1 AND number = 0",
}


class Stored:
    """A file that somebody has uploaded, as it lies there: rows, and blobs in a directory."""

    def __init__(self, server: Server, owner: Person, file_id: UUID, data: bytes, rows: list[Any]) -> None:
        self.server = server
        self.owner = owner
        self.file_id = file_id
        self.data = data
        self.rows = rows
        self.paths = [_path(server, row["blob_id"]) for row in rows]
        self.blobs = [path.read_bytes() for path in self.paths]

    def write(self, blobs: list[bytes | None]) -> None:
        """Puts others in the place of its blobs; None is no blob."""
        for path, blob in zip(self.paths, blobs, strict=True):
            if blob is None:
                path.unlink()
            else:
                path.write_bytes(blob)

    async def get(self, first: int, last: int) -> bytes | None:
        """A range as its owner gets it; None for an error, before or while it comes."""
        headers = signed(self.owner) | {"Range": f"bytes={first}-{last}"}
        async with (
            aiohttp.ClientSession(headers=headers) as http,
            http.get(f"{self.server.http}/files/{self.file_id}") as answer,
        ):
            if answer.status == 500:
                assert (await answer.json())["error"]["code"] == "FILE_DAMAGED"
                return None
            assert answer.status == 206
            got = b""
            try:
                async for piece in answer.content.iter_any():
                    got += piece
            except aiohttp.ClientError:
                assert got == self.data[first : first + len(got)]
                return None
            return got

    async def is_right(self, dice: random.Random) -> bool:
        """Whether all of it can be had. No range of it is ever wrong, or short."""
        right = True
        ranges = [sorted(dice.randrange(len(self.data)) for _ in range(2)) for _ in range(5)]
        for first, last in ((0, len(self.data) - 1), (len(self.data) - 1, len(self.data) - 1), *ranges):
            got = await self.get(first, last)
            assert got is None or got == self.data[first : last + 1], (first, last)
            right = right and got is not None
        return right


def _path(server: Server, blob_id: UUID) -> Path:
    return server.directory / "data" / "files" / blob_id.hex[-2:] / blob_id.hex


async def store(server: Server, owner: Person) -> Stored:
    """A file in several parts."""
    data = os.urandom(sum(SIZES))
    path = await create(server, owner, len(data))
    at = 0
    for size in SIZES:
        answer = await append(server, owner, path, at, data[at : at + size])
        assert answer.status == 204
        at += size
    file_id = UUID(path.rpartition("/")[2])
    connection = await asyncpg.connect(server.database_url)
    rows = await connection.fetch("SELECT * FROM file_parts WHERE file_id = $1 ORDER BY number", file_id)
    await connection.close()
    assert [row["size"] for row in rows] == list(SIZES)
    return Stored(server, owner, file_id, data, rows)


async def test_changed_blobs(common_server: Server, crowd: list[Person]) -> None:
    """A bit, a chunk or a blob that is not what or where it was is an error, for ranges too, and never wrong bytes."""
    stored = await store(common_server, crowd[0])
    dice = random.Random(seed := random.randrange(2**32))
    assert await stored.is_right(dice)
    for name, change in CHANGED.items():
        stored.write(change(stored.blobs))
        assert not await stored.is_right(dice), (name, seed)
        stored.write(list(stored.blobs))
    assert await stored.is_right(dice)


async def test_changed_rows(common_server: Server, crowd: list[Person]) -> None:
    """A part's row that was deleted, repeated or changed is an error too: the file itself knows its parts."""
    stored = await store(common_server, crowd[1])
    other = await store(common_server, crowd[1])
    taken = uuid4()
    _path(common_server, taken).parent.mkdir(exist_ok=True)
    _path(common_server, taken).write_bytes(other.blobs[0])
    dice = random.Random(seed := random.randrange(2**32))
    connection = await asyncpg.connect(common_server.database_url)
    for name, change in MOVED.items():
        await connection.execute(change, stored.file_id, *([taken] if "$2" in change else []))
        assert not await stored.is_right(dice), (name, seed)
        await connection.execute("DELETE FROM file_parts WHERE file_id = $1", stored.file_id)
        await connection.executemany(
            "INSERT INTO file_parts VALUES ($1, $2, $3, $4, $5)", list(map(tuple, stored.rows))
        )
    await connection.close()
    assert await stored.is_right(dice)
    assert await other.is_right(dice)


SECRETS = {
    "content": "planted bytes: the deed of the house by the lake",
    "name": "planted name of a letter to the mayor.txt",
    "failed": "planted bytes: of an upload that broke",
    "tus": "planted name of a film.mkv",
}


async def test_nothing_shows(start_server: StartServer, tmp_path: Path) -> None:
    """Neither blobs nor a dump of the database nor the logs show what is in files, or what they are called."""
    server = await start_server(PARLEY_LOG_LEVEL="debug")
    ann, bob = await server.people(2)
    room = await server.chatroom(ann, bob)
    content = (SECRETS["content"] + "\n").encode() * 5_000
    file = await upload(server, ann, content, SECRETS["name"])
    body = {"content": "", "message_type": "file", "attachments": [{"id": file["id"]}]}
    await server.data("POST", f"/chatrooms/{room}/messages", ann.token, body)
    assert (await ask(server, file["encrypted_url"], bob))[2] == content
    path = await create(server, ann, 100_000, filename=SECRETS["tus"])
    await append(server, ann, path, 0, SECRETS["content"].encode())
    await _fail(server, ann, bob, room)
    stolen = await dump(server.database_url)
    await server.stop()
    blobs = [path.read_bytes() for path in (tmp_path / "data" / "files").rglob("*") if path.is_file()]
    assert sum(map(len, blobs)) > len(content)
    assert b"COPY public.file_parts" in stolen
    for name, place in (("blobs", b"".join(blobs)), ("dump", stolen), ("logs", server.logs().encode())):
        assert found(SECRETS, place) == [], name


async def _fail(server: Server, ann: Person, bob: Person, room: UUID) -> None:
    """Refusals, and an upload that the database breaks."""
    assert (await ask(server, f"/files/{SECRETS['name']}", ann))[0] == 404
    connection = await asyncpg.connect(server.database_url)
    await connection.execute("ALTER TABLE file_parts RENAME TO gone")
    failed = SECRETS["failed"].encode() * 1_000
    assert (await try_to_upload(server, ann, failed, SECRETS["name"]))[0] == 500
    await connection.execute("ALTER TABLE gone RENAME TO file_parts")
    await connection.close()
    async with socket_client(server) as client:
        await client.authenticate(bob.token)
        wrong = {"chatroom_id": str(room), "content": "", "attachments": [{"id": str(uuid4())}]}
        assert (await client.ask("send_message", wrong, "w"))["event"] == "error"
