"""Keys rotate while the server runs: nobody is signed out, and no message becomes unreadable."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import sys
from contextlib import AsyncExitStack
from pathlib import Path

from crypto import keyfile
from crypto.keyfile import FILES
from storage.database import Database
from tests.e2e.conftest import StartServer
from tests.e2e.lines import TRANSPORTS
from tests.e2e.server import PASSWORD, Server
from tests.e2e.socket_client import socket_client
from tests.e2e.test_file_care import kept
from tests.e2e.test_files import download, upload
from tests.e2e.test_migration import metrics, pair
from tests.valkey import Valkey


async def test_rotation_signs_nobody_out(server: Server, db: Database) -> None:
    """After `parley keys rotate` and SIGHUP new tokens bear a new key, old ones still hold, and all messages open."""
    ann = await server.person()
    room = await server.chatroom(ann)
    await server.data("POST", f"/chatrooms/{room}/messages", ann.token, {"content": "before"})
    before = await wrapped_by(db)
    await rotate(server)
    login = {"username": ann.username, "password": "planted-password-0451"}
    token = (await server.data("POST", "/auth/login", body=login))["access_token"]
    assert kid(token) != kid(ann.token)
    assert {kid(token), kid(ann.token)} <= await published(server)
    await server.data("POST", f"/chatrooms/{room}/messages", ann.token, {"content": "after"})
    assert [m["content"] for m in await server.history(ann, room)] == ["before", "after"]
    after = await wrapped_by(db)
    assert len(before) == len(after) == 1
    assert after != before, "the room's key is still wrapped by the old master key"


async def test_rotation_keeps_sockets(server: Server) -> None:
    """A socket that is open while keys rotate goes on, and takes a token of the new key, on every transport."""
    ann = await server.person()
    room = await server.chatroom(ann)
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(socket_client(server, transport)) for transport in TRANSPORTS]
        for client in clients:
            await client.authenticate(ann.token)
        await rotate(server)
        body = {"refresh_token": ann.refresh_token}
        token = (await server.data("POST", "/auth/refresh", body=body))["access_token"]
        for client in clients:
            assert (await client.ask("authenticate", {"token": token}))["event"] == "authenticated"
            assert (await client.say(room, "still here"))["event"] == "ack"


async def test_a_lost_master_key_refuses_to_start(start_server: StartServer) -> None:
    """Without the master key that stored messages need, Parley does not start, and names the key."""
    server = await start_server()
    await server.chatroom(await server.person())
    await server.stop()
    other = base64.b64encode(os.urandom(32)).decode()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "gateway",
        "serve",
        env={**server.environment(), "PARLEY_MASTER_KEYS": f"other:{other}"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode not in (0, None)
    assert b"PARLEY_MASTER_KEYS" in output
    assert b"Traceback" not in output


async def test_a_lost_master_key_is_refused_while_it_runs(server: Server, db: Database) -> None:
    """A set of keys without one that is in use is not taken at SIGHUP: it is logged, and the old keys go on."""
    ann = await server.person()
    room = await server.chatroom(ann)
    await server.data("POST", f"/chatrooms/{room}/messages", ann.token, {"content": "before"})
    before = set(await wrapped_by(db))
    file = server.directory / "data" / "keys" / "master.keys"
    file.write_text(f"other:{base64.b64encode(os.urandom(32)).decode()}\n")
    os.kill(server.pid, signal.SIGHUP)
    async with asyncio.timeout(10):
        while "the keys could not be reloaded" not in server.logs():
            await asyncio.sleep(0.02)
    await server.data("POST", f"/chatrooms/{room}/messages", ann.token, {"content": "after"})
    later = await server.chatroom(ann)
    await server.data("POST", f"/chatrooms/{later}/messages", ann.token, {"content": "in a new one"})
    assert [m["content"] for m in await server.history(ann, room)] == ["before", "after"]
    assert [m["content"] for m in await server.history(ann, later)] == ["in a new one"]
    assert set(await wrapped_by(db)) == before


async def test_files_outlive_master_keys(server: Server, db: Database) -> None:
    """After a rotation files open without the old master key, and sends go on; without the new one nothing starts."""
    ann = await server.person()
    old, sent = await upload(server, ann, b"from before"), await upload(server, ann, b"sent later")
    blobs = kept(server)
    file = server.directory / "data" / "keys" / FILES["PARLEY_MASTER_KEYS"]
    before = file.read_text()
    await rotate(server)
    new = await upload(server, ann, b"from after")
    file.write_text(file.read_text().replace(before, ""))
    assert len(file.read_text().split()) == 1
    await server.stop()
    await server.start()
    room = await server.chatroom(ann)
    body = {"content": "look", "attachments": [{"id": sent["id"]}]}
    await server.data("POST", f"/chatrooms/{room}/messages", ann.token, body)
    for each, data in ((old, b"from before"), (sent, b"sent later"), (new, b"from after")):
        assert await download(server, ann, each["encrypted_url"]) == (200, data)
    assert blobs < kept(server), "a rotation leaves blobs as they are"
    await server.stop()
    async with db.acquire() as conn:
        await conn.execute("DELETE FROM chatroom_keys")  # so that only files need a key
    file.write_text(before)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", "serve"),
        env=server.environment(),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode not in (0, None)
    assert b"PARLEY_MASTER_KEYS" in output
    assert b"Traceback" not in output


async def rotate(server: Server) -> None:
    """`parley keys rotate`, SIGHUP, and a moment until the server says that it is done."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway", "keys", "rotate", env=server.environment(), stdout=asyncio.subprocess.DEVNULL
    )
    assert await process.wait() == 0
    os.kill(server.pid, signal.SIGHUP)
    async with asyncio.timeout(10):
        while "keys reloaded" not in server.logs():
            await asyncio.sleep(0.02)


def kid(token: str) -> str:
    """The id of the key that signed a token."""
    head = token.split(".")[0]
    found: str = json.loads(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4)))["kid"]
    return found


async def published(server: Server) -> set[str]:
    """The ids of the keys at /.well-known/jwks.json."""
    status, document = await server.call("GET", "/.well-known/jwks.json")
    assert status == 200
    return {key["kid"] for key in document["keys"]}


async def wrapped_by(db: Database) -> set[str]:
    """The master keys that wrap the rooms' keys."""
    async with db.acquire() as conn:
        return {row["master_key_id"] for row in await conn.fetch("SELECT master_key_id FROM chatroom_keys")}


async def test_rotation_over_nodes(database_url: str, tmp_path: Path, valkey: Valkey) -> None:
    """First all nodes can read new keys, then they write under them, one after the other: nobody notices.

    While one writes under the new keys and the other under the old ones, hints, tokens, sessions and chatrooms of
    each are good on the other.
    """
    async with pair(database_url, tmp_path, valkey) as (here, there), AsyncExitStack() as stack:
        ann, bob = await here.people(2)
        room = await here.chatroom(ann, bob)
        anns = await stack.enter_async_context(socket_client(here))
        ready = await anns.authenticate(ann.token)
        bobs = await stack.enter_async_context(socket_client(there))
        await bobs.authenticate(bob.token)
        keys = tmp_path / "data" / "keys"
        files = [keys / FILES["PARLEY_MASTER_KEYS"], keys / FILES["PARLEY_JWT_KEYS"]]
        old = [path.read_text() for path in files]
        keyfile.rotate(keys)
        new = [path.read_text() for path in files]
        for path, before, after in zip(files, old, new, strict=True):
            path.write_text(before + after.replace(before, ""))
        await _reload(here, there)
        for path, after in zip(files, new, strict=True):
            path.write_text(after)
        await _reload(here)
        late = await here.chatroom(ann, bob)
        for client, other, chatroom in ((anns, bobs, room), (bobs, anns, late)):
            assert (await client.say(chatroom, "while keys differ"))["event"] == "ack"
            assert (await other.until("message_received"))["data"]["message"]["content"] == "while keys differ"
        login = {"username": bob.username, "password": PASSWORD}
        token = (await here.data("POST", "/auth/login", body=login))["access_token"]
        assert len(await there.history(bob, late)) == 1
        await there.data("GET", "/chatrooms", token)
        moved = await stack.enter_async_context(socket_client(there))
        await moved.until("hello")
        which = {"session_id": ready["session_id"], "resume_token": ready["resume_token"], "received": anns.received}
        await moved.send("resume", which)
        assert (await moved.recv())["event"] == "resumed"
        await _reload(there)
        assert (await moved.say(late, "afterwards"))["event"] == "ack"
        for node in (here, there):
            assert '{what="unreadable"}' not in await metrics(node, "parley_bus_messages_total")


async def _reload(*nodes: Server) -> None:
    """SIGHUP, until it is done."""
    for node in nodes:
        done = node.logs().count("keys reloaded")
        os.kill(node.pid, signal.SIGHUP)
        async with asyncio.timeout(30):
            while node.logs().count("keys reloaded") == done:
                await asyncio.sleep(0.05)
