"""Whoever has the whole server (database, files, keys, logs) opens no end-to-end encrypted message."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg

from crypto import keyfile
from crypto.end_to_end import DeviceName, DevicePrivateKey, KeyInvalid, Place, Wrap
from crypto.sealing import MasterKeys, SealBroken
from gateway.client import Client, Device, connect
from protocol import commands
from protocol.models import EncryptedContent, Message
from storage import history, messages
from storage.database import Database
from storage.room_keys import RoomKeys
from tests.e2e.conftest import StartServer
from tests.e2e.server import Person, Server
from tests.e2e.test_secrets import dump, found

TEXTS = {
    "first": "planted end to end: the fox is in the henhouse",
    "reply": "planted end to end: an answer to the fox",
    "rotated": "planted end to end: after somebody has gone",
    "failed": "planted end to end: while the table was gone",
}
FILE = {"name": "planted-blueprint.pdf", "content": "planted in a sealed file: three hens are missing"}


class Secrets:
    """What members have and the server must not: private keys of devices, and keys of chatrooms."""

    def __init__(self) -> None:
        self.private: list[bytes] = []
        self.room_keys: dict[int, bytes] = {}
        self.file_keys: list[bytes] = []

    def take(self, client: Client, device: Device, room: UUID) -> None:
        """Those of one device."""
        self.private.append(device.key.private_bytes())
        self.room_keys |= {version: held.key for version, held in client.room(room)._held.items()}


async def talk(server: Server, room: UUID, people: list[Person], directory: Path) -> Secrets:
    """A conversation with an answer, a failure inside the server, and a removal with its rotation."""
    secrets = Secrets()
    devices = [Device.load(directory / f"{person.username}.device") for person in people]
    async with (
        connect(server.ws, people[0].token, device=devices[0]) as ann,
        connect(server.ws, people[1].token, device=devices[1]) as bob,
        connect(server.ws, people[2].token, device=devices[2]) as eve,
    ):
        first = (await ann.room(room).send_encrypted(TEXTS["first"])).message
        await bob.room(room).send_encrypted(TEXTS["reply"], reply_to=first.id)
        assert await eve.room(room).open(first) == TEXTS["first"]
        (directory / FILE["name"]).write_text(FILE["content"] * 3_000)
        sent = (await ann.room(room).send_file(directory / FILE["name"])).message
        info = await bob.room(room).open_attachment(sent, sent.attachments[0])
        assert info.filename == FILE["name"]
        secrets.file_keys.append(info.key)
        await fail(server, people[0], room, ann.room(room)._held[1].key)
        await ann.call(commands.RemoveMember(chatroom_id=room, user_id=people[2].id))
        await bob.room(room).send_encrypted(TEXTS["rotated"])
        for client, device in zip((ann, bob, eve), devices, strict=True):
            secrets.take(client, device, room)
    return secrets


async def fail(server: Server, person: Person, room: UUID, key: bytes) -> None:
    """A message that the database refuses, which puts the failure into the logs."""
    data, iv = Place(room, person.id, 1, "text", None).seal(key, TEXTS["failed"])
    body = {"content": {"encrypted_data": data, "iv": iv, "key_version": 1}}
    connection = await asyncpg.connect(server.database_url)
    await connection.execute("ALTER TABLE messages ADD CONSTRAINT no CHECK (false) NOT VALID")
    assert (await server.call("POST", f"/chatrooms/{room}/messages", person.token, body))[0] == 500
    await connection.execute("ALTER TABLE messages DROP CONSTRAINT no")
    await connection.close()


async def unsealed(server: Server, master: MasterKeys, room: UUID) -> list[Message]:
    """The messages as the server's own keys open them at rest: what the server knows of them."""
    database = await Database.open(server.database_url, 1)
    key = await RoomKeys(database, master).get(room)
    async with database.acquire() as conn:
        member: UUID = await conn.fetchval("SELECT user_id FROM members WHERE chatroom_id = $1 LIMIT 1", room)
        page = await history.page(conn, room, member, "after", 0, 100, 0)
    await database.close()
    return list(messages.open_rows(page.rows, key))


# --- everything that might be a key ----------------------------------------------------------


def blobs(loot: bytes) -> Iterator[bytes]:
    """What stands in files and dumps: raw, and whatever is hex or base64 in it, decoded."""
    yield loot
    for text in set(re.findall(rb"[0-9a-fA-F]{64,}", loot)):
        yield bytes.fromhex(text[: len(text) // 2 * 2].decode())
    for text in set(re.findall(rb"[A-Za-z0-9+/_-]{43,}", loot)):
        for offset in range(4):
            part = text[offset:].translate(bytes.maketrans(b"-_", b"+/"))
            yield base64.b64decode(part[: len(part) // 4 * 4])


def windows(blob: bytes, step: int = 1) -> set[bytes]:
    """Every 32 bytes in a row."""
    return {blob[at : at + 32] for at in range(0, len(blob) - 31, step)}


def opened(candidates: Iterable[bytes], sealed: list[Message]) -> set[str]:
    """The texts that some candidate opens as the chatroom's key."""
    texts = set()
    for key in candidates:
        for message in sealed:
            content = message.content
            assert isinstance(content, EncryptedContent)
            place = Place(message.chatroom_id, message.user_id, content.key_version, "text", message.reply_to)
            with suppress(SealBroken):
                texts.add(place.open(key, content.encrypted_data, content.iv))
    return texts


async def unwrapped(database_url: str, candidates: Iterable[bytes]) -> set[bytes]:
    """The chatroom keys that some candidate unwraps, as the private key of the recipient or of the sender."""
    connection = await asyncpg.connect(database_url)
    rows = await connection.fetch("SELECT * FROM wrapped_keys")
    await connection.close()
    keys = set()
    for private in candidates:
        for row in rows:
            sender, recipient = (base64.b64decode(row[name]) for name in ("sender_public_key", "public_key"))
            for other in (sender, recipient):
                with suppress(SealBroken, KeyInvalid):
                    key = DevicePrivateKey(private).shared_with(other, sender, recipient)
                    keys.add(wrap_of(row).open_with(key, row["wrapped_key"]))
    return keys


def wrap_of(row: Any) -> Wrap:
    """What a row of wrapped_keys is bound to."""
    sender = DeviceName(row["sender_id"], row["sender_device_id"])
    return Wrap(row["chatroom_id"], row["key_version"], sender, DeviceName(row["user_id"], row["device_id"]))


def visible(secrets: Iterable[bytes], loot: bytes) -> bool:
    """Whether any of these bytes stands there, raw, in hex, or in base64 of either alphabet at any offset."""
    secrets = list(secrets)
    shown = [base64.b64encode(b"x" * n + secret)[4 if n else 0 : -4] for secret in secrets for n in range(3)]
    forms = [*secrets, *(secret.hex().encode() for secret in secrets), *shown]
    forms += [form.translate(bytes.maketrans(b"+/", b"-_")) for form in shown]
    return any(form in loot for form in forms)


# --- the proof -------------------------------------------------------------------------------


async def test_the_server_cannot_read(start_server: StartServer, tmp_path: Path) -> None:
    """After a conversation with failures and a rotation, nothing that the server has opens any message of it.

    Neither a text nor a private key nor a chatroom's key is in the dump, the files or the logs; and of all
    that is there, no 32 bytes in a row open a message, and none of the server's keys unwraps a chatroom's key.
    """
    server = await start_server(PARLEY_LOG_LEVEL="debug")
    people = await server.people(3)
    room = await server.chatroom(people[0], *people[1:], encryption_enabled=True)
    devices = tmp_path / "the devices of the members"
    secrets = await talk(server, room, people, devices)
    database = await dump(server.database_url)
    await server.stop()
    files = [path for path in (server.directory / "data").rglob("*") if path.is_file()]
    stolen = database + b"\n".join(path.read_bytes() for path in files) + server.logs().encode()
    assert b"COPY public.wrapped_keys" in stolen
    assert b"a send failed" in stolen
    assert any("master" in path.name for path in files)

    assert any("files" in path.parts and path.stat().st_size > 100_000 for path in files)
    assert found(TEXTS | FILE, stolen) == []
    assert not visible([*secrets.private, *secrets.room_keys.values(), *secrets.file_keys], stolen)

    keys = keyfile.load(server.directory / "data" / "keys")
    sealed = await unsealed(server, MasterKeys(keys.master), room)
    assert [type(message.content) for message in sealed] == [EncryptedContent] * 4
    candidates = set().union(*(windows(blob) for blob in blobs(stolen)))
    assert len(secrets.room_keys) == 2
    assert opened(candidates, sealed) == set()

    held = {key for _, key in keys.master} | {keys.refresh_secret[:32], keys.noise.secret}
    held |= await at_rest_keys(server, MasterKeys(keys.master)) | await public_keys(server)
    for path in files:
        if "keys" in path.parts:
            held |= set().union(*(windows(blob, 8) for blob in blobs(path.read_bytes())))
    assert await unwrapped(server.database_url, held) == set()
    assert opened(held, sealed) == set()

    # The same search finds what it is meant to find.
    assert opened([*held, *secrets.room_keys.values()], sealed) == {TEXTS[n] for n in ("first", "reply", "rotated")}
    assert await unwrapped(server.database_url, [secrets.private[1]]) == set(secrets.room_keys.values())
    planted = b"\n" + base64.urlsafe_b64encode(b"xyz" + secrets.private[0] + b"tail") + b"\n"
    assert visible(secrets.private, planted)
    assert secrets.private[0] in set().union(*(windows(blob) for blob in blobs(planted)))


async def at_rest_keys(server: Server, master: MasterKeys) -> set[bytes]:
    """The server's own keys of chatrooms, unwrapped."""
    connection = await asyncpg.connect(server.database_url)
    rooms = await connection.fetch("SELECT DISTINCT chatroom_id FROM chatroom_keys")
    await connection.close()
    database = await Database.open(server.database_url, 1)
    keys: set[bytes] = set()
    for row in rooms:
        keys |= set((await RoomKeys(database, master).get(row["chatroom_id"]))._keys.values())
    await database.close()
    return keys


async def public_keys(server: Server) -> set[bytes]:
    """The public keys of all devices."""
    connection = await asyncpg.connect(server.database_url)
    rows = await connection.fetch("SELECT public_key FROM device_keys")
    await connection.close()
    return {base64.b64decode(row["public_key"]) for row in rows}
