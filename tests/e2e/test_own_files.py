"""What a user sees of their own files, and taking one away."""

from __future__ import annotations

import pytest

from tests.e2e.bots import make_bot
from tests.e2e.server import Server
from tests.e2e.test_files import download, upload


async def test_own_files(common_server: Server) -> None:
    """They are listed by pages, the newest first, with what they take; others' are not among them."""
    server = common_server
    ann, bob = await server.people(2)
    files = [await upload(server, ann, bytes(100 + number), f"{number}.bin") for number in range(3)]
    await upload(server, bob, b"another's")
    first = await server.data("GET", "/users/me/files?limit=2", ann.token)
    second = await server.data("GET", "/users/me/files?limit=2&page=2", ann.token)
    assert first["files"] + second["files"] == files[::-1]
    assert (first["used"], first["quota"]) == (303, 1_073_741_824)
    assert first["pagination"] == {"page": 1, "limit": 2, "total": 3, "pages": 2, "has_more": True}
    assert second["pagination"]["has_more"] is False


async def test_a_file_is_taken_away(common_server: Server) -> None:
    """Its uploader takes it away from everyone, wherever it stands; messages still name it, and its room is free."""
    server = common_server
    ann, bob = await server.people(2)
    room = await server.chatroom(ann, bob)
    file, other = await upload(server, ann, b"regretted"), await upload(server, ann, b"kept")
    body = {"content": "look", "attachments": [{"id": file["id"]}, {"id": other["id"]}]}
    for person in (ann, bob):
        await server.data("POST", f"/chatrooms/{room}/messages", person.token, body)
    assert (await server.call("DELETE", f"/files/{file['id']}", bob.token))[0] == 404
    assert await download(server, bob, file["encrypted_url"]) == (200, b"regretted")
    assert (await server.call("DELETE", f"/files/{file['id']}", ann.token))[0] == 200
    for person in (ann, bob):
        assert (await download(server, person, file["encrypted_url"]))[0] == 404
        assert await download(server, person, other["encrypted_url"]) == (200, b"kept")
    history = await server.history(bob, room)
    assert [[a["filename"] for a in m["attachments"]] for m in history] == [["notes.bin", "notes.bin"]] * 2
    status, answer = await server.call("POST", f"/chatrooms/{room}/messages", ann.token, body)
    assert (status, answer["error"]["code"]) == (404, "FILE_NOT_FOUND")
    assert (await server.data("GET", "/users/me/files", ann.token))["used"] == len(b"kept")
    assert (await server.call("DELETE", f"/files/{file['id']}", ann.token))[0] == 404


@pytest.mark.parametrize(("scope", "may"), [("read", "ListFiles"), ("write", "DeleteFile")])
async def test_scopes(common_server: Server, scope: str, may: str) -> None:
    """A bot lists with `read` and deletes with `write`."""
    ann = (await common_server.people(1))[0]
    bot = await make_bot(common_server, ann, scope)
    listed = await common_server.call("GET", "/users/me/files", bot.token)
    deleted = await common_server.call("DELETE", f"/files/{ann.id}", bot.token)
    assert (listed[0], deleted[0]) == ((200, 403) if may == "ListFiles" else (403, 404))
