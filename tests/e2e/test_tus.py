"""tus 1.0.0, request by request: what each extension promises, and what is refused."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from base64 import b64encode
from email.utils import parsedate_to_datetime
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any
from unittest.mock import patch
from uuid import uuid4

import pytest

from protocol.commands import CreateUpload
from protocol.errors import ERRORS, ChatError
from rest.routes import MOUNTS
from tests.e2e.node import running_node
from tests.e2e.server import Person, Server
from tests.e2e.test_files import download
from tests.e2e.tus import append, create, look, metadata, tus

EXTENSIONS = {
    "checksum",
    "creation",
    "creation-defer-length",
    "creation-with-upload",
    "expiration",
    "termination",
}
NAME = metadata(filename="film.bin")


@pytest.fixture
def ann(crowd: list[Person]) -> Person:
    """Who uploads."""
    return crowd[0]


async def came_to(server: Server, person: Person, path: str, data: bytes) -> None:
    """Checks that the upload at this address is this file now."""
    answer = await look(server, person, path)
    assert (answer.status, answer.offset, answer.headers["Upload-Length"]) == (200, len(data), str(len(data)))
    file_id = path.rpartition("/")[2]
    assert answer.headers["Parley-File"] == f"/files/{file_id}"
    info = await server.data("GET", f"/files/{file_id}/info", person.token)
    assert (info["filename"], info["sha256"]) == ("film.bin", sha256(data).hexdigest())
    status, got = await download(server, person, answer.headers["Parley-File"])
    assert (status, sha256(got).hexdigest()) == (200, info["sha256"])


@pytest.mark.parametrize("mount", MOUNTS)
async def test_piece_by_piece(common_server: Server, ann: Person, mount: str) -> None:
    """An upload says where it is, how far and until when; with its last byte it is a file of the same name and id."""
    data = os.urandom(300_000)
    path = await create(common_server, ann, len(data), mount, filetype="video/mp4")
    assert path.startswith(f"{mount}/files/tus/")
    for start, end in ((0, 1), (1, 1), (1, 200_000), (200_000, 300_000)):
        before = await look(common_server, ann, path)
        assert (before.status, before.offset, before.headers["Upload-Length"]) == (200, start, "300000")
        assert before.headers["Upload-Metadata"] == metadata(filename="film.bin", filetype="video/mp4")
        assert before.headers["Cache-Control"] == "no-store"
        assert 86_000 < parsedate_to_datetime(before.headers["Upload-Expires"]).timestamp() - time.time() < 86_500
        answer = await append(common_server, ann, path, start, data[start:end])
        assert (answer.status, answer.offset) == (204, end)
        assert answer.headers["Tus-Resumable"] == "1.0.0"
        assert ("Upload-Expires" in answer.headers, "Parley-File" in answer.headers) == (end < 300_000, end == 300_000)
    await came_to(common_server, ann, path, data)


async def test_what_is_spoken(common_server: Server) -> None:
    """OPTIONS needs neither a token nor a version, and tells versions, extensions, checksums and the largest size."""
    for path in ("/files/tus", "/api/v1/files/tus/", f"/files/tus/{uuid4()}"):
        answer = await tus(common_server, None, "OPTIONS", path, Tus_Resumable=None)
        assert answer.status == 204
        assert (answer.headers["Tus-Version"], answer.headers["Tus-Max-Size"]) == ("1.0.0", "10485760")
        assert set(answer.headers["Tus-Extension"].split(",")) == EXTENSIONS
        assert set(answer.headers["Tus-Checksum-Algorithm"].split(",")) == {"md5", "sha1", "sha256"}


CREATING: list[tuple[dict[str, str | None], str]] = [
    ({"Tus_Resumable": None}, "UPLOAD_VERSION_UNSUPPORTED"),
    ({"Tus_Resumable": "0.2.2"}, "UPLOAD_VERSION_UNSUPPORTED"),
    ({"Authorization": None}, "AUTH_REQUIRED"),
    ({"Upload_Length": None}, "VALIDATION_REQUIRED_FIELD"),
    ({"Upload_Length": None, "Upload_Defer_Length": "2"}, "VALIDATION_REQUIRED_FIELD"),
    ({"Upload_Length": "-1"}, "VALIDATION_INVALID_VALUE"),
    ({"Upload_Length": "1e3"}, "VALIDATION_INVALID_VALUE"),
    ({"Upload_Length": "²"}, "VALIDATION_INVALID_VALUE"),
    ({"Upload_Length": "10485761"}, "FILE_TOO_LARGE"),
    ({"Upload_Length": "9" * 40}, "VALIDATION_INVALID_VALUE"),
    ({"Upload_Metadata": None}, "VALIDATION_REQUIRED_FIELD"),
    ({"Upload_Metadata": "filename"}, "VALIDATION_INVALID_VALUE"),
    ({"Upload_Metadata": "filename YQ==,filename YQ=="}, "VALIDATION_INVALID_FORMAT"),
    ({"Upload_Metadata": "filename YQ==,,"}, "VALIDATION_INVALID_FORMAT"),
    ({"Upload_Metadata": "filename Y"}, "VALIDATION_INVALID_FORMAT"),
    ({"Upload_Metadata": "filename /w=="}, "VALIDATION_INVALID_FORMAT"),
    ({"Upload_Metadata": f"{NAME},x é"}, "VALIDATION_INVALID_FORMAT"),
    ({"Upload_Metadata": f"{NAME},x\ty"}, "VALIDATION_INVALID_FORMAT"),
    ({"Upload_Metadata": metadata(filename="a" * 256)}, "VALIDATION_LENGTH_EXCEEDED"),
    ({"Upload_Metadata": f"{NAME},x {'A' * 2048}"}, "VALIDATION_LENGTH_EXCEEDED"),
    ({"Upload_Metadata": metadata(filename="a", chatroom_id="x")}, "VALIDATION_INVALID_FORMAT"),
    ({"Upload_Metadata": metadata(filename="a", chatroom_id=str(uuid4()))}, "CHATROOM_NOT_FOUND"),
    ({"Upload_Metadata": metadata(filename="a", expires_in="0")}, "VALIDATION_INVALID_VALUE"),
    ({"Content_Type": "text/plain"}, "FILE_TYPE_NOT_ALLOWED"),
]


@pytest.mark.parametrize(("headers", "code"), CREATING)
async def test_what_is_not_begun(common_server: Server, ann: Person, headers: dict[str, str | None], code: str) -> None:
    """A creation that is not as the specification or the limits have it is refused in our envelope."""
    usual: dict[str, Any] = {"Upload_Length": "9", "Upload_Metadata": NAME}
    answer = await tus(common_server, ann, "POST", "/files/tus", **usual | headers)
    assert (answer.code, answer.status) == (code, ERRORS[code].status)
    assert answer.headers["Tus-Resumable"] == "1.0.0"
    assert ("Tus-Version" in answer.headers) == (code == "UPLOAD_VERSION_UNSUPPORTED")


APPENDING: list[tuple[bytes, dict[str, str | None], str]] = [
    (b"defg", {"Tus_Resumable": "2.0.0"}, "UPLOAD_VERSION_UNSUPPORTED"),
    (b"defg", {"Authorization": None}, "AUTH_REQUIRED"),
    (b"defg", {"Content_Type": "application/octet-stream"}, "FILE_TYPE_NOT_ALLOWED"),
    (b"defg", {"Content_Type": None}, "FILE_TYPE_NOT_ALLOWED"),
    (b"defg", {"Upload_Offset": None}, "VALIDATION_REQUIRED_FIELD"),
    (b"defg", {"Upload_Offset": "-3"}, "VALIDATION_INVALID_VALUE"),
    (b"defg", {"Upload_Offset": "2"}, "UPLOAD_OFFSET_MISMATCH"),
    (b"defg", {"Upload_Offset": "4"}, "UPLOAD_OFFSET_MISMATCH"),
    (b"defghijk", {}, "FILE_TOO_LARGE"),
    (b"defg", {"Upload_Length": "9"}, "VALIDATION_INVALID_VALUE"),
    (b"defg", {"Upload_Checksum": "crc32 AAAA"}, "UPLOAD_CHECKSUM_UNSUPPORTED"),
    (b"defg", {"Upload_Checksum": "sha1 A"}, "VALIDATION_INVALID_FORMAT"),
    (b"defg", {"Upload_Checksum": "sha1 é"}, "VALIDATION_INVALID_FORMAT"),
    (b"defg", {"Upload_Checksum": "sha1 AAAA"}, "UPLOAD_CHECKSUM_MISMATCH"),
]


@pytest.mark.parametrize(("data", "headers", "code"), APPENDING)
async def test_what_is_not_taken(
    common_server: Server, ann: Person, data: bytes, headers: dict[str, str | None], code: str
) -> None:
    """A PATCH that is refused changes nothing: the upload is where it was, and goes on."""
    path = await create(common_server, ann, 10)
    assert (await append(common_server, ann, path, 0, b"abc")).status == 204
    usual: dict[str, Any] = {"Upload_Offset": "3"}
    answer = await tus(common_server, ann, "PATCH", path, data, **usual | headers)
    assert (answer.code, answer.status) == (code, ERRORS[code].status)
    assert (await look(common_server, ann, path)).offset == 3
    assert (await append(common_server, ann, path, 3, b"defghij")).status == 204
    await came_to(common_server, ann, path, b"abcdefghij")


async def test_uploads_of_others(common_server: Server, crowd: list[Person]) -> None:
    """Somebody else's upload looks like none at all, in every request, and is left as it was."""
    ann, eve = crowd[:2]
    path = await create(common_server, ann, 10)
    for address in (path, f"/files/tus/{uuid4()}", "/files/tus/none"):
        for method in ("HEAD", "PATCH", "DELETE"):
            answer = await tus(common_server, eve, method, address, Upload_Offset="0")
            assert (answer.status, answer.code) == (404, None if method == "HEAD" else "FILE_NOT_FOUND")
    assert (await look(common_server, ann, path)).offset == 0


@pytest.mark.parametrize("size", [0, 7, 200_000])
async def test_created_with_its_bytes(common_server: Server, ann: Person, size: int) -> None:
    """A creation may bring bytes: with all of them, it makes the file. One of no bytes is whole at once."""
    data = os.urandom(size)
    usual: dict[str, Any] = {"Upload_Metadata": NAME, "Content_Type": "application/offset+octet-stream"}
    answer = await tus(common_server, ann, "POST", "/files/tus/", data, Upload_Length=str(size), **usual)
    assert (answer.status, answer.offset) == (201, size)
    await came_to(common_server, ann, answer.headers["Location"], data)
    part = await tus(common_server, ann, "POST", "/files/tus", data, Upload_Length=str(size + 5), **usual)
    assert (part.status, part.offset, "Parley-File" in part.headers) == (201, size, False)
    await append(common_server, ann, part.headers["Location"], size, b"12345")
    await came_to(common_server, ann, part.headers["Location"], data + b"12345")
    many = await tus(common_server, ann, "POST", "/files/tus", data + b"x", Upload_Length=str(size), **usual)
    assert many.code == "FILE_TOO_LARGE"


async def test_a_length_that_is_told_later(common_server: Server, ann: Person) -> None:
    """Where Upload-Defer-Length is 1, any PATCH may say how long it will be, and then it stays so."""
    created = await tus(common_server, ann, "POST", "/files/tus", Upload_Defer_Length="1", Upload_Metadata=NAME)
    path = created.headers["Location"]
    await append(common_server, ann, path, 0, b"abc")
    before = await look(common_server, ann, path)
    assert (before.headers["Upload-Defer-Length"], "Upload-Length" in before.headers) == ("1", False)
    for length, code in (("2", "VALIDATION_INVALID_VALUE"), ("10485761", "FILE_TOO_LARGE")):
        assert (await append(common_server, ann, path, 3, b"", Upload_Length=length)).code == code
    assert (await append(common_server, ann, path, 3, b"de", Upload_Length="6")).offset == 5
    assert (await append(common_server, ann, path, 5, b"f", Upload_Length="7")).code == "VALIDATION_INVALID_VALUE"
    await append(common_server, ann, path, 5, b"f")
    await came_to(common_server, ann, path, b"abcdef")


@pytest.mark.parametrize("algorithm", ["md5", "sha1", "sha256"])
async def test_checksums(common_server: Server, ann: Person, algorithm: str) -> None:
    """Bytes that are not what their checksum says are not kept, not one of them; those that are, are."""
    data = os.urandom(700_000)
    right = b64encode(hashlib.new(algorithm, data).digest()).decode()
    path = await create(common_server, ann, len(data))
    spoilt = data[:-1] + bytes([data[-1] ^ 1])
    for sent in (spoilt, data[:-1]):
        answer = await append(common_server, ann, path, 0, sent, Upload_Checksum=f"{algorithm} {right}")
        assert (answer.status, answer.code) == (460, "UPLOAD_CHECKSUM_MISMATCH")
        assert (await look(common_server, ann, path)).offset == 0
    assert (await append(common_server, ann, path, 0, data, Upload_Checksum=f"{algorithm} {right}")).status == 204
    await came_to(common_server, ann, path, data)


async def test_termination(common_server: Server, ann: Person) -> None:
    """An upload, and its file as long as it stands in no message, can be dropped; then there is nothing there."""
    room = await common_server.chatroom(ann)
    for data, sent, status in ((b"ab", False, 204), (b"abc", False, 204), (b"abc", True, 403)):
        path = await create(common_server, ann, 3)
        await append(common_server, ann, path, 0, data)
        if sent:
            body = {"content": "", "attachments": [{"id": path.rpartition("/")[2]}]}
            await common_server.data("POST", f"/chatrooms/{room}/messages", ann.token, body)
        assert (await tus(common_server, ann, "DELETE", path)).status == status
        assert (await look(common_server, ann, path)).status == (200 if sent else 404)
        assert (await download(common_server, ann, f"/files/{path.rpartition('/')[2]}"))[0] == (200 if sent else 404)


async def test_methods_by_another_name(common_server: Server, ann: Person) -> None:
    """A client that can only POST says in X-HTTP-Method-Override what it means."""
    path = await create(common_server, ann, 3)
    post = partial(tus, common_server, ann, "POST", path)
    assert (await post(X_HTTP_Method_Override="HEAD")).offset == 0
    patched = await post(
        b"abc",
        X_HTTP_Method_Override="PATCH",
        Upload_Offset="0",
        Content_Type="application/offset+octet-stream",
    )
    assert patched.status == 204
    await came_to(common_server, ann, path, b"abc")
    assert (await post(X_HTTP_Method_Override="PUT")).code == "METHOD_NOT_ALLOWED"
    assert (await post(X_HTTP_Method_Override="DELETE")).status == 204
    assert (await look(common_server, ann, path)).status == 404


async def test_two_at_once(common_server: Server, ann: Person) -> None:
    """Of several who send the same bytes at once, one is heard; the others are told where it goes on."""
    data = os.urandom(600_000)
    path = await create(common_server, ann, len(data))
    for start in (0, 300_000):
        sending = (append(common_server, ann, path, start, data[start : start + 300_000]) for _ in range(4))
        answers = await asyncio.gather(*sending)
        assert sorted(answer.status for answer in answers) == [204, 409, 409, 409]
        assert {answer.code for answer in answers} == {None, "UPLOAD_OFFSET_MISMATCH"}
    await came_to(common_server, ann, path, data)


async def test_whole_and_asked_for_at_once(common_server: Server, ann: Person) -> None:
    """Whoever asks while an upload becomes a file hears of the file, and it is there once."""
    data = os.urandom(50_000)
    path = await create(common_server, ann, len(data))
    await append(common_server, ann, path, 0, data[:1])
    sent = append(common_server, ann, path, 1, data[1:])
    _, *looks = await asyncio.gather(sent, *(look(common_server, ann, path) for _ in range(8)))
    assert {answer.status for answer in looks} == {200}
    await came_to(common_server, ann, path, data)


async def test_bytes_that_are_lost_before_the_end(common_server: Server, ann: Person) -> None:
    """An upload of which the server has lost bytes never becomes a file without them; when they are back, it does."""
    folder = common_server.directory / "data" / "files"
    before, data = set(folder.glob("??/*")), os.urandom(100_000)
    path = await create(common_server, ann, len(data))
    await append(common_server, ann, path, 0, data[:50_000])
    (blob,) = set(folder.glob("??/*")) - before
    away = blob.rename(folder / "away")
    answer = await append(common_server, ann, path, 50_000, data[50_000:])
    assert (answer.status, answer.code) == (500, "FILE_DAMAGED")
    assert (await look(common_server, ann, path)).status == 500
    away.rename(blob)
    assert (await append(common_server, ann, path, len(data), b"")).status == 204
    await came_to(common_server, ann, path, data)


async def test_a_finish_that_fails_is_repeated(database_url: str, tmp_path: Path) -> None:
    """All bytes have come, and what makes a file of them is away: nothing is lost, and asking again makes it."""

    async def nothing() -> Any:
        for piece in (b"",):
            yield piece

    async def bytes_of(data: bytes) -> Any:
        yield data

    async def away(*_: Any) -> None:
        raise ChatError("SERVICE_UNAVAILABLE")

    async with running_node(database_url, tmp_path) as node:
        ann, _ = await node.user("ann")
        door = node.chat.files
        command = CreateUpload(filename="a.txt", file_size=4)
        upload = await door.start(ann, command, "", bytes_of(b"ab"), None)
        with patch.object(node.services.files.blobs, "read", away):
            for again in (
                door.append(ann, upload.id, bytes_of(b"cd"), 2, None, None),
                door.look(ann, upload.id),
                door.append(ann, upload.id, nothing(), 4, None, None),
            ):
                with pytest.raises(ChatError, match="SERVICE_UNAVAILABLE"):
                    await again
        done = await door.append(ann, upload.id, nothing(), 4, None, None)
        assert (done.url, done.offset) == (f"/files/{upload.id}", 4)
        assert (await door.look(ann, upload.id)).url == done.url
