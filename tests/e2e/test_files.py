"""Files: in by one request, in a message, and out to those who may have them."""

from __future__ import annotations

import os
from hashlib import sha256
from io import BytesIO
from typing import Any

import aiohttp
import pytest

from tests.e2e.server import Person, Server
from tests.e2e.socket_client import socket_client


def signed(person: Person) -> dict[str, str]:
    """The header that says who asks."""
    return {"Authorization": f"Bearer {person.token}"}


async def upload(server: Server, person: Person, data: bytes, name: str = "notes.bin") -> dict[str, Any]:
    """Sends a file as a form; what is known of it."""
    form = aiohttp.FormData()
    form.add_field("file", BytesIO(data), filename=name)
    async with (
        aiohttp.ClientSession() as http,
        http.post(f"{server.http}/upload/file", data=form, headers=signed(person)) as answer,
    ):
        body = await answer.json()
        assert answer.status == 201, body
    assert body["data"]["fid"] == body["data"]["file"]["id"]
    file: dict[str, Any] = body["data"]["file"]
    return file


async def download(server: Server, person: Person, path: str) -> tuple[int, bytes]:
    """A status and what came with it."""
    async with aiohttp.ClientSession() as http, http.get(server.http + path, headers=signed(person)) as answer:
        return answer.status, await answer.read()


@pytest.mark.parametrize("size", [0, 1, 65_536, 65_537, 3_000_000])
async def test_there_and_back(server: Server, size: int) -> None:
    """What was uploaded comes back, byte for byte, under every address it has; its SHA-256 is told."""
    ann, *_ = await server.people(1)
    data = os.urandom(size)
    file = await upload(server, ann, data)
    assert (file["file_size"], file["sha256"]) == (size, sha256(data).hexdigest())
    for path in (file["encrypted_url"], f"/api/v1{file['encrypted_url']}", f"/f/fserv/download/{file['id']}"):
        status, got = await download(server, ann, path)
        assert (status, len(got), sha256(got).hexdigest()) == (200, size, file["sha256"])


async def test_in_a_message(server: Server) -> None:
    """Members of a chatroom have a file once it stands in a message there, and others never."""
    ann, bob, eve = await server.people(3)
    room = await server.chatroom(ann, bob)
    file = await upload(server, ann, b"for you")
    path = file["encrypted_url"]
    assert (await download(server, bob, path))[0] == 404
    async with socket_client(server) as socket:
        await socket.authenticate(bob.token)
        body = {"content": "", "message_type": "file", "attachments": [{"id": file["id"]}]}
        status, answer = await server.call("POST", f"/chatrooms/{room}/messages", ann.token, body)
        assert status == 201, answer
        heard = await socket.until("message_received")
    (attached,) = heard["data"]["message"]["attachments"]
    assert (attached["id"], attached["filename"], attached["status"]) == (file["id"], "notes.bin", "ready")
    assert await download(server, bob, path) == (200, b"for you")
    assert (await download(server, eve, path))[0] == 404
    _, history = await server.call("GET", f"/chatrooms/{room}/messages", bob.token)
    assert history["data"]["messages"][0]["attachments"] == [attached]


async def test_others_files_cannot_be_sent(server: Server) -> None:
    """Who may not have a file may not send it either, and hears the same as for one that is not there."""
    ann, eve = await server.people(2)
    room = await server.chatroom(eve)
    file = await upload(server, ann, b"mine")
    body = {"content": "look", "attachments": [{"id": file["id"]}]}
    status, answer = await server.call("POST", f"/chatrooms/{room}/messages", eve.token, body)
    assert (status, answer["error"]["code"]) == (404, "FILE_NOT_FOUND")


@pytest.mark.parametrize(("field", "value"), [("chatroom_id", "none"), ("expires_in", "60"), ("encrypted", "true")])
async def test_a_form_that_goes_wrong_behind_its_file(server: Server, field: str, value: str) -> None:
    """A field behind the file that is wrong, or comes too late to count, refuses all of it; nothing stays behind."""
    ann, *_ = await server.people(1)
    form = aiohttp.FormData()
    form.add_field("file", BytesIO(b"x" * 1000), filename="notes.bin")
    form.add_field(field, value)
    async with (
        aiohttp.ClientSession() as http,
        http.post(f"{server.http}/upload/file", data=form, headers=signed(ann)) as answer,
    ):
        assert answer.status == 422
    assert (await server.data("GET", "/users/me/files", ann.token))["used"] == 0
