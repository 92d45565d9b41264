"""The data key of each chatroom: made with it, kept wrapped by a master key, opened once and remembered."""

from __future__ import annotations

from collections import OrderedDict
from datetime import datetime
from uuid import UUID

import msgspec

from crypto.sealing import MasterKeys, new_key, seal, unseal
from protocol.errors import ChatError
from protocol.models import Attachment, Content
from storage.database import Connection, Database, take_as_long_as_it_takes

CACHED_ROOMS = 20_000
"""Chatrooms whose keys are remembered; about half a kilobyte each."""


class MessageBody(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is sealed of a message. Later fields get defaults, so that old rows still open."""

    content: Content
    attachments: tuple[Attachment, ...] = ()


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(MessageBody).decode


class RoomKey:
    """The data keys of one chatroom, by version. New messages are sealed under `current`."""

    __slots__ = ("_keys", "_place", "chatroom_id", "current")

    def __init__(self, chatroom_id: UUID, keys: dict[int, bytes]) -> None:
        self.chatroom_id = chatroom_id
        self.current = max(keys)
        self._keys = keys
        self._place = b"parley message" + chatroom_id.bytes

    def seal(self, message_id: UUID, sender_id: UUID, body: MessageBody) -> tuple[int, bytes, bytes]:
        """(key version, nonce, sealed bytes) of a new message."""
        bound = self._bound(message_id, sender_id, self.current)
        nonce, sealed = seal(self._keys[self.current], _encode(body), bound)
        return self.current, nonce, sealed

    def unseal(self, message_id: UUID, sender_id: UUID, version: int, nonce: bytes, sealed: bytes) -> MessageBody:
        """The body of a stored message. Raises crypto.sealing.SealBroken."""
        plain = unseal(self._keys[version], nonce, sealed, self._bound(message_id, sender_id, version))
        return _decode(plain)

    def _bound(self, message_id: UUID, sender_id: UUID, version: int) -> bytes:
        """Associated data: a row pasted under another chatroom, id, sender or version does not open."""
        return self._place + message_id.bytes + sender_id.bytes + version.to_bytes(4, "big")


class RoomKeys:
    """Opens room keys and remembers the recently used ones."""

    def __init__(self, database: Database, master: MasterKeys) -> None:
        self._database = database
        self._master = master
        self._cache: OrderedDict[UUID, RoomKey] = OrderedDict()

    def cached(self, chatroom_id: UUID) -> RoomKey | None:
        """The key, if it is remembered."""
        return self._cache.get(chatroom_id)

    async def get(self, chatroom_id: UUID) -> RoomKey:
        """The key of a chatroom. Raises ChatError CHATROOM_NOT_FOUND where there is none."""
        if key := self._cache.get(chatroom_id):
            self._cache.move_to_end(chatroom_id)
            return key
        async with self._database.acquire() as conn:
            rows = await conn.fetch(
                "SELECT chatroom_id, key_version, master_key_id, wrapped_key FROM chatroom_keys WHERE chatroom_id = $1",
                chatroom_id,
            )
        if not rows:
            raise ChatError("CHATROOM_NOT_FOUND")
        keys = {
            row["key_version"]: self._master.unwrap(
                row["master_key_id"], row["wrapped_key"], _wrapping(chatroom_id, row["key_version"])
            )
            for row in rows
        }
        return self._remember(RoomKey(rows[0]["chatroom_id"], keys))

    def replace(self, master: MasterKeys) -> None:
        """Takes rotated master keys; room keys that are open stay so."""
        self._master = master

    async def create(self, conn: Connection, chatroom_id: UUID, now: datetime) -> None:
        """Makes version 1 of a new chatroom's key, in the transaction that makes the chatroom."""
        master_key_id, wrapped = self._master.wrap(new_key(), _wrapping(chatroom_id, 1))
        await conn.execute(
            """INSERT INTO chatroom_keys (chatroom_id, key_version, master_key_id, wrapped_key, created_at)
               VALUES ($1, 1, $2, $3, $4)""",
            chatroom_id,
            master_key_id,
            wrapped,
            now,
        )

    def forget(self, chatroom_id: UUID) -> None:
        """Drops the key of a deleted chatroom."""
        self._cache.pop(chatroom_id, None)

    def _remember(self, key: RoomKey) -> RoomKey:
        self._cache[key.chatroom_id] = key
        if len(self._cache) > CACHED_ROOMS:
            self._cache.popitem(last=False)
        return key


def _wrapping(chatroom_id: UUID, version: int) -> bytes:
    return b"parley room key" + chatroom_id.bytes + version.to_bytes(4, "big")


async def check_master_keys(conn: Connection, master: MasterKeys) -> None:
    """Raises MasterKeyMissing when a chatroom's key is wrapped by a master key that is not at hand."""
    rows = await conn.fetch("SELECT DISTINCT master_key_id FROM chatroom_keys")
    for row in rows:
        master.require(row["master_key_id"])


async def rewrap(conn: Connection, master: MasterKeys) -> int:
    """Wraps every room key under the newest master key. Returns how many were not; messages stay as they are."""
    await take_as_long_as_it_takes(conn)
    rows = await conn.fetch(
        """SELECT chatroom_id, key_version, master_key_id, wrapped_key FROM chatroom_keys
           WHERE master_key_id <> $1 FOR UPDATE""",
        master.current,
    )
    for row in rows:
        bound = _wrapping(row["chatroom_id"], row["key_version"])
        master_key_id, wrapped = master.wrap(master.unwrap(row["master_key_id"], row["wrapped_key"], bound), bound)
        await conn.execute(
            "UPDATE chatroom_keys SET master_key_id = $3, wrapped_key = $4 WHERE chatroom_id = $1 AND key_version = $2",
            row["chatroom_id"],
            row["key_version"],
            master_key_id,
            wrapped,
        )
    return len(rows)
