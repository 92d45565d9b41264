"""What is refused, with which code, and that nothing of it breaks the server."""

from __future__ import annotations

import asyncio
import logging
from typing import Any
from uuid import UUID

import pytest

from protocol import commands as c
from protocol.errors import ChatError
from tests.rest.conftest import ADA_SIGNED, Serve, Server
from tests.rest.stand_in import ROOM_ID

R = str(ROOM_ID)
JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    ("header", "code", "challenge"),
    [
        (None, "AUTH_REQUIRED", "Bearer"),
        ("", "AUTH_REQUIRED", "Bearer"),
        ("Bearer", "AUTH_REQUIRED", "Bearer"),
        ("Bearer  ", "AUTH_REQUIRED", "Bearer"),
        ("Basic ada-token", "AUTH_REQUIRED", "Bearer"),
        ("Bearer nonsense", "AUTH_TOKEN_INVALID", 'Bearer error="invalid_token"'),
        ("Bearer ada-token x", "AUTH_TOKEN_INVALID", 'Bearer error="invalid_token"'),
        ("Bearer old-token", "AUTH_TOKEN_EXPIRED", 'Bearer error="invalid_token"'),
    ],
)
async def test_a_request_without_a_good_token(server: Server, header: str | None, code: str, challenge: str) -> None:
    """Each kind of missing or bad token has its code, and every 401 its challenge; nothing reaches the chat."""
    answer = await server.ask("GET", "/users/me", headers={} if header is None else {"Authorization": header})
    assert (answer.status, answer.code, answer.headers["WWW-Authenticate"]) == (401, code, challenge)
    assert server.chat.asked == []


@pytest.mark.parametrize(
    ("body", "code", "field"),
    [
        (b"{", "VALIDATION_INVALID_FORMAT", None),
        (b"[]", "VALIDATION_INVALID_FORMAT", None),
        (b"null", "VALIDATION_INVALID_FORMAT", None),
        (b'"\xff"', "VALIDATION_INVALID_FORMAT", None),
        (b'{"content": "\\ud800"}', "VALIDATION_INVALID_FORMAT", None),
        (b'{"content": ' + b"[" * 50_000, "VALIDATION_INVALID_FORMAT", None),
        (b"{}", "VALIDATION_REQUIRED_FIELD", "content"),
        (b"", "VALIDATION_REQUIRED_FIELD", "content"),
        (b'{"content": 5}', "VALIDATION_INVALID_FORMAT", "content"),
        (b'{"content": {"iv": "x", "key_version": 1}}', "VALIDATION_REQUIRED_FIELD", "content.encrypted_data"),
        (b'{"content": "x", "reply_to": "y"}', "VALIDATION_INVALID_FORMAT", "reply_to"),
        (b'{"content": "x", "message_type": "smell"}', "VALIDATION_INVALID_VALUE", "message_type"),
        (b'{"content": "x", "client_id": ""}', "VALIDATION_INVALID_VALUE", "client_id"),
        (b'{"content": "x", "client_id": "' + b"y" * 65 + b'"}', "VALIDATION_LENGTH_EXCEEDED", "client_id"),
    ],
)
async def test_a_body_that_is_no_command(server: Server, body: bytes, code: str, field: str | None) -> None:
    """Each kind of bad body has its code and names the field; nothing reaches the chat."""
    answer = await server.ask("POST", f"/chatrooms/{R}/messages", data=body, headers=ADA_SIGNED | JSON)
    assert (answer.status, answer.code) == (422, code)
    assert answer.body["error"]["details"].get("field") == field
    assert server.chat.asked == []


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "application/json", "Content-Encoding": "gzip"},
    ],
)
async def test_a_body_of_another_kind(server: Server, headers: dict[str, str]) -> None:
    """A body that says it is something else than plain JSON is not guessed at."""
    answer = await server.ask("POST", "/chatrooms", data=b'{"name": "Tea"}', headers=ADA_SIGNED | headers)
    assert (answer.status, answer.code) == (422, "VALIDATION_INVALID_FORMAT")


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("limit=0", "VALIDATION_INVALID_VALUE"),
        ("limit=101", "VALIDATION_INVALID_VALUE"),
        ("limit=x", "VALIDATION_INVALID_FORMAT"),
        ("limit=", "VALIDATION_INVALID_FORMAT"),
        ("page=-1", "VALIDATION_INVALID_VALUE"),
        (f"search={'x' * 101}", "VALIDATION_LENGTH_EXCEEDED"),
    ],
)
async def test_a_query_that_is_no_command(server: Server, query: str, code: str) -> None:
    """Numbers in a query are read as numbers, and held to the same bounds as in a frame."""
    answer = await server.ask("GET", f"/chatrooms?{query}")
    assert (answer.status, answer.code) == (422, code)


@pytest.mark.parametrize(
    ("path", "command", "code"),
    [
        ("/chatrooms/{}", c.GetChatroom, "CHATROOM_NOT_FOUND"),
        ("/chatrooms/{}/messages", c.FetchMessages, "CHATROOM_NOT_FOUND"),
        ("/users/{}", c.GetUser, "AUTH_USER_NOT_FOUND"),
    ],
)
async def test_no_id_looks_like_an_unknown_id(server: Server, path: str, command: Any, code: str) -> None:
    """Text that is no id gets, but for its limit's headers, the same answer as an id that nobody has."""

    def unknown(_: Any) -> None:
        raise ChatError(code)

    server.chat.on[command] = unknown
    nobody = await server.ask("GET", path.format(UUID(int=404)))
    nonsense = await server.ask("GET", path.format("nonsense"))
    assert nobody.status == nonsense.status == 404
    assert nobody.code == code
    assert nobody.text == nonsense.text


async def test_an_unknown_address(server: Server) -> None:
    """Nothing is there: an envelope says so, for browsers and tools alike."""
    for path in ("/nowhere", "/api/v1/nowhere", "/api/v2/users/me", "/static/../app.py", "/static/index.html"):
        answer = await server.ask("GET", path)
        assert (answer.status, answer.code) == (404, "RESOURCE_NOT_FOUND")


async def test_a_method_that_an_address_does_not_take(server: Server) -> None:
    """The answer names the ones that it takes."""
    answer = await server.ask("PATCH", "/users/me")
    assert (answer.status, answer.code) == (405, "METHOD_NOT_ALLOWED")
    assert answer.headers["Allow"] == "GET, PUT"


async def test_a_body_over_the_limit(serve: Serve) -> None:
    """A body is measured whether it says its length or comes in chunks; one of exactly the limit passes."""
    server = await serve(body_limit=1000)
    good = b'{"name": "Tea"}'.ljust(1000)
    assert (await server.ask("POST", "/chatrooms", data=good, headers=ADA_SIGNED | JSON)).status == 201

    async def chunks() -> Any:
        for _ in range(11):
            yield b" " * 100

    for body in (b" " * 1001, chunks()):
        answer = await server.ask("POST", "/chatrooms", data=body, headers=ADA_SIGNED | JSON)
        assert (answer.status, answer.code) == (413, "REQUEST_TOO_LARGE")


async def test_a_refusal_by_the_chat(server: Server) -> None:
    """Code, message, details and the time to wait arrive as they were raised; the header has whole seconds."""

    def busy(_: Any) -> None:
        raise ChatError("RATE_LIMIT_EXCEEDED", "Busy.", details={"queue": 3}, retry_after=1.25)

    server.chat.on[c.Login] = busy
    answer = await server.ask("POST", "/auth/login", json={"username": "ada", "password": "x"})
    error = {"code": "RATE_LIMIT_EXCEEDED", "message": "Busy.", "details": {"queue": 3}, "retry_after": 1.25}
    assert (answer.status, answer.body) == (429, {"success": False, "error": error})
    assert answer.headers["Retry-After"] == "2"


async def test_a_refusal_without_waiting_has_no_retry_after(server: Server) -> None:
    """The field is there only where waiting helps."""
    answer = await server.ask("GET", "/nowhere")
    assert "retry_after" not in answer.body["error"]
    assert "Retry-After" not in answer.headers


async def test_an_unexpected_failure(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    """The log has the traceback under the id that the answer gives; the answer has nothing of it."""

    def broken(_: Any) -> None:
        raise RuntimeError("row 17 of secrets")

    server.chat.on[c.SendMessage] = broken
    with caplog.at_level(logging.DEBUG):
        answer = await server.ask(
            "POST", f"/chatrooms/{R}/messages?token=planted-query", json={"content": "planted-text"}
        )
    assert (answer.status, answer.code) == (500, "INTERNAL_ERROR")
    assert "row 17" not in answer.text
    assert "Traceback" not in answer.text
    record = next(r for r in caplog.records if r.levelno == logging.ERROR)
    assert answer.body["error"]["details"]["request_id"] in record.getMessage()
    assert record.exc_info is not None
    assert "planted" not in caplog.text
    assert (await server.ask("GET", "/users/me")).status == 200


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer planted-token\r\nbroken planted-token\r\n\r\n",
        b"GET /?token=planted-token HTTP/9.9\r\nHost: x\r\n\r\n",
        b"GET /" + b"planted-token" * 1000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"planted-token" * 1000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: planted-token\r\n" * 100 + b"\r\n",
        b"POST /chatrooms HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST /chatrooms HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    ],
)
async def test_what_is_no_http(server: Server, request_bytes: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """It is answered 400 with an envelope and closed; neither answer nor log repeat what was sent."""
    with caplog.at_level(logging.DEBUG):
        async with server.raw() as (reader, writer):
            writer.write(request_bytes)
            answer = await reader.read()
    assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.0 400 ")), answer
    assert b'"success":false' in answer
    assert b"aiohttp" not in answer
    assert b"planted" not in answer
    assert "planted" not in caplog.text
    assert "Traceback" not in caplog.text
    assert (await server.ask("GET", "/users/me")).status == 200


@pytest.mark.parametrize(
    ("pause", "status", "code"), [(0, 400, "VALIDATION_INVALID_FORMAT"), (0.1, 408, "REQUEST_TIMEOUT")]
)
async def test_a_broken_chunk(serve: Serve, pause: float, status: int, code: str) -> None:
    """A body whose chunks make no sense is refused; where its head came before, by the deadline of bodies."""
    server = await serve(body_deadline=0.3)
    async with server.raw() as (reader, writer):
        writer.write(
            b"POST /chatrooms HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ada-token\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        await asyncio.sleep(pause)
        writer.write(b"zz\r\n")
        answer = await asyncio.wait_for(reader.read(), 4)
    assert int(answer.split(b" ")[1]) == status
    assert code.encode() in answer


async def test_a_body_that_will_be_too_long(server: Server) -> None:
    """It is refused by its announced length, before any of it is read."""
    async with server.raw() as (reader, writer):
        writer.write(
            b"POST /chatrooms HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ada-token\r\nContent-Length: 9000000\r\n\r\n"
        )
        answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 2)
    assert answer.startswith(b"HTTP/1.1 413 ")


async def test_an_expectation_that_nobody_knows(server: Server) -> None:
    """It is refused in the envelope too."""
    answer = await server.ask("GET", "/users/me", headers=ADA_SIGNED | {"Expect": "tea"})
    assert (answer.status, answer.code) == (417, "VALIDATION_INVALID_FORMAT")


async def test_a_client_that_leaves_in_the_middle_is_no_error(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    """A connection cut within a body leaves nothing in the log but the server as it was."""
    with caplog.at_level(logging.WARNING):
        async with server.raw() as (_, writer):
            writer.write(
                b"POST /chatrooms HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ada-token\r\n"
                b"Content-Length: 100\r\n\r\n{"
            )
            await writer.drain()
        assert (await server.ask("GET", "/users/me")).status == 200
    assert caplog.text == ""
