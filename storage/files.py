"""Files as rows: uploads, what they came to, who may have them, and what is left of them to clear away."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal, NamedTuple
from uuid import UUID

import msgspec
from msgspec import Struct

from crypto.sealing import MasterKeys, seal, unseal
from protocol.errors import ChatError
from storage.database import Connection
from storage.files_clearing import Cleared, delete_unreferenced

Status = Literal["uploading", "scanning", "ready", "rejected"]
Purpose = Literal["file", "avatar"]
Variant = Literal["whole", "small", "large"]


class Direct(Struct, frozen=True):
    """Bytes that a client sends to S3 itself: the blob that they become, and S3's name for the upload."""

    blob_id: UUID
    upload_id: str


class Description(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is sealed of a file. Later fields get defaults, so that old rows still open.

    `parts` are the sizes of the file's parts: one that is missing, or too many, is noticed. `encrypted` says that the
    client has sealed the file, so that nothing can be known of what is in it. `refused` is why there is no picture.
    `metadata` is what the client has said in Upload-Metadata (tus 1.0), which it may ask for. `direct` says that the
    client has sent its bytes to S3 itself: they are not sealed.
    """

    name: str
    file_type: str = "application/octet-stream"
    sha256: bytes = b""
    parts: tuple[int, ...] = ()
    encrypted: bool = False
    width: int | None = None
    height: int | None = None
    blurhash: str | None = None
    small: int | None = None
    large: int | None = None
    refused: str | None = None
    metadata: str = ""
    direct: Direct | None = None


class StoredFile(Struct, frozen=True, kw_only=True):
    """A row of `files`, opened. `size` is in bytes; of an upload, what was announced, or 0.

    `part_size` is the bytes in each part but the last, of an upload whose parts come in any order.
    """

    id: UUID
    uploader_id: UUID
    chatroom_id: UUID | None
    purpose: Purpose
    status: Status
    size: int
    received: int
    part_size: int | None = None
    key: bytes
    description: Description
    created_at: datetime
    updated_at: datetime
    expires_at: datetime | None


class Part(NamedTuple):
    """Where a part of a file is, and its size in bytes before it was sealed."""

    number: int
    blob_id: UUID
    size: int


_COLUMNS = (
    "f.id, f.uploader_id, f.chatroom_id, f.purpose, f.status, f.size, f.received, f.part_size, f.master_key_id, "
    "f.wrapped_key, f.nonce, f.sealed, f.created_at, f.updated_at, f.expires_at"
)

_LIVE = "(f.expires_at IS NULL OR f.expires_at > now())"

_SEES = """(f.uploader_id = {user} OR EXISTS (
    SELECT FROM message_files a JOIN members m USING (chatroom_id) JOIN chatrooms c ON c.id = a.chatroom_id
    WHERE a.file_id = f.id AND m.user_id = {user} AND c.deleted_at IS NULL))"""
"""Who may have a file: who sent it here, and the members of chatrooms where it stands in a message."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Description).decode


def _wrapping(file_id: UUID) -> bytes:
    return b"parley file key" + file_id.bytes


def _bound(file_id: UUID) -> bytes:
    return b"parley file description" + file_id.bytes


def _opened(row: Any, master: MasterKeys) -> StoredFile:
    key = master.unwrap(row["master_key_id"], row["wrapped_key"], _wrapping(row["id"]))
    description = _decode(unseal(key, row["nonce"], row["sealed"], _bound(row["id"])))
    plain = {name: row[name] for name in StoredFile.__struct_fields__ if name not in ("key", "description")}
    return StoredFile(key=key, description=description, **plain)


# --- uploads ---------------------------------------------------------------------------------


async def begin(conn: Connection, file: StoredFile, master: MasterKeys) -> None:
    """Makes the row of an upload."""
    master_key_id, wrapped = master.wrap(file.key, _wrapping(file.id))
    nonce, sealed = seal(file.key, _encode(file.description), _bound(file.id))
    await conn.execute(
        """INSERT INTO files (id, uploader_id, chatroom_id, purpose, status, size, master_key_id, wrapped_key,
                              nonce, sealed, expires_at, part_size, created_at)
           VALUES ($1, $2, $3, $4, 'uploading', $5, $6, $7, $8, $9, $10, $11, $12)""",
        file.id,
        file.uploader_id,
        file.chatroom_id,
        file.purpose,
        file.size,
        master_key_id,
        wrapped,
        nonce,
        sealed,
        file.expires_at,
        file.part_size,
        file.created_at,
    )


async def find_own(conn: Connection, master: MasterKeys, file_id: UUID, user_id: UUID) -> StoredFile | None:
    """A file of this user's, or an upload of theirs, whatever its status."""
    row = await conn.fetchrow(
        f"SELECT {_COLUMNS} FROM files f WHERE f.id = $1 AND f.uploader_id = $2 AND {_LIVE}", file_id, user_id
    )
    return None if row is None else _opened(row, master)


async def append_part(conn: Connection, file_id: UUID, part: Part, received: int) -> bool:
    """Adds the next part of an upload that has `received` bytes; False where it has more or fewer, or is over."""
    moved = await conn.execute(
        """UPDATE files SET received = received + $3, updated_at = now()
           WHERE id = $1 AND received = $2 AND status = 'uploading'""",
        file_id,
        received,
        part.size,
    )
    if moved != "UPDATE 1":
        return False
    await add_parts(conn, file_id, "whole", [part])
    return True


async def add_parts(conn: Connection, file_id: UUID, variant: Variant, parts: Sequence[Part]) -> None:
    """Says where parts are. They must be kept before, so that there is never a row without bytes."""
    await conn.executemany(
        "INSERT INTO file_parts (file_id, variant, number, blob_id, size) VALUES ($1, $2, $3, $4, $5)",
        [(file_id, variant, *part) for part in parts],
    )


async def parts_of(conn: Connection, file_id: UUID, variant: Variant) -> list[Part]:
    """Where the parts of a file, or of a picture of it, are."""
    rows = await conn.fetch(
        "SELECT number, blob_id, size FROM file_parts WHERE file_id = $1 AND variant = $2 ORDER BY number",
        file_id,
        variant,
    )
    return [Part(*row) for row in rows]


async def lock_parts(conn: Connection, file_id: UUID, parts: Sequence[Part]) -> bool:
    """Whether these are the parts of an upload; until the transaction ends, they are."""
    await conn.execute("SELECT FROM files WHERE id = $1 FOR UPDATE", file_id)
    return await parts_of(conn, file_id, "whole") == list(parts)


async def finish(conn: Connection, file: StoredFile) -> bool:
    """An upload is a file now; False where it was finished or dropped meanwhile."""
    nonce, sealed = seal(file.key, _encode(file.description), _bound(file.id))
    done = await conn.execute(
        """UPDATE files SET status = $2, size = $3, received = $3, chatroom_id = $4, nonce = $5, sealed = $6,
                            updated_at = now()
           WHERE id = $1 AND status = 'uploading'""",
        file.id,
        file.status,
        file.size,
        file.chatroom_id,
        nonce,
        sealed,
    )
    return done == "UPDATE 1"


async def remove(conn: Connection, file_ids: Sequence[UUID]) -> Cleared:
    """Forgets files that stand in no message."""
    await conn.fetch("SELECT id FROM files WHERE id = ANY($1::uuid[]) ORDER BY id FOR UPDATE", list(file_ids))
    return await delete_unreferenced(conn, list(file_ids))


class Usage(NamedTuple):
    """Bytes that a user and a chatroom take, uploads under way with what they announced."""

    user: int
    chatroom: int


async def lock_usage(conn: Connection, user_id: UUID, chatroom_id: UUID | None, but: UUID) -> Usage:
    """What is used, not counting one file. Until the transaction ends, nobody else may use more."""
    await conn.execute("SELECT FROM users WHERE id = $1 FOR NO KEY UPDATE", user_id)
    if chatroom_id is not None:
        await conn.execute("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", f"files {chatroom_id}")
    row = await conn.fetchrow(
        """SELECT (SELECT coalesce(sum(greatest(size, received)), 0)::bigint FROM files
                   WHERE uploader_id = $1 AND id <> $3 AND status <> 'rejected') AS by_user,
                  (SELECT coalesce(sum(greatest(size, received)), 0)::bigint FROM files
                   WHERE chatroom_id = $2 AND id <> $3 AND status <> 'rejected') AS by_chatroom""",
        user_id,
        chatroom_id,
        but,
    )
    assert row is not None
    return Usage(row["by_user"], row["by_chatroom"])


# --- files -----------------------------------------------------------------------------------


async def find_seen(conn: Connection, master: MasterKeys, file_ids: Sequence[UUID], user_id: UUID) -> list[StoredFile]:
    """Those of some files that this user may have; not what is unknown, unfinished or not for them."""
    rows = await conn.fetch(
        f"""SELECT {_COLUMNS} FROM files f WHERE f.id = ANY($1::uuid[]) AND f.status <> 'uploading'
            AND f.purpose = 'file' AND {_LIVE} AND {_SEES.format(user="$2")}""",
        list(file_ids),
        user_id,
    )
    return [_opened(row, master) for row in rows]


async def find_avatar(conn: Connection, master: MasterKeys, file_id: UUID) -> StoredFile | None:
    """A picture of a user or a chatroom. Whoever knows its address may have it."""
    row = await conn.fetchrow(
        f"SELECT {_COLUMNS} FROM files f WHERE f.id = $1 AND f.purpose = 'avatar' AND f.status = 'ready'", file_id
    )
    return None if row is None else _opened(row, master)


async def is_seen(conn: Connection, file_id: UUID, user_id: UUID, sign_in_id: UUID) -> bool:
    """Whether this user may still have a file, and is still signed in as they were."""
    seen: bool = await conn.fetchval(
        f"""SELECT EXISTS (SELECT FROM files f WHERE f.id = $1 AND f.status = 'ready' AND {_LIVE}
                           AND {_SEES.format(user="$2")})
            AND EXISTS (SELECT FROM sign_ins s JOIN users u ON u.id = s.user_id
                        WHERE s.id = $3 AND s.user_id = $2 AND s.revoked_at IS NULL AND u.is_active)""",
        file_id,
        user_id,
        sign_in_id,
    )
    return seen


async def by_ids(conn: Connection, master: MasterKeys, file_ids: Sequence[UUID]) -> list[StoredFile]:
    """Files by their ids, whoever may have them; not those that are unfinished."""
    rows = await conn.fetch(
        f"SELECT {_COLUMNS} FROM files f WHERE f.id = ANY($1::uuid[]) AND f.status <> 'uploading'", list(file_ids)
    )
    return [_opened(row, master) for row in rows]


async def of_uploader(
    conn: Connection, master: MasterKeys, user_id: UUID, limit: int, skip: int
) -> tuple[list[StoredFile], int]:
    """A page of a user's files, the newest first, and how many they have in all."""
    mine = f"f.uploader_id = $1 AND f.status <> 'uploading' AND f.purpose = 'file' AND {_LIVE}"
    rows = await conn.fetch(
        f"SELECT {_COLUMNS} FROM files f WHERE {mine} ORDER BY f.created_at DESC, f.id LIMIT $2 OFFSET $3",
        user_id,
        limit,
        skip,
    )
    total: int = await conn.fetchval(f"SELECT count(*) FROM files f WHERE {mine}", user_id)
    return [_opened(row, master) for row in rows], total


async def used_by(conn: Connection, user_id: UUID) -> int:
    """Bytes that a user takes, uploads under way with what they announced."""
    used: int = await conn.fetchval(
        """SELECT coalesce(sum(greatest(size, received)), 0)::bigint FROM files
           WHERE uploader_id = $1 AND status <> 'rejected'""",
        user_id,
    )
    return used


# --- messages --------------------------------------------------------------------------------


async def lock_sendable(
    conn: Connection, sender_ids: Sequence[UUID], file_ids: Sequence[UUID]
) -> dict[tuple[UUID, UUID], Status]:
    """Of these pairs of a sender and a file, those that may be sent, and the file's status.

    The files cannot go away before the transaction ends.
    """
    rows = await conn.fetch(
        f"""SELECT k.sender_id, f.id, f.status FROM unnest($1::uuid[], $2::uuid[]) AS k(sender_id, file_id)
            JOIN files f ON f.id = k.file_id
            WHERE f.status <> 'uploading' AND f.purpose = 'file' AND {_LIVE} AND {_SEES.format(user="k.sender_id")}
            ORDER BY f.id FOR KEY SHARE OF f""",
        list(sender_ids),
        list(file_ids),
    )
    return {(row["sender_id"], row["id"]): row["status"] for row in rows}


async def add_to_messages(
    conn: Connection, chatroom_ids: Sequence[UUID], message_ids: Sequence[UUID], file_ids: Sequence[UUID]
) -> None:
    """Says that these files stand in these messages."""
    await conn.execute(
        """INSERT INTO message_files (chatroom_id, message_id, file_id)
           SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::uuid[]) ON CONFLICT DO NOTHING""",
        list(chatroom_ids),
        list(message_ids),
        list(file_ids),
    )


async def take_from_message(conn: Connection, chatroom_id: UUID, message_id: UUID) -> None:
    """No file stands in this message any more."""
    await conn.execute("DELETE FROM message_files WHERE chatroom_id = $1 AND message_id = $2", chatroom_id, message_id)


# --- keys ------------------------------------------------------------------------------------


async def check_master_keys(conn: Connection, master: MasterKeys) -> None:
    """Raises crypto.sealing.MasterKeyMissing when a file's key is wrapped by a master key that is not at hand."""
    for row in await conn.fetch("SELECT DISTINCT master_key_id FROM files"):
        master.require(row["master_key_id"])


async def rewrap(conn: Connection, master: MasterKeys, after: UUID, limit: int) -> list[UUID]:
    """Wraps keys of files behind `after`, in the order of ids, under the newest master key; blobs stay as they are.

    Returns whose they were, `limit` at most. Files can be sent meanwhile.
    """
    rows = await conn.fetch(
        """SELECT id, master_key_id, wrapped_key FROM files WHERE id > $2 AND master_key_id <> $1
           ORDER BY id LIMIT $3 FOR NO KEY UPDATE""",
        master.current,
        after,
        limit,
    )
    rewrapped = []
    for row in rows:
        bound = _wrapping(row["id"])
        key = master.unwrap(row["master_key_id"], row["wrapped_key"], bound)
        rewrapped.append((row["id"], *master.wrap(key, bound)))
    await conn.executemany("UPDATE files SET master_key_id = $2, wrapped_key = $3 WHERE id = $1", rewrapped)
    return [row["id"] for row in rows]


def not_found() -> ChatError:
    """The answer for a file that is unknown, gone, or not for who asks: they look the same."""
    return ChatError("FILE_NOT_FOUND")
