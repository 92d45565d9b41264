"""Files that are scanned for viruses, as people and operators see it."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import asyncpg

from tests.clamd import EICAR, running_clamd
from tests.e2e.conftest import StartServer
from tests.e2e.server import Person, Server
from tests.e2e.socket_client import socket_client
from tests.e2e.test_file_care import kept
from tests.e2e.test_files import download, signed, upload
from tests.e2e.test_migration import metrics
from tests.ports import free_port

PATIENCE = 90
"""Seconds for what comes by itself, on a machine that may be busy."""


async def refusal(server: Server, person: Person, path: str) -> tuple[int, str, str | None]:
    """The status, the code and Retry-After of a download that is refused."""
    async with aiohttp.ClientSession() as http, http.get(server.http + path, headers=signed(person)) as answer:
        return answer.status, (await answer.json())["error"]["code"], answer.headers.get("Retry-After")


async def test_what_people_see(start_server: StartServer) -> None:
    """A file is sent at once and had when it was scanned; one with a virus is had by nobody, and its bytes are gone."""
    async with running_clamd() as (clamd, port):
        clamd.gate.clear()
        server = await start_server(PARLEY_CLAMD=f"127.0.0.1:{port}")
        ann, bob = await server.people(2)
        room = await server.chatroom(ann, bob)
        clean, bad = await upload(server, ann, b"harmless"), await upload(server, ann, EICAR, "eicar.com")
        assert (clean["status"], bad["status"]) == ("scanning", "scanning")
        async with socket_client(server) as socket:
            await socket.authenticate(bob.token)
            body = {"content": "look", "attachments": [{"id": clean["id"]}, {"id": bad["id"]}]}
            sent = (await server.data("POST", f"/chatrooms/{room}/messages", ann.token, body))["message"]
            assert [attachment["status"] for attachment in sent["attachments"]] == ["scanning", "scanning"]
            for person in (ann, bob):
                assert await refusal(server, person, clean["encrypted_url"]) == (409, "FILE_NOT_READY", "1")
            clamd.gate.set()
            told = [await socket.until("attachment_updated") for _ in range(2)]
        assert {frame["data"]["file_id"]: frame["data"]["status"] for frame in told} == {
            clean["id"]: "ready",
            bad["id"]: "rejected",
        }
        assert {frame["data"]["message_id"] for frame in told} == {sent["id"]}
        (shown,) = await server.history(bob, room)
        assert [attachment["status"] for attachment in shown["attachments"]] == ["ready", "rejected"]
        assert await download(server, bob, clean["encrypted_url"]) == (200, b"harmless")
        for person in (ann, bob):
            assert await refusal(server, person, bad["encrypted_url"]) == (410, "FILE_REJECTED", None)
        assert len(kept(server)) == 1
        status, answer = await server.call("POST", f"/chatrooms/{room}/messages", ann.token, body)
        assert (status, answer["error"]["code"]) == (410, "FILE_REJECTED")
        listed = await server.data("GET", "/users/me/files", ann.token)
        assert listed["used"] == len(b"harmless")
        assert {file["id"]: file["status"] for file in listed["files"]} == {clean["id"]: "ready", bad["id"]: "rejected"}
        scans = await metrics(server, "parley_file_scans_total")
        assert scans == {'{outcome="clean"}': 1, '{outcome="infected"}': 1}


async def test_clamd_is_away_and_the_server_is_killed(start_server: StartServer) -> None:
    """Files wait for clamd, which operators see; after a kill -9 in the middle of a scan it is done again."""
    port = free_port()
    server = await start_server(PARLEY_CLAMD=f"127.0.0.1:{port}")
    (ann,) = await server.people(1)
    file = await upload(server, ann, b"harmless")
    async with asyncio.timeout(PATIENCE):
        while (health := await server.data("GET", "/health"))["services"]["clamd"] != "degraded":
            await asyncio.sleep(0.05)
    assert health["status"] == "degraded"
    assert (await server.call("GET", "/health/ready"))[0] == 200
    assert (await metrics(server, "parley_file_scans_total"))['{outcome="failed"}'] >= 1
    assert (await refusal(server, ann, file["encrypted_url"]))[1] == "FILE_NOT_READY"
    async with running_clamd(port) as (clamd, _):
        clamd.gate.clear()
        async with asyncio.timeout(PATIENCE):
            while not clamd.seen:
                await asyncio.sleep(0.05)
        await server.kill()
        clamd.gate.set()
        await end_claims(server)
        await server.start()
        await until_status(server, ann, file, "ready")
        assert len(clamd.seen) == 2
    assert await download(server, ann, file["encrypted_url"]) == (200, b"harmless")
    assert "Traceback" not in server.logs()


async def end_claims(server: Server) -> None:
    """As if a minute had gone by since the server was killed."""
    conn = await asyncpg.connect(server.database_url)
    await conn.execute("UPDATE files SET scan_until = now() - interval '1 s'")
    await conn.close()


async def until_status(server: Server, person: Person, file: dict[str, Any], status: str) -> None:
    """Until a file has this status."""
    async with asyncio.timeout(PATIENCE):
        while (await server.data("GET", f"/files/{file['id']}/info", person.token))["status"] != status:
            await asyncio.sleep(0.05)
