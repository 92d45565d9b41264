"""What the server answers is what its own description says; every answer wears the envelope and the limit's headers."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any
from uuid import UUID

import aiohttp
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.checks import CHECKS, load_all_checks
from schemathesis.core.result import Ok

from protocol.errors import ERRORS
from rest.openapi_files import STREAMS, Stream
from rest.routes import ROUTES, Route
from tests.e2e.bots import make_bot
from tests.e2e.conftest import StartServer
from tests.e2e.server import Person, Server
from tests.e2e.test_files import upload

EXAMPLES = 15
"""Requests to each address, some by its description and some against it."""
PROMISES = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
)


schemathesis.serializer.alias("application/offset+octet-stream", "application/octet-stream")


@pytest.fixture(scope="session")
def description(common_server: Server) -> schemathesis.BaseSchema:
    """The description of the API that the server gives of itself."""
    return schemathesis.openapi.from_url(f"{common_server.http}/api/openapi.json")


@pytest.fixture
async def scenery(common_server: Server) -> tuple[Person, dict[str, UUID]]:
    """Somebody, a room of theirs with a message in it, a bot, and a file, by the names that they have in paths."""
    person, other = await common_server.people(2)
    room = await common_server.chatroom(person, other)
    await common_server.data("POST", f"/chatrooms/{room}/messages", person.token, {"content": "x"})
    bot = await make_bot(common_server, person)
    file = await upload(common_server, person, b"0123456789")
    return person, {"chatroom_id": room, "bot_id": bot.id, "file_id": UUID(file["id"])}


@pytest.mark.parametrize("route", [*ROUTES, *STREAMS], ids=lambda route: f"{route.method} {route.path}")
def test_answers_are_as_described(
    common_server: Server,
    description: schemathesis.BaseSchema,
    scenery: tuple[Person, dict[str, UUID]],
    route: Route | Stream,
) -> None:
    """Whatever is asked, right or wrong, the status, the headers and the body are in the description."""
    person, things = scenery
    operation = find(description, route)
    headers = {"Authorization": f"Bearer {person.token}"}
    load_all_checks()
    checks = CHECKS.get_by_names(PROMISES)

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=cases(operation), real=st.booleans())
    def run(case: Any, real: bool) -> None:
        for name in (case.path_parameters or {}).keys() & things.keys() if real else ():
            case.path_parameters[name] = str(things[name])
        response = case.call(base_url=common_server.http + "/api/v1", headers=headers)
        case.validate_response(response, checks=checks)

    run()


def find(description: schemathesis.BaseSchema, route: Route | Stream) -> Any:
    """The description of one line of the route table, or of an address for bytes."""
    for result in description.get_all_operations():
        assert isinstance(result, Ok), result
        operation = result.ok()
        if operation.method.upper() == route.method and operation.path.removeprefix("/api/v1") == route.path:
            return operation
    raise AssertionError(f"{route.method} {route.path} is not described")


def cases(operation: Any) -> Any:
    """Requests that follow the description, and requests that break it."""
    modes = schemathesis.GenerationMode
    return operation.as_strategy(generation_mode=modes.POSITIVE) | operation.as_strategy(generation_mode=modes.NEGATIVE)


# --- the envelope and the headers ------------------------------------------------------------


async def raw(server: Server, method: str, path: str, token: str | None = None, **options: Any) -> Any:
    """One answer: status, headers, JSON."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with (
        aiohttp.ClientSession(headers=headers) as http,
        http.request(method, server.http + path, **options) as answer,
    ):
        return answer.status, answer.headers, json.loads(await answer.read())


@pytest.mark.parametrize("prefix", ["", "/api/v1"])
async def test_every_answer_has_the_envelope(common_server: Server, crowd: list[Person], prefix: str) -> None:
    """Success has `data`; failure has `error` with code, message and details, under the status of its code."""
    token = crowd[0].token
    for method, path, sent, options, code in (
        ("GET", "/users/me", token, {}, None),
        ("GET", "/health", None, {}, None),
        ("GET", "/users/me", None, {}, "AUTH_REQUIRED"),
        ("GET", "/users/me", "junk", {}, "AUTH_TOKEN_INVALID"),
        ("GET", "/nothing", token, {}, "RESOURCE_NOT_FOUND"),
        ("PATCH", "/users/me", token, {}, "METHOD_NOT_ALLOWED"),
        ("POST", "/chatrooms", token, {"data": b"{"}, "VALIDATION_INVALID_FORMAT"),
        ("POST", "/chatrooms", token, {"data": b"[" * 60_000}, "VALIDATION_INVALID_FORMAT"),
        ("POST", "/chatrooms", token, {"data": b"\xff"}, "VALIDATION_INVALID_FORMAT"),
        ("POST", "/chatrooms", token, {"data": b"[]"}, "VALIDATION_INVALID_FORMAT"),
        ("POST", "/chatrooms", token, {"json": {"name": "x", "max_members": 10**400}}, "VALIDATION_INVALID_VALUE"),
        ("POST", "/chatrooms", token, {"json": {}}, "VALIDATION_REQUIRED_FIELD"),
        ("POST", "/chatrooms", token, {"data": b"x" * 200_000}, "REQUEST_TOO_LARGE"),
        ("GET", "/chatrooms?limit=1000", token, {}, "VALIDATION_INVALID_VALUE"),
        ("GET", "/chatrooms/none", token, {}, "CHATROOM_NOT_FOUND"),
        ("GET", "/users/none", token, {}, "AUTH_USER_NOT_FOUND"),
    ):
        status, headers, answer = await raw(common_server, method, prefix + path, sent, **options)
        assert headers["Content-Type"].startswith("application/json")
        if code is None:
            assert (status, answer["success"]) == (200, True)
            assert answer.keys() == {"success", "data"}
        else:
            assert answer.keys() == {"success", "error"}
            assert answer["success"] is False
            assert answer["error"].keys() == {"code", "message", "details"}
            assert (status, answer["error"]["code"]) == (ERRORS[code].status, code)


async def test_the_limit_of_requests(start_server: StartServer) -> None:
    """Each user, bots included, has so many a minute and is told what is left; above it comes 429 with the time."""
    server = await start_server(PARLEY_LIMIT_REQUESTS="60")
    ann, bob = await server.people(2)
    started = time.monotonic()
    answers = [await raw(server, "GET", "/users/me", ann.token)]
    while answers[-1][0] == 200 and len(answers) < 300:
        answers.append(await raw(server, "GET", "/users/me", ann.token))
    allowed = [headers for _, headers, _ in answers[:-1]]
    assert 60 <= len(allowed) <= 61 + time.monotonic() - started  # one a second comes back
    assert {headers["X-RateLimit-Limit"] for headers in allowed} == {"60"}
    left = [int(headers["X-RateLimit-Remaining"]) for headers in allowed]
    assert left[0] == 59
    assert left[-1] == 0
    status, headers, answer = answers[-1]
    assert (status, answer["error"]["code"]) == (429, "RATE_LIMIT_EXCEEDED")
    assert headers["X-RateLimit-Remaining"] == "0"
    assert headers["Retry-After"] == "1"
    assert 0 < answer["error"]["retry_after"] <= 1
    bot = await make_bot(server, bob)
    assert (await raw(server, "GET", "/users/me", bob.token))[1]["X-RateLimit-Remaining"] in ("58", "59")
    assert (await raw(server, "GET", "/users/me", bot.token))[1]["X-RateLimit-Remaining"] == "59"
    await asyncio.sleep(answer["error"]["retry_after"])
    assert (await raw(server, "GET", "/users/me", ann.token))[0] == 200


async def test_guessing_is_limited_by_address(start_server: StartServer) -> None:
    """Requests without a good token share the limit of their address; those with one are not concerned."""
    server = await start_server(PARLEY_LIMIT_REQUESTS="20")
    ann = await server.person()
    statuses = [401]
    while statuses[-1] == 401 and len(statuses) < 300:
        statuses.append((await raw(server, "GET", "/users/me", "guess"))[0])
    assert statuses[-1] == 429
    assert len(statuses) > 20 - 2  # one request made the account
    login = await raw(server, "POST", "/auth/login", json={"username": "x", "password": "y"})
    assert login[0] == 429
    assert (await raw(server, "GET", "/users/me", ann.token))[0] == 200
    assert (await raw(server, "GET", "/health/live"))[0] == 200
