"""What stands around every answer: limits, origins, and what a browser must not do with it."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.rest.conftest import ADA_SIGNED, Serve, Server
from tests.rest.stand_in import ROOM_ID

BOB_SIGNED = {"Authorization": "Bearer bob-token"}
LOGIN = {"username": "ada", "password": "x"}


async def test_a_user_has_so_many_requests(serve: Serve) -> None:
    """The headers count down; past the limit the answer is 429 and says when to come back, and then it is good."""
    server = await serve(requests_per_minute=60)
    for left in range(59, -1, -1):
        answer = await server.ask("GET", "/users/me")
        assert (answer.status, answer.headers["X-RateLimit-Remaining"]) == (200, str(left))
    refused = await server.ask("GET", "/users/me")
    assert (refused.status, refused.code) == (429, "RATE_LIMIT_EXCEEDED")
    assert 0 < refused.body["error"]["retry_after"] <= 1
    assert refused.headers["Retry-After"] == "1"
    assert refused.headers["X-RateLimit-Limit"] == "60"
    assert 55 <= int(refused.headers["X-RateLimit-Reset"]) - time.time() <= 62
    await asyncio.sleep(refused.body["error"]["retry_after"])
    assert (await server.ask("GET", "/users/me")).status == 200


async def test_uploads_are_counted_beside_requests(serve: Serve) -> None:
    """What begins an upload has a limit of its own, which its headers tell."""
    server = await serve(requests_per_minute=5)
    assert (await server.ask("GET", "/users/me")).headers["X-RateLimit-Remaining"] == "4"
    begun = await server.ask("POST", "/files", json={"filename": "a", "file_size": 1})
    assert begun.headers["X-RateLimit-Remaining"] == "4"
    assert (await server.ask("GET", "/users/me")).headers["X-RateLimit-Remaining"] == "2"


async def test_users_and_addresses_are_counted_apart(serve: Serve) -> None:
    """Ada's requests take nothing from Bob's, nor from those who sign in at the same address."""
    server = await serve(requests_per_minute=1)
    assert (await server.ask("GET", "/users/me")).status == 200
    assert (await server.ask("GET", "/users/me")).status == 429
    assert (await server.ask("GET", "/users/me", headers=BOB_SIGNED)).status == 200
    assert (await server.ask("POST", "/auth/login", json=LOGIN)).status == 200
    assert (await server.ask("POST", "/auth/login", json=LOGIN)).status == 429


@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        ("GET", "/users/me", {"Authorization": "Bearer guess"}),
        ("GET", "/users/me", {}),
        ("GET", "/nowhere", {}),
        ("PATCH", "/users/me", {}),
        ("POST", "/auth/login", {"X-Forwarded-For": "192.0.2.9", "Forwarded": "for=192.0.2.9"}),
    ],
)
async def test_strangers_are_counted_by_address(serve: Serve, method: str, path: str, headers: dict[str, str]) -> None:
    """Guessed tokens and unknown paths are counted where they come from, whatever a header says of that."""
    server = await serve(requests_per_minute=1)
    assert (await server.ask("POST", "/auth/login", json=LOGIN)).status == 200
    answer = await server.ask(method, path, headers=headers)
    refused = await server.ask("POST", "/auth/login", json=LOGIN)
    assert refused.code == "RATE_LIMIT_EXCEEDED"
    assert answer.headers["X-RateLimit-Remaining"] == "0"


async def test_a_refused_request_does_nothing(serve: Serve) -> None:
    """What is over the limit does not reach the chat."""
    server = await serve(requests_per_minute=1)
    await server.ask("GET", "/users/me")
    await server.ask("GET", "/users/me")
    assert len(server.chat.asked) == 1


@pytest.mark.parametrize(
    "path",
    [
        "/health",
        "/health/live",
        "/health/ready",
        "/metrics",
        "/.well-known/jwks.json",
        "/api/docs",
        "/",
        "/api/v1/health",
    ],
)
async def test_what_is_for_machines_and_readers_has_no_limit(serve: Serve, path: str) -> None:
    """Probes, scrapers and pages are neither counted nor refused."""
    server = await serve(requests_per_minute=1)
    for _ in range(3):
        answer = await server.ask("GET", path, headers={})
        assert answer.status == 200
        assert "X-RateLimit-Limit" not in answer.headers


async def test_an_allowed_origin_may_read(serve: Serve) -> None:
    """A listed origin is named in answers, refusals too; another one is not, and caches are told why."""
    server = await serve(origins=("https://app.example",))
    for path in ("/users/me", "/nowhere"):
        good = await server.ask("GET", path, headers=ADA_SIGNED | {"Origin": "https://app.example"})
        assert good.headers["Access-Control-Allow-Origin"] == "https://app.example"
        assert "X-RateLimit-Remaining" in good.headers["Access-Control-Expose-Headers"]
        for origin in ({"Origin": "https://evil.example"}, {"Origin": "null"}, {}):
            other = await server.ask("GET", path, headers=ADA_SIGNED | origin)
            assert "Access-Control-Allow-Origin" not in other.headers
            assert other.headers["Vary"] == "Origin"


async def test_a_preflight_says_what_is_allowed(serve: Serve) -> None:
    """A browser of a listed origin learns the methods and headers, without a token and without being counted."""
    server = await serve(origins=("https://app.example",), requests_per_minute=1)
    asking = {"Origin": "https://app.example", "Access-Control-Request-Method": "DELETE"}
    for _ in range(3):
        answer = await server.ask("OPTIONS", f"/api/v1/chatrooms/{ROOM_ID}", headers=asking)
        assert answer.status == 204
        assert answer.headers["Access-Control-Allow-Origin"] == "https://app.example"
        assert answer.headers["Access-Control-Allow-Methods"] == "DELETE, GET, PUT"
        allowed = answer.headers["Access-Control-Allow-Headers"].split(", ")
        assert {"Authorization", "Content-Type", "Range", "Upload-Offset"} <= set(allowed)


async def test_scripts_may_upload_and_go_on(serve: Serve) -> None:
    """A browser's tus client may send its headers, with its methods, and read what it needs of the answer."""
    server = await serve(origins=("https://app.example",))
    asking = {"Origin": "https://app.example", "Access-Control-Request-Method": "PATCH"}
    for path, methods in (
        ("/files/tus", "OPTIONS, POST"),
        (f"/files/tus/{ROOM_ID}", "DELETE, HEAD, OPTIONS, PATCH, POST"),
    ):
        answer = await server.ask("OPTIONS", path, headers=asking)
        assert (answer.status, answer.headers["Access-Control-Allow-Methods"]) == (204, methods)
        allowed = set(answer.headers["Access-Control-Allow-Headers"].split(", "))
        assert {"Tus-Resumable", "Upload-Length", "Upload-Metadata", "Upload-Offset", "Upload-Checksum"} <= allowed
        exposed = set(answer.headers["Access-Control-Expose-Headers"].split(", "))
        assert {"Location", "Upload-Offset", "Upload-Length", "Upload-Expires", "Parley-File"} <= exposed


async def test_a_preflight_from_elsewhere_gets_nothing(server: Server) -> None:
    """Where no origin is listed, none is let in."""
    asking = {"Origin": "https://app.example", "Access-Control-Request-Method": "GET"}
    answer = await server.ask("OPTIONS", "/users/me", headers=asking)
    assert answer.code == "METHOD_NOT_ALLOWED"
    assert "Access-Control-Allow-Origin" not in answer.headers


async def test_any_origin(serve: Serve) -> None:
    """With `*` everyone may read, and nobody's name is repeated."""
    server = await serve(origins=("*",))
    answer = await server.ask("GET", "/users/me", headers=ADA_SIGNED | {"Origin": "https://any.example"})
    assert answer.headers["Access-Control-Allow-Origin"] == "*"


@pytest.mark.parametrize("path", ["/users/me", "/nowhere", "/", "/metrics"])
async def test_browsers_are_told_to_be_careful(server: Server, path: str) -> None:
    """No sniffing, no referrer, and no name and version of what runs underneath."""
    headers = (await server.ask("GET", path)).headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Server"] == "Parley"


async def test_private_answers_are_not_kept(server: Server) -> None:
    """Tokens and messages stay out of every cache; what is public may be kept for a while."""
    for method, path, body in (("POST", "/auth/login", LOGIN), ("GET", "/users/me", None)):
        assert (await server.ask(method, path, json=body)).headers["Cache-Control"] == "no-store"
    assert "max-age" in (await server.ask("GET", "/.well-known/jwks.json")).headers["Cache-Control"]


@pytest.mark.parametrize("path", ["/", "/api/docs"])
async def test_pages_run_no_scripts(server: Server, path: str) -> None:
    """The policy of a page lets in its own style sheet, and nothing else."""
    answer = await server.ask("GET", path, headers={})
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'; style-src 'self'")
    assert "<script" not in answer.text
    assert "style=" not in answer.text


@pytest.mark.parametrize(("https_only", "said"), [(True, "max-age=31536000"), (False, None)])
async def test_strict_transport(serve: Serve, https_only: bool, said: str | None) -> None:
    """Where everything goes over TLS, every answer says for how long browsers should keep to that (RFC 6797)."""
    server = await serve(https_only=https_only)
    for path in ("/", "/users/me", "/nowhere"):
        assert (await server.ask("GET", path)).headers.get("Strict-Transport-Security") == said
