"""The description of the API is valid, whole, and true of what the server does."""

from __future__ import annotations

import re
from typing import Any

import jsonschema_rs
import msgspec
import pytest
import schemathesis

from protocol.errors import ERRORS
from rest.app import make_app
from rest.openapi import document
from rest.routes import ROUTES
from rest.settings import RestSettings
from tests.rest.conftest import Server
from tests.rest.stand_in import INFO, StandInChat

DOCUMENT = msgspec.json.decode(msgspec.json.encode(document("1.2.3")))


def operation(method: str, path: str) -> Any:
    """One operation of the document."""
    return DOCUMENT["paths"][path][method]


def test_the_document_is_valid() -> None:
    """It holds to the published schema of OpenAPI 3.1."""
    schemathesis.openapi.from_dict(document("1.2.3")).validate()


def test_every_route_is_described_once() -> None:
    """Each line of the route table is an operation with a name of its own."""
    operations = [operation(route.method.lower(), route.path) for route in ROUTES]
    names = [one["operationId"] for one in operations]
    assert len(set(names)) == len(ROUTES)
    assert all(one["summary"] for one in operations)


UNDESCRIBED = {"/", "/api/docs", "/api/openapi.json", "/static/{name}", "/metrics", "/files/tus/"}
"""Pages and the like, and one more way to write `/files/tus`."""


async def test_every_address_is_described() -> None:
    """What the server has beside the table is described too, each with a name of its own."""
    settings = RestSettings(version="1", public_url="http://chat.example", info=INFO)
    app = make_app(StandInChat(), settings, no_metrics, lambda *_: None)
    there = {(route.method.lower(), route.resource.canonical) for route in app.router.routes() if route.resource}
    left = {
        (method, path)
        for method, path in there
        if path not in UNDESCRIBED
        and not path.startswith(("/api/v1", "/.well-known"))
        and method not in DOCUMENT["paths"].get(path, {})
    }
    # HEAD is like GET; OPTIONS, and POST in the place of another method, are told by tus itself.
    assert {one for one in left if one[0] not in ("head", "options")} == {("post", "/files/tus/{file_id}")}
    names = [one["operationId"] for methods in DOCUMENT["paths"].values() for one in methods.values()]
    assert len(set(names)) == len(names)


async def no_metrics() -> bytes:
    """Nothing is counted."""
    return b""


def test_every_reference_leads_somewhere() -> None:
    """Shapes that are named are there, and there is none that nobody names."""
    named = set(re.findall(r"#/components/schemas/(\w+)", str(DOCUMENT)))
    assert named == set(DOCUMENT["components"]["schemas"])


def test_ids_in_the_path_are_not_asked_for_again() -> None:
    """A body has the fields of its command but those that the path gives."""
    send = operation("post", "/chatrooms/{chatroom_id}/messages")
    schema = send["requestBody"]["content"]["application/json"]["schema"]
    assert set(schema["properties"]) == {"content", "message_type", "reply_to", "client_id", "attachments"}
    assert schema["required"] == ["content"]
    assert [(p["name"], p["in"], p["required"]) for p in send["parameters"]] == [("chatroom_id", "path", True)]


def test_queries_have_their_bounds() -> None:
    """A reader learns what `limit` may be, and that a search for users needs its words."""
    parameters = {p["name"]: p for p in operation("get", "/users")["parameters"]}
    assert parameters["search"]["required"] is True
    assert parameters["limit"]["schema"] == {"type": "integer", "minimum": 1, "maximum": 100, "default": 20}


def test_signing_in_is_open_and_all_else_is_not() -> None:
    """Only three operations of the table do without a token."""
    open_ones = {route.path for route in ROUTES if operation(route.method.lower(), route.path).get("security") == []}
    assert open_ones == {"/auth/register", "/auth/login", "/auth/refresh"}


def test_error_codes_are_listed() -> None:
    """The codes of a refusal are those of the one table."""
    failure = DOCUMENT["components"]["schemas"]["Failure"]
    assert failure["properties"]["error"]["properties"]["code"]["enum"] == list(ERRORS)


async def test_the_server_gives_the_document(server: Server) -> None:
    """It is served as it was made."""
    assert (await server.ask("GET", "/api/openapi.json", headers={})).body == DOCUMENT


@pytest.mark.parametrize(("path", "status"), [("/users/me", 200), ("/users/nonsense", 404), ("/chatrooms?page=0", 422)])
async def test_answers_are_as_described(server: Server, path: str, status: int) -> None:
    """An answer and a refusal hold to the schema that the document gives for their status."""
    answer = await server.ask("GET", path)
    template = "/users/{user_id}" if "nonsense" in path else path.partition("?")[0]
    assert answer.status == status
    schema = operation("get", template)["responses"][str(status)]["content"]["application/json"]["schema"]
    jsonschema_rs.validator_for({**schema, "components": DOCUMENT["components"]}).validate(answer.body)
