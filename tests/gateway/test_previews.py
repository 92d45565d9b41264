"""Previews and avatars, where something fails: nothing is lost, and nothing dangles."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from gateway.actions import avatars, files
from gateway.actor import Actor
from gateway.files.pictures import Pictures
from gateway.files.store import Upload
from gateway.services import Services
from protocol.commands import CreateUpload, UpdateAccount
from protocol.errors import ChatError
from storage import files as rows
from storage.database import Connection
from storage.files import StoredFile, Variant
from tests.e2e.node import Node, running_node
from tests.pictures import drawn, opened, saved

PICTURE = saved(drawn(64, 48), "PNG")


@pytest.fixture
async def node(database_url: str, tmp_path: Path) -> AsyncIterator[Node]:
    """A node."""
    async with running_node(database_url, tmp_path) as running:
        yield running


async def body(data: bytes = PICTURE) -> AsyncIterator[bytes]:
    """A picture as it comes."""
    yield data


async def uploaded(services: Services, actor: Actor) -> Upload:
    """A picture that has come, and is no file yet."""
    upload = await files.begin_upload(services, actor, CreateUpload(filename="a.png"))
    await files.receive(services, upload, body(), resumable=True)
    return upload


async def content(services: Services, file: StoredFile, variant: Variant) -> bytes:
    """What is in a file, or in a picture of it."""
    reading = await services.files.open(file, variant)
    async with aclosing(reading.read(0, reading.size)) as pieces:
        return b"".join([piece async for piece in pieces])


def blobs(node: Node) -> int:
    """How many there are."""
    return sum(path.is_file() for path in (node.config.data / "files").glob("??/*"))


async def test_no_process_to_be_had(node: Node) -> None:
    """A picture that cannot be opened for our own reasons is kept as a file, which says so."""
    broken = Pictures((sys.executable, "-c", "import sys; sys.exit(1)"))
    services = dataclasses.replace(node.services, pictures=broken)
    ann, _ = await node.user("ann")
    file = await files.finish_upload(services, ann, await uploaded(services, ann))
    assert (file.file_type, file.width, file.preview_refused) == ("image/png", None, "SERVICE_UNAVAILABLE")
    with pytest.raises(ChatError) as raised:
        await avatars.set_avatar(services, ann, body())
    assert (raised.value.code, blobs(node)) == ("SERVICE_UNAVAILABLE", 1)


async def test_a_database_that_goes_meanwhile(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """Previews whose commit is in doubt stay until the sweep; the upload is finished by asking once more."""
    services, (ann, _) = node.services, await node.user("ann")
    upload = await uploaded(services, ann)

    async def away(conn: Connection, *arguments: Any) -> Any:
        raise ChatError("SERVICE_UNAVAILABLE", retry_after=1.0)

    with monkeypatch.context() as context, pytest.raises(ChatError):
        context.setattr(rows, "add_parts", away)
        await files.finish_upload(services, ann, upload)
    assert blobs(node) == 3
    finished = await files.finish_upload(services, ann, upload)
    assert (finished.width, blobs(node)) == (64, 5)
    file = await services.files.seen(ann.user.id, finished.id)
    assert [opened(await content(services, file, variant)).size for variant in ("small", "large")] == [(64, 48)] * 2


async def test_an_avatar_that_goes_while_it_is_read(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """An avatar whose bytes are missing is damaged, but one that was taken away meanwhile is not found."""
    services, (ann, _) = node.services, await node.user("ann")
    url = (await avatars.set_avatar(services, ann, body())).avatar_url
    assert url is not None
    file_id, opening = UUID(url.rpartition("/")[2]), services.files.open
    for path in (node.config.data / "files").glob("??/*"):
        path.unlink()
    assert await refusal(node, file_id) == "FILE_DAMAGED"

    async def late(file: StoredFile) -> Any:
        await node.chat.handle(ann, UpdateAccount(avatar_url=None))
        return await opening(file)

    monkeypatch.setattr(services.files, "open", late)
    assert await refusal(node, file_id) == "FILE_NOT_FOUND"


async def refusal(node: Node, file_id: UUID) -> str:
    """Why an avatar is not handed out."""
    with pytest.raises(ChatError) as raised:
        await node.chat.files.avatar(file_id)
    return raised.value.code
