"""Having files: all of one, some of it, and none of it once it may not be had."""

from __future__ import annotations

import asyncio
import os
import random
import re
import time
from datetime import datetime
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import aiohttp
import pytest
import yarl

from tests.e2e.conftest import StartServer
from tests.e2e.server import PASSWORD, Person, Server
from tests.e2e.socket_client import socket_client
from tests.e2e.test_files import signed, upload
from tests.e2e.test_key_rotation import rotate
from tests.pictures import polyglot


async def ask(server: Server, path: str, person: Person | None = None, method: str = "GET", **headers: str) -> Any:
    """Status, headers and body. `If_Range` stands for If-Range."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with (
        aiohttp.ClientSession(headers=signed(person) if person else {}) as http,
        http.request(method, server.http + path, headers=named) as answer,
    ):
        return answer.status, answer.headers, await answer.read()


async def test_ranges(common_server: Server, crowd: list[Person]) -> None:
    """Any range of a file is those bytes of it, and several are each; HEAD says how many there are."""
    ann, data = crowd[0], os.urandom(3_000_001)
    path = (await upload(common_server, ann, data))["encrypted_url"]
    status, headers, body = await ask(common_server, path, ann, "HEAD")
    assert (status, headers["Content-Length"], body) == (200, str(len(data)), b"")
    seed = random.randrange(2**32)
    dice = random.Random(seed)
    edges = [0, 65_535, 65_536, 65_537, 1_048_575, 1_048_576, len(data) - 1]
    for _ in range(40):
        first, last = sorted(dice.choice([dice.randrange(len(data)), dice.choice(edges)]) for _ in range(2))
        status, headers, body = await ask(common_server, path, ann, Range=f"bytes={first}-{last}")
        assert (status, headers["Content-Range"]) == (206, f"bytes {first}-{last}/{len(data)}"), seed
        assert len(body) == last + 1 - first
        assert body == data[first : last + 1], seed
    status, headers, body = await ask(common_server, path, ann, Range="bytes=2999999-,65535-65536")
    boundary = headers["Content-Type"].partition("boundary=")[2].encode()
    parts = [part.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n") for part in body.split(b"--" + boundary)[1:-1]]
    assert (status, parts) == (206, [data[2_999_999:], data[65_535:65_537]])


async def test_asked_again(common_server: Server, crowd: list[Person]) -> None:
    """Who has a file already is told so, as long as they may have it; the tag is of what is in it."""
    ann, bob = crowd[:2]
    data = os.urandom(100)
    (path, again), other = (
        [(await upload(common_server, ann, data))["encrypted_url"] for _ in range(2)],
        (await upload(common_server, ann, os.urandom(100)))["encrypted_url"],
    )
    _, headers, _ = await ask(common_server, path, ann)
    tag = headers["ETag"]
    assert (await ask(common_server, again, ann))[1]["ETag"] == tag
    assert (await ask(common_server, other, ann))[1]["ETag"] != tag
    status, headers, body = await ask(common_server, path, ann, If_None_Match=tag)
    assert (status, headers["ETag"], body) == (304, tag, b"")
    assert (await ask(common_server, path, ann, If_Modified_Since=headers["Last-Modified"]))[0] == 304
    assert (await ask(common_server, path, bob, If_None_Match=tag))[0] == 404


# --- by an address alone ---------------------------------------------------------------------


async def urls(server: Server, person: Person, *file_ids: str) -> Any:
    """Signed addresses of files."""
    return await server.data("POST", "/files/urls", person.token, {"file_ids": list(file_ids)})


async def test_a_signed_address(common_server: Server, crowd: list[Person]) -> None:
    """An address that was asked for reads its file without a token, in ranges too, and no other file."""
    ann, bob = crowd[:2]
    one, other = [await upload(common_server, ann, data) for data in (b"0123456789", b"other")]
    theirs = await upload(common_server, bob, b"theirs")
    began = time.time()
    answer = await urls(common_server, ann, other["id"], str(uuid4()), theirs["id"], one["id"], one["id"])
    assert [file["id"] for file in answer["files"]] == [other["id"], one["id"]]
    life = datetime.fromisoformat(answer["expires_at"]).timestamp() - began
    assert 298 < life < 301 + time.time() - began
    url = answer["files"][1]["url"]
    assert (await ask(common_server, url))[::2] == (200, b"0123456789")
    assert (await ask(common_server, "/api/v1" + url, Range="bytes=2-3"))[::2] == (206, b"23")
    status, headers, _ = await ask(common_server, url, method="HEAD")
    assert (status, headers["Content-Length"]) == (200, "10")
    signature = url.partition("?")[2]
    for path in (
        f"{other['encrypted_url']}?{signature}",
        f"{theirs['encrypted_url']}?{signature}",
        url[:-1],
        url + "A",
    ):
        assert (await ask(common_server, path))[0] == 404
    for method, path in (("GET", f"/files/{one['id']}/info"), ("POST", "/files/urls"), ("GET", "/users/me")):
        assert (await common_server.call(method, f"{path}?{signature}", body={}))[0] == 401


async def test_a_renewed_session_acts_for_its_new_sign_in(common_server: Server) -> None:
    """What a socket asks for after it was renewed under another sign-in is that one's, and outlives the former."""
    ann = await common_server.person()
    file = await upload(common_server, ann, b"still there")
    login = {"username": ann.username, "password": PASSWORD}
    other = (await common_server.data("POST", "/auth/login", body=login))["access_token"]
    async with socket_client(common_server) as socket:
        await socket.authenticate(ann.token)
        former = (await socket.ask("get_file_urls", {"file_ids": [file["id"]]}))["data"]["files"][0]["url"]
        assert (await socket.ask("authenticate", {"token": other}))["event"] == "authenticated"
        url = (await socket.ask("get_file_urls", {"file_ids": [file["id"]]}))["data"]["files"][0]["url"]
        await common_server.data("POST", "/auth/logout", ann.token)
        assert (await ask(common_server, former))[0] == 404
        assert (await ask(common_server, url))[::2] == (200, b"still there")
        assert (await socket.ask("ping"))["event"] == "pong"


async def test_an_old_address(start_server: StartServer) -> None:
    """An address is good for as long as it says, and no longer; the file is still there for a token."""
    server = await start_server(PARLEY_FILE_URL_LIFE="2")
    ann = await server.person()
    file = await upload(server, ann, b"soon gone")
    answer = await urls(server, ann, file["id"])
    url = answer["files"][0]["url"]
    async with asyncio.timeout(60):
        while (await ask(server, url))[0] != 404:
            await asyncio.sleep(0.1)
    assert time.time() >= datetime.fromisoformat(answer["expires_at"]).timestamp()
    assert (await ask(server, file["encrypted_url"], ann))[0] == 200


async def test_addresses_outlive_a_rotation(server: Server) -> None:
    """Keys rotate while the server runs: addresses that were given before are still good, and so are new ones."""
    ann = await server.person()
    file = await upload(server, ann, b"still here")
    before = (await urls(server, ann, file["id"]))["files"][0]["url"]
    await rotate(server)
    after = (await urls(server, ann, file["id"]))["files"][0]["url"]
    for url in (before, after):
        assert (await ask(server, url))[::2] == (200, b"still here")


# --- names -----------------------------------------------------------------------------------

NAMES: dict[bytes, str | None] = {
    b"../../a.txt": "a.txt",
    b"%2e%2e%2fa.txt": "%2e%2e%2fa.txt",
    b"a'b c.txt": "a'b c.txt",
    "Zürich \N{PILE OF POO}.txt".encode(): "Zürich \N{PILE OF POO}.txt",
    b"x" * 255: "x" * 255,
    b"x" * 300: None,
    b"a\x00b.txt": None,
    b"a\rb.txt": None,
    b"a\xe2\x80\xaegpj.exe": None,
    b"a\xed\xa0\x80.txt": None,
    b"a\xff.txt": None,
    b"..": None,
    b"": None,
}
"""What is sent as a form's filename, and what the file is called then; None where it is refused."""


@pytest.mark.parametrize(("sent", "name"), NAMES.items(), ids=[repr(name[:20]) for name in NAMES])
async def test_names(common_server: Server, crowd: list[Person], sent: bytes, name: str | None) -> None:
    """A name comes out as it went in, on one line and beside a plain one, or is refused with its code."""
    ann = crowd[0]
    status, answer = await form(common_server, ann, b'form-data; name="file"; filename="' + sent + b'"')
    if name is None:
        assert (status, answer["error"]["code"][:11]) == (422, "VALIDATION_"), answer
        return
    assert (status, answer["data"]["file"]["filename"]) == (201, name)
    _, headers, _ = await ask(common_server, answer["data"]["file"]["encrypted_url"], ann)
    how, _, parameters = headers["Content-Disposition"].partition("; ")
    plain, _, extended = parameters.partition("; ")
    assert how == "attachment"
    assert re.fullmatch(r'filename="[ !#-~]+"', plain)
    assert extended.removeprefix("filename*=UTF-8''") == (
        "" if plain == f'filename="{name}"' else quote(name, safe="'")
    )


@pytest.mark.parametrize(
    "body", [b"", b"--", b"--X\r\n\r\n--X--", b"--B", b"--B\r\n\xff: \0\r\n\r\n", b"--B\r\n\r\nno end"]
)
async def test_forms_that_are_none(common_server: Server, crowd: list[Person], body: bytes) -> None:
    """What is no form, or has no file, is said to be none."""
    headers = signed(crowd[0]) | {"Content-Type": "multipart/form-data; boundary=B"}
    async with (
        aiohttp.ClientSession(headers=headers) as http,
        http.post(f"{common_server.http}/upload/file", data=body) as answer,
    ):
        assert (answer.status, (await answer.json())["error"]["code"][:11]) == (422, "VALIDATION_")


@pytest.mark.parametrize("kind", [None, "text/plain", "multipart/form-data", "multipart/form-data; boundary="])
@pytest.mark.parametrize("path", ["/upload/file", "/users/me/avatar"])
async def test_types_that_are_none(common_server: Server, crowd: list[Person], path: str, kind: str | None) -> None:
    """A body that does not say what it is, or not how, is refused."""
    headers = signed(crowd[0]) | ({} if kind is None else {"Content-Type": kind})
    async with (
        aiohttp.ClientSession(headers=headers, skip_auto_headers=["Content-Type"]) as http,
        http.post(common_server.http + path, data=b"data") as answer,
    ):
        assert answer.status == 422


async def form(server: Server, person: Person, disposition: bytes) -> tuple[int, Any]:
    """An upload with this header of its part, byte for byte."""
    body = b"--B\r\nContent-Disposition: " + disposition + b"\r\n\r\ndata\r\n--B--\r\n"
    headers = signed(person) | {"Content-Type": "multipart/form-data; boundary=B"}
    async with (
        aiohttp.ClientSession(headers=headers) as http,
        http.post(f"{server.http}/upload/file", data=body) as answer,
    ):
        return answer.status, await answer.json()


async def test_names_elsewhere(common_server: Server, crowd: list[Person]) -> None:
    """In a header, in the query and in a command, a name is what it is in a form."""
    server, ann = common_server, crowd[0]
    for name, in_header, in_query in (
        ("a%0d%0aX-Evil%3A%201", 422, 422),
        ("%ED%A0%80", 422, 201),  # half a surrogate, which a query keeps as the nine letters that it is written with
        ("%F0%9F%92%A9.txt", 201, 201),
        ("..%2Fb", 201, 201),
        ("..", 422, 422),
    ):
        plain = signed(ann) | {"Content-Type": "application/octet-stream"}
        named = plain | {"Content-Disposition": f"attachment; filename*=UTF-8''{name}"}
        for path, sent, status in (("", named, in_header), (f"?filename={name}", plain, in_query)):
            url = yarl.URL(f"{server.http}/upload/file{path}", encoded=True)
            async with aiohttp.ClientSession() as http, http.post(url, data=b"x", headers=sent) as answer:
                assert answer.status == status, (name, path, await answer.text())
    for text in ('"a\\ud800b"', '"a\\u0000b"', '"a\\u202eb"', '"a\\r\\nb"', '""'):
        async with (
            aiohttp.ClientSession(headers=signed(ann) | {"Content-Type": "application/json"}) as http,
            http.post(f"{server.http}/files", data=f'{{"filename": {text}}}'.encode()) as answer,
        ):
            assert answer.status == 422, text


# --- what a browser could run ----------------------------------------------------------------

HARMFUL = {
    "text/html": b"<!DOCTYPE html><html><script>alert(1)</script></html>",
    "image/svg+xml": b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
    "text/xml": b'<?xml version="1.0"?><?xml-stylesheet href="evil.xsl" type="text/xsl"?><a/>',
    "application/pdf": b"%PDF-1.4\n1 0 obj<</OpenAction<</S/JavaScript/JS(app.alert(1))>>>>endobj\n",
    "text/plain": b"alert(1);\n",
}


@pytest.mark.parametrize("file_type", HARMFUL)
async def test_nothing_runs(common_server: Server, crowd: list[Person], file_type: str) -> None:
    """Whatever a browser could run is for keeping, in a sandbox without anything, whatever it calls itself."""
    file = await upload(common_server, crowd[0], HARMFUL[file_type], "holiday.png")
    assert file["file_type"] == file_type
    await check_headers(common_server, crowd[0], file, "attachment")


async def test_a_page_that_is_a_picture(common_server: Server, crowd: list[Person]) -> None:
    """A GIF that is a page as well is a picture to a browser, and never a page: its type is not guessed at."""
    file = await upload(common_server, crowd[0], polyglot(), "page.html")
    assert file["file_type"] == "image/gif"
    await check_headers(common_server, crowd[0], file, "inline")


async def check_headers(server: Server, person: Person, file: Any, how: str) -> None:
    """A file comes as its own type, with what keeps a browser from running it, by a signed address too."""
    (signed_file,) = (await urls(server, person, file["id"]))["files"]
    for path, who in ((file["encrypted_url"], person), (signed_file["url"], None)):
        status, headers, _ = await ask(server, path, who)
        assert (status, headers["Content-Type"]) == (200, file["file_type"])
        assert headers["Content-Disposition"].partition(";")[0] == how
        assert headers["Content-Security-Policy"] == "default-src 'none'; sandbox"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
