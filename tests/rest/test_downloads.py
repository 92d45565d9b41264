"""Files on their way out: what headers ask for, what stops them, and that nothing broken looks whole."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import UUID

import aiohttp
import pytest

from protocol.errors import ChatError
from rest import downloads
from rest.pace import Pace
from tests.rest.conftest import ADA_SIGNED, Serve, Server

PATH = f"/files/{UUID(int=7)}"
THEN = "Thu, 29 Feb 2024 12:00:30 GMT"
PIECE = b"x" * 100_000
PATIENCE = 60
"""Seconds for what a busy machine may take its time with."""


async def asked(server: Server, method: str = "GET", **headers: str) -> Any:
    """Status, headers and body. `If_Match` stands for If-Match."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    url = f"http://127.0.0.1:{server.port}{PATH}"
    async with server.http.request(method, url, headers=ADA_SIGNED | named) as answer:
        return answer.status, answer.headers, await answer.read()


@pytest.mark.parametrize(
    ("headers", "status", "body"),
    [
        ({}, 200, b"0123456789"),
        ({"Range": "bytes=2-4"}, 206, b"234"),
        ({"Range": "bytes=-1"}, 206, b"9"),
        ({"Range": "bytes=8-100"}, 206, b"89"),
        ({"Range": "lines=2-4"}, 200, b"0123456789"),
        ({"Range": "bytes=2-4", "If-Range": '"abc"'}, 206, b"234"),
        ({"Range": "bytes=2-4", "If-Range": THEN}, 206, b"234"),
        ({"Range": "bytes=2-4", "If-Range": '"old"'}, 200, b"0123456789"),
        ({"Range": "bytes=99-", "If-Range": '"old"'}, 200, b"0123456789"),
        ({"If-None-Match": '"abc"'}, 304, b""),
        ({"If-None-Match": '"abc"', "Range": "bytes=2-4"}, 304, b""),
        ({"If-Modified-Since": THEN}, 304, b""),
        ({"If-Match": '"abc"', "Range": "bytes=2-4"}, 206, b"234"),
    ],
)
async def test_get(server: Server, headers: dict[str, str], status: int, body: bytes) -> None:
    """What a GET brings; a HEAD says the same of the whole file, and brings nothing."""
    got, seen, data = await asked(server, **headers)
    assert (got, data) == (status, body)
    assert (seen["ETag"], seen["Last-Modified"], seen["Accept-Ranges"]) == ('"abc"', THEN, "bytes")
    assert seen["Cache-Control"] == "private, no-cache"
    if status != 304:
        assert int(seen["Content-Length"]) == len(body)
    whole = {name: value for name, value in headers.items() if name != "Range"}
    got, seen, data = await asked(server, "HEAD", **headers)
    expected = await asked(server, **whole)
    assert (got, data) == (expected[0], b"")
    assert named(seen) == named(expected[1])


def named(headers: Any) -> dict[str, str]:
    """Headers that two answers to the same question have in common."""
    return {name: value for name, value in headers.items() if name != "Date" and not name.startswith("X-RateLimit")}


async def test_what_cannot_be_had(server: Server) -> None:
    """A range that is nowhere is 416 and says how large the file is; a condition that does not hold is 412."""
    status, headers, body = await asked(server, Range="bytes=10-")
    assert (status, headers["Content-Range"]) == (416, "bytes */10")
    assert b'"RANGE_NOT_SATISFIABLE"' in body
    status, _, body = await asked(server, If_Match='"old"', Range="bytes=10-")
    assert (status, b'"PRECONDITION_FAILED"' in body) == (412, True)
    assert (await asked(server, "HEAD", If_Match='"old"'))[0] == 412
    assert (await asked(server, "HEAD", Range="bytes=10-"))[0] == 200


async def test_several_ranges(server: Server) -> None:
    """Several ranges come as parts of one body, in the order in which they were asked for."""
    status, headers, body = await asked(server, Range="bytes=7-, 0-1")
    assert (status, int(headers["Content-Length"])) == (206, len(body))
    reader = aiohttp.MultipartReader(headers, stream(body))
    parts = []
    while (part := await reader.next()) is not None:
        assert isinstance(part, aiohttp.BodyPartReader)
        parts.append((part.headers["Content-Range"], part.headers["Content-Type"], await part.read()))
    assert parts == [("bytes 7-9/10", "text/plain", b"789"), ("bytes 0-1/10", "text/plain", b"01")]


def stream(data: bytes) -> aiohttp.StreamReader:
    """Bytes that have all come."""
    protocol = aiohttp.base_protocol.BaseProtocol(asyncio.get_running_loop())
    reader = aiohttp.StreamReader(protocol, 2**16)
    reader.feed_data(data)
    reader.feed_eof()
    return reader


async def test_browsers_run_nothing(server: Server) -> None:
    """Whatever is in it: kept and not shown, unless it is a picture; sandboxed, not sniffed, not for other sites."""
    server.chat.files.file.file_type = "text/html"
    _, headers, _ = await asked(server)
    assert headers["Content-Disposition"] == 'attachment; filename="notes.txt"'
    assert headers["Content-Security-Policy"] == "default-src 'none'; sandbox"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert headers["Server"] == "Parley"
    assert "X-RateLimit-Remaining" in headers
    server.chat.files.file.file_type = "image/png"
    assert (await asked(server))[1]["Content-Disposition"] == 'inline; filename="notes.txt"'


@pytest.mark.parametrize(
    ("origins", "query", "policy"),
    [
        ((), "?signature=bobs", "same-origin"),
        (("https://app.example",), "?signature=bobs", "cross-origin"),
        (("*",), "?signature=bobs", "cross-origin"),
        (("https://app.example",), "", "same-origin"),
    ],
)
async def test_pages_of_other_origins(serve: Serve, origins: tuple[str, ...], query: str, policy: str) -> None:
    """Where other origins may come in, their pages may show what has a signed address, and nothing else."""
    server = await serve(origins=origins)
    answer = await server.ask("GET", PATH + query)
    assert (answer.status, answer.headers["Cross-Origin-Resource-Policy"]) == (200, policy)


async def test_a_signature_counts_as_its_user(serve: Serve) -> None:
    """A request by a signature is one of the user whom it names; a wrong one, of the address that it comes from."""
    server = await serve(requests_per_minute=1)
    bob = {"Authorization": "Bearer bob-token"}
    assert (await server.ask("GET", f"{PATH}?signature=bobs", headers={})).status == 200
    assert (await server.ask("GET", "/users/me", headers=bob)).status == 429
    assert (await server.ask("GET", f"{PATH}?signature=wrong", headers={})).code == "FILE_NOT_FOUND"
    assert (await server.ask("GET", f"{PATH}?signature=wrong", headers={})).status == 429


async def test_damage_at_the_first_byte(server: Server) -> None:
    """What cannot be opened has an answer like any other refusal."""
    server.chat.files.file.pieces = failing(ChatError("FILE_DAMAGED"))
    status, headers, body = await asked(server)
    assert (status, headers["Content-Type"], b'"FILE_DAMAGED"' in body) == (500, "application/json", True)
    assert "ETag" not in headers


@pytest.mark.parametrize("error", [ChatError("FILE_DAMAGED"), ZeroDivisionError()], ids=["damage", "bug"])
@pytest.mark.parametrize("ranges", ["bytes=0-", "bytes=0-99999, 200000-299999"])
async def test_damage_later(server: Server, error: Exception, ranges: str) -> None:
    """Once the head is out, an answer that cannot go on is broken off: it ends early, and nothing stands behind it."""
    file = server.chat.files.file
    file.size, file.pieces = 1_000_000, failing(error, PIECE)
    async with server.raw() as (reader, writer):
        writer.write(f"GET {PATH} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ada-token\r\n".encode())
        writer.write(f"Range: {ranges}\r\n\r\n".encode())
        got = await until_the_end(reader)
    head, _, body = got.partition(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    assert head.startswith(b"HTTP/1.1 206 ")
    assert len(body) < length
    assert got.count(b"HTTP/1.1") == 1
    assert b"--\r\n" not in body


def failing(error: Exception, *pieces: bytes) -> Callable[[], AsyncIterator[bytes]]:
    """Some pieces, and then an error."""

    async def read() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece
        raise error

    return read


async def until_the_end(reader: asyncio.StreamReader) -> bytes:
    """What comes before a connection ends, in whatever way."""
    got = bytearray()
    async with asyncio.timeout(PATIENCE):
        try:
            while data := await reader.read(65_536):
                got += data
        except ConnectionError:
            pass
    return bytes(got)


async def endless() -> AsyncIterator[bytes]:
    """Goes on and on."""
    while True:
        yield PIECE
        await asyncio.sleep(0.01)


def unavailable() -> bool:
    """The database is away."""
    raise ChatError("SERVICE_UNAVAILABLE")


@pytest.mark.parametrize("then", [lambda: False, unavailable], ids=["no", "cannot be asked"])
async def test_access_ends_on_the_way(
    server: Server, monkeypatch: pytest.MonkeyPatch, then: Callable[[], bool]
) -> None:
    """A download ends soon after its user may have the file no more, or nobody can say so."""
    monkeypatch.setattr(downloads, "ASKED_EVERY", 0.05)
    file = server.chat.files.file
    file.size, file.pieces = 10**12, endless
    async with asyncio.timeout(PATIENCE), server.raw() as (reader, writer):
        writer.write(f"GET {PATH} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ada-token\r\n\r\n".encode())
        await reader.readexactly(10 * len(PIECE))  # while it may be had it goes on
        file.allowed = then
        await until_the_end(reader)
        await file.left.wait()


async def test_who_does_not_read_is_cut(serve: Serve) -> None:
    """A client that takes less than the slowest transfer may, is cut off: nothing waits for it any more."""
    server = await serve(slowest_transfer=10**9, body_deadline=0.1)
    file = server.chat.files.file
    file.size, file.pieces = 10**12, endless
    async with asyncio.timeout(PATIENCE), server.raw() as (_, writer):
        writer.write(f"GET {PATH} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ada-token\r\n\r\n".encode())
        await file.left.wait()


async def test_a_client_that_goes(server: Server) -> None:
    """When the client has gone, nothing is read for it any more, and nothing is wrong."""
    file = server.chat.files.file
    file.size, file.pieces = 10**12, endless
    async with asyncio.timeout(PATIENCE):
        async with server.raw() as (reader, writer):
            writer.write(f"GET {PATH} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ada-token\r\n\r\n".encode())
            await reader.readexactly(len(PIECE))
        await file.left.wait()
    assert (await server.ask("GET", "/users/me")).status == 200


async def test_a_pace() -> None:
    """Every byte brings time; what is not waiting costs none; who waits longer in all is told."""
    slow = Pace(10, 0.2)
    await asyncio.sleep(0.3)
    await slow.wait(asyncio.sleep(0))
    with pytest.raises(TimeoutError):
        await slow.wait(asyncio.sleep(PATIENCE))
    with pytest.raises(TimeoutError):
        await slow.wait(asyncio.sleep(0.01))
    slow.moved(10 * PATIENCE)
    await slow.wait(asyncio.sleep(0.3))
