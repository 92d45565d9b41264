"""Downloads that are under way when access ends."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from contextlib import AsyncExitStack
from typing import NamedTuple
from uuid import UUID

import aiohttp
import psutil  # type: ignore[import-untyped]

from tests.e2e.program import parley
from tests.e2e.server import Person, Server
from tests.e2e.test_files import upload

LARGE = 10 * 1024 * 1024
"""Bytes that do not all fit between a server that sends and a client that does not read."""

ENDS = ("removed", "banned", "left", "signed_out", "deactivated", "in_deleted_room", "of_deleted_file", "recalled")


SIGNED_OUT = ("signed_out", "deactivated")
"""After these a token is no longer good."""


class Begun(NamedTuple):
    """A download whose head has been read, and nothing else. `port` is the client's."""

    path: str
    token: str | None
    reader: asyncio.StreamReader
    port: int


async def test_downloads_end_with_access(common_server: Server) -> None:
    """Within 2 s of whatever ends it, a download breaks off, by token and by address; both are 404 or 401 then."""
    server = common_server
    owner, stays, *gone = await server.people(2 + len(ENDS))
    people = dict(zip(ENDS, gone, strict=True))
    room, deleted = await server.chatroom(owner, stays, *gone), await server.chatroom(owner, people["in_deleted_room"])
    here, there, regretted, recalled = [await sent(server, owner, where) for where in (room, deleted, room, room)]
    theirs = {"in_deleted_room": there, "of_deleted_file": regretted, "recalled": recalled}
    async with AsyncExitStack() as stack:

        async def cut_off(end: str, begun: list[Begun]) -> None:
            await end_access(server, end, owner, people[end], theirs.get(end, here))
            since = time.monotonic()
            for path, token, reader, port in begun:
                await ended(server, port, since)
                assert await rest_of(reader) < LARGE
                assert await asked(server, path, token) == (401 if token and end in SIGNED_OUT else 404)

        begun = {
            end: await begin(stack, server, person, theirs.get(end, here).file_id) for end, person in people.items()
        }
        unharmed = await begin(stack, server, stays, here.file_id)
        await asyncio.gather(*(cut_off(end, begun[end]) for end in ENDS))
        for path, token, reader, _ in unharmed:
            assert await rest_of(reader) == LARGE
            assert await asked(server, path, token) == 200


class Sent(NamedTuple):
    """A large file, and the message in which it stands."""

    file_id: str
    room: str
    message: str


async def sent(server: Server, person: Person, room: UUID) -> Sent:
    """A large file in a message. The last two are addresses."""
    file_id = (await upload(server, person, os.urandom(LARGE)))["id"]
    body = {"content": "", "attachments": [{"id": file_id}]}
    data = await server.data("POST", f"/chatrooms/{room}/messages", person.token, body)
    return Sent(file_id, f"/chatrooms/{room}", f"/chatrooms/{room}/messages/{data['message']['id']}")


async def begin(stack: AsyncExitStack, server: Server, person: Person, file_id: str) -> list[Begun]:
    """Downloads of a file by a token and by a signed address."""
    answer = await server.data("POST", "/files/urls", person.token, {"file_ids": [file_id]})
    begun = []
    for token, path in ((person.token, f"/files/{file_id}"), (None, answer["files"][0]["url"])):
        end = socket.socket()
        end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        end.setblocking(False)
        await asyncio.get_running_loop().sock_connect(end, ("127.0.0.1", server.port))
        reader, writer = await asyncio.open_connection(sock=end, limit=32_768)
        stack.callback(writer.close)
        signed = f"Authorization: Bearer {token}\r\n" if token else ""
        writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n{signed}\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        assert f"Content-Length: {LARGE}\r\n".encode() in head
        begun.append(Begun(path, token, reader, end.getsockname()[1]))
    return begun


async def end_access(server: Server, end: str, owner: Person, person: Person, theirs: Sent) -> None:
    """What ends a person's download."""
    requests = {
        "removed": ("DELETE", f"{theirs.room}/members/{person.id}", owner),
        "banned": ("PUT", f"{theirs.room}/bans/{person.id}", owner),
        "left": ("POST", f"{theirs.room}/leave", person),
        "signed_out": ("POST", "/auth/logout", person),
        "in_deleted_room": ("DELETE", theirs.room, owner),
        "of_deleted_file": ("DELETE", f"/files/{theirs.file_id}", owner),
        "recalled": ("DELETE", theirs.message, owner),
    }
    if end == "deactivated":
        await parley(server, "users", "deactivate", person.username)
    else:
        method, path, asker = requests[end]
        await server.data(method, path, asker.token)


async def ended(server: Server, port: int, since: float) -> None:
    """Until the server has closed a connection, which takes it 2 s at most; the rest is for a busy machine."""
    process = psutil.Process(server.pid)
    async with asyncio.timeout_at(asyncio.get_running_loop().time() + 10 - (time.monotonic() - since)):
        while any(c.raddr and c.raddr.port == port for c in process.net_connections("tcp")):
            await asyncio.sleep(0.05)


async def rest_of(reader: asyncio.StreamReader) -> int:
    """How much still comes of a body."""
    got = 0
    try:
        while got < LARGE and (data := await reader.read(1 << 20)):
            got += len(data)
    except ConnectionError:
        pass
    return got


async def asked(server: Server, path: str, token: str | None) -> int:
    """The status of a new request."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with aiohttp.ClientSession() as http, http.head(server.http + path, headers=headers) as answer:
        return answer.status
