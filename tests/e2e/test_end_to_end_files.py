"""Files, end to end: sealed before they leave, opened by members, and not taken for what they are not."""

from __future__ import annotations

import os
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest
from msgspec.structs import replace

from gateway.client import CannotOpen, ChatError
from protocol import commands
from protocol.models import Attachment, EncryptedContent, FileReference, Message
from tests.e2e.ends import Enter, room_of
from tests.e2e.ends import enter as enter  # a fixture
from tests.e2e.test_client_files import names
from tests.e2e.test_files import download


def planted(folder: Path, name: str, size: int) -> tuple[Path, str]:
    """A file of random bytes, and their SHA-256."""
    data = os.urandom(size)
    (folder / name).write_bytes(data)
    return folder / name, sha256(data).hexdigest()


async def test_a_sealed_file(enter: Enter, tmp_path: Path) -> None:
    """Members open what was sent, under its name; the server was told neither name nor type, and holds other bytes."""
    ann, bob = await enter(), await enter()
    room = await room_of(ann, bob)
    path, digest = planted(tmp_path, "plan.pdf", 300_001)
    sent = (await ann.client.send_file(room, path, "the plan")).message
    assert [(a.filename, a.file_type) for a in sent.attachments] == [("file", "application/octet-stream")]
    (tmp_path / "in").mkdir()
    for end in (ann, bob):
        message = (await end.client.fetch_messages(room)).messages[0]
        (attached,) = message.attachments
        sealed_room = end.client.room(room)
        assert await sealed_room.open(message) == "the plan"
        info = await sealed_room.open_attachment(message, attached)
        assert (info.filename, info.file_type, info.file_size) == ("plan.pdf", "application/pdf", 300_001)
        assert info.sha256 == digest
        saved = await sealed_room.download_file(message, attached, tmp_path / "in")
        assert saved == tmp_path / "in" / "plan.pdf"
        assert sha256(saved.read_bytes()).hexdigest() == digest
        saved.unlink()
        with pytest.raises(CannotOpen, match="sealed"):
            await end.client.download_file(attached, tmp_path / "raw")
    status, held = await download(bob.server, bob.person, sent.attachments[0].encrypted_url)
    assert (status, len(held)) == (200, sent.attachments[0].file_size)
    assert path.read_bytes()[:16] not in held


async def test_who_comes_later(enter: Enter, tmp_path: Path) -> None:
    """A newcomer has the bytes, and not the key."""
    ann, bob = await enter(), await enter()
    room = await room_of(ann)
    path, _ = planted(tmp_path, "old", 10)
    sent = (await ann.client.room(room).send_file(path)).message
    await ann.client.call(commands.AddMembers(chatroom_id=room, user_ids=[bob.person.id]))
    (attached,) = sent.attachments
    assert (await download(bob.server, bob.person, attached.encrypted_url))[0] == 200
    with pytest.raises(CannotOpen, match="not been given the key"):
        await bob.client.room(room).download_file(sent, attached, tmp_path / "out")
    assert not (tmp_path / "out").exists()


NONSENSE = EncryptedContent(encrypted_data="x", iv="zz", key_version=1)

Lie = Callable[[Message, Message], tuple[Message, Attachment]]


@pytest.mark.parametrize(
    "lie",
    [
        lambda one, two: (one, replace(one.attachments[0], id=two.attachments[0].id)),
        lambda one, two: (one, replace(one.attachments[0], encrypted=two.attachments[0].encrypted)),
        lambda one, two: (two, one.attachments[0]),
        lambda one, two: (replace(one, user_id=two.id), one.attachments[0]),
        lambda one, two: (replace(one, message_type="image"), one.attachments[0]),
        lambda one, two: (one, replace(one.attachments[0], encrypted=one.content)),
        lambda one, two: (replace(one, content=NONSENSE), one.attachments[0]),
    ],
    ids=["file", "reference", "message", "sender", "type", "text", "iv"],
)
async def test_exchanged(enter: Enter, tmp_path: Path, lie: Lie) -> None:
    """A file under another message, a reference to another file, another sender: none of it opens, none is saved."""
    ann = await enter()
    room = await room_of(ann)
    path, _ = planted(tmp_path, "a", 70_000)
    other, _ = planted(tmp_path, "b", 70_000)
    one = (await ann.client.room(room).send_file(path)).message
    two = (await ann.client.room(room).send_file(other)).message
    with pytest.raises(CannotOpen, match="changed"):
        await ann.client.room(room).download_file(*lie(one, two), tmp_path / "out")
    assert [name for name in names(tmp_path) if not name.endswith(".device")] == ["a", "b"]


async def test_an_encrypted_chatroom_takes_sealed_files_only(enter: Enter, tmp_path: Path) -> None:
    """A file that was not sealed, or whose key is not, or is under an old key of the chatroom, is refused there."""
    ann = await enter()
    room = await room_of(ann)
    path, _ = planted(tmp_path, "a", 10)
    sealed = ann.client.room(room)
    sent = (await sealed.send_file(path)).message
    assert not isinstance(sent.content, str)
    good, clear = sent.attachments[0], await ann.client.upload_file(path)
    old = replace(sent.content, key_version=2)
    for reference, code in [
        (FileReference(id=clear.id), "MESSAGE_ENCRYPTION_FAILED"),
        (FileReference(id=clear.id, encrypted=good.encrypted), "MESSAGE_ENCRYPTION_FAILED"),
        (FileReference(id=good.id), "MESSAGE_ENCRYPTION_FAILED"),
        (FileReference(id=good.id, encrypted=old), "MESSAGE_KEY_OUTDATED"),
    ]:
        with pytest.raises(ChatError) as caught:
            await ann.client.send_message(room, sent.content, attachments=[reference])
        assert caught.value.code == code
    reference = FileReference(id=good.id, encrypted=good.encrypted)
    await ann.client.send_message(room, sent.content, attachments=[reference])
