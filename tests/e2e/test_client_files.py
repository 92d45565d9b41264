"""Files by the Python client: sent, heard of and saved, over every transport."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from bench.faults.addresses import Tcp
from bench.faults.proxy import Proxy
from gateway.client import ChatError, Client, connect
from protocol.models import FileReference, Message
from tests.e2e.server import Person, Server


@pytest.fixture
def server(common_server: Server) -> Server:
    """The common server; every test here makes rooms of its own."""
    return common_server


def addresses(server: Server) -> dict[str, str]:
    """Every way in, with where HTTP is for those who cannot tell by themselves."""
    return {
        "ws": server.ws,
        "ws-noise": f"{server.ws}?key=discover",
        "tcp": f"{server.tcp}?discover={server.http}",
        "tcp-noise": server.sealed,
    }


async def next_message(client: Client, room: UUID) -> Message:
    """The next message that is heard of a room."""
    async with asyncio.timeout(30):
        async for event in client:
            if event.event == "message_received" and event.chatroom_id == room:
                message: Message = event.data.message
                return message
    raise AssertionError("the client ended")


def names(folder: Path) -> list[str]:
    """What is in a folder."""
    return sorted(path.name for path in folder.iterdir())


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    return sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("way", ["ws", "ws-noise", "tcp", "tcp-noise"])
async def test_send_and_save(server: Server, crowd: list[Person], tmp_path: Path, way: str) -> None:
    """A file that is sent arrives in a message, and is saved byte for byte; both ends are told how far it is."""
    ann, bob = crowd[:2]
    room = await server.chatroom(ann, bob)
    path = tmp_path / "naïve plan.bin"
    path.write_bytes(os.urandom(1_234_567))
    steps: list[tuple[int, int]] = []
    url = addresses(server)[way]
    async with connect(url, ann.token) as one, connect(url, lambda: bob.token) as two:
        sent = await one.send_file(room, path, "look", progress=lambda *at: steps.append(at))
        message = await next_message(two, room)
        assert (message.id, message.content, message.message_type) == (sent.message.id, "look", "file")
        (attached,) = message.attachments
        assert (attached.filename, attached.file_size) == ("naïve plan.bin", 1_234_567)
        assert steps == sorted(steps)
        assert steps[-1] == (1_234_567, 1_234_567)
        steps.clear()
        (tmp_path / "in").mkdir()
        saved = await two.download_file(attached, tmp_path / "in", progress=lambda *at: steps.append(at))
        assert saved == tmp_path / "in" / "naïve plan.bin"
        assert digest(saved) == digest(path)
        assert steps == sorted(steps)
        assert steps[-1] == (1_234_567, 1_234_567)
        with pytest.raises(FileExistsError):
            await two.download_file(attached, tmp_path / "in")
        assert await two.download_file(attached, tmp_path / "here") == tmp_path / "here"
    assert names(tmp_path) == ["here", "in", "naïve plan.bin"]
    assert names(tmp_path / "in") == ["naïve plan.bin"]


async def test_upload_now_and_send_later(server: Server, crowd: list[Person], tmp_path: Path) -> None:
    """A file that was uploaded can stand in any number of messages; an empty one is a file, too; a picture is one."""
    ann, bob = crowd[:2]
    rooms = [await server.chatroom(ann, bob), await server.chatroom(ann)]
    (tmp_path / "empty").touch()
    (tmp_path / "pixel.gif").write_bytes(GIF)
    async with connect(server.ws, ann.token) as client:
        file = await client.upload_file(tmp_path / "empty", name="nothing.txt", chatroom_id=rooms[0], expires_in=3600)
        assert (file.filename, file.file_size, file.sha256) == ("nothing.txt", 0, sha256().hexdigest())
        assert file.expires_at is not None
        for room in rooms:
            sent = await client.send_message(room, "", attachments=[FileReference(id=file.id)], message_type="file")
            assert [attached.id for attached in sent.message.attachments] == [file.id]
        await client.download_file(file, tmp_path / "again")
        assert (tmp_path / "again").read_bytes() == b""
        sent = await client.send_file(rooms[0], tmp_path / "pixel.gif")
        assert sent.message.message_type == "image"


GIF = bytes.fromhex("47494638396101000100800000ffffff00000021f90401000000002c00000000010001000002024401003b")


async def test_refusals(server: Server, crowd: list[Person], tmp_path: Path) -> None:
    """What the server refuses is its ChatError, what this end cannot read or write its OSError; nothing is left."""
    ann, eve = crowd[0], crowd[2]
    room = await server.chatroom(ann)
    (tmp_path / "mine").write_bytes(b"mine")
    os.truncate(shutil.copy(tmp_path / "mine", tmp_path / "large"), 10 * 2**20 + 1)
    async with connect(server.ws, ann.token) as client, connect(server.ws, eve.token) as other:
        file = await client.upload_file(tmp_path / "mine")
        assert await refused(other.download_file(file, tmp_path / "stolen")) == "FILE_NOT_FOUND"
        assert await refused(other.send_file(room, tmp_path / "mine")) == "CHATROOM_NOT_FOUND"
        assert await refused(other.upload_file(tmp_path / "mine", chatroom_id=room)) == "CHATROOM_NOT_FOUND"
        assert await refused(client.upload_file(tmp_path / "mine", name="a\nb")) == "VALIDATION_INVALID_VALUE"
        assert await refused(client.upload_file(tmp_path / "large")) == "FILE_TOO_LARGE"
        with pytest.raises(FileNotFoundError):
            await client.upload_file(tmp_path / "none")
        with pytest.raises(FileNotFoundError):
            await client.download_file(file, tmp_path / "none" / "there")
    assert names(tmp_path) == ["large", "mine"]


async def refused(doing: Any) -> str:
    """The code of a refusal."""
    with pytest.raises(ChatError) as caught:
        await doing
    return caught.value.code


async def test_where_there_is_no_safe_way(server: Server, crowd: list[Person], tmp_path: Path) -> None:
    """A token goes nowhere in the clear beside a sealed connection, and no clear file where they are sealed."""
    (tmp_path / "a").write_bytes(b"a")
    async with connect(f"{server.tcp}?discover=http://192.0.2.1", crowd[0].token) as client:
        with pytest.raises(ChatError, match="discover"):
            await client.upload_file(tmp_path / "a")
        sealed = await server.chatroom(crowd[0], encryption_enabled=True)
        assert await refused(client.send_file(sealed, tmp_path / "a")) == "MESSAGE_ENCRYPTION_FAILED"


# --- cuts ------------------------------------------------------------------------------------


@pytest.fixture
async def proxy(server: Server, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Proxy]:
    """A bad network before the server's HTTP; the pauses between attempts are short."""
    monkeypatch.setattr("gateway.client_commands.RETRY_BASE", 0.02)
    async with Proxy(Tcp("127.0.0.1", server.port)) as made:
        yield made


def behind(server: Server, proxy: Proxy) -> str:
    """The socket is good, and files go through the proxy."""
    return f"{server.tcp}?discover=http://127.0.0.1:{proxy.port}"


async def test_cut_on_the_way(server: Server, crowd: list[Person], tmp_path: Path, proxy: Proxy) -> None:
    """Every connection breaks after 700 kB: a file of 4 MB arrives all the same, and comes back, byte for byte."""
    path = tmp_path / "large.bin"
    path.write_bytes(os.urandom(4_000_000))
    async with connect(behind(server, proxy), crowd[0].token) as client:
        proxy.faults.cut = ("up", 700_000)
        file = await client.upload_file(path)
        cuts = proxy.accepted
        proxy.faults.cut = ("down", 700_000)
        await client.download_file(file, tmp_path / "back")
    assert digest(tmp_path / "back") == digest(path) == file.sha256
    assert cuts > 5
    assert proxy.accepted - cuts >= 5


async def test_what_is_given_up_takes_no_room(server: Server, tmp_path: Path) -> None:
    """An upload that its user cancels is taken back from the server."""
    ann = await server.person()
    (tmp_path / "a").write_bytes(os.urandom(8_000_000))
    async with connect(server.ws, ann.token) as client:
        upload = asyncio.create_task(client.upload_file(tmp_path / "a", progress=lambda *_: upload.cancel()))
        with pytest.raises(asyncio.CancelledError):
            await upload
    connection = await asyncpg.connect(server.database_url)
    try:
        assert await connection.fetchval("SELECT count(*) FROM files WHERE uploader_id = $1", ann.id) == 0
    finally:
        await connection.close()
