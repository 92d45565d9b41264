"""What probes, scrapers and readers get."""

from __future__ import annotations

import json

import msgspec
import pytest

from rest.routes import ROUTES
from tests.rest.conftest import Serve, Server
from tests.rest.stand_in import INFO


async def test_health_is_as_the_reference_api_has_it(server: Server) -> None:
    """Status, time, version and services, in the envelope."""
    answer = await server.ask("GET", "/health", headers={})
    data = answer.body["data"]
    assert answer.body["success"] is True
    assert data["timestamp"].endswith("Z")
    del data["timestamp"]
    assert data == {"status": "healthy", "version": "1.2.3", "services": {"database": "healthy"}}


@pytest.mark.parametrize(("path", "status"), [("/health", 503), ("/health/ready", 503), ("/health/live", 200)])
async def test_a_service_that_is_away(server: Server, path: str, status: int) -> None:
    """It makes the server unhealthy and not ready, with the report of each; the process still lives."""
    server.chat.services = {"database": "unhealthy"}
    answer = await server.ask("GET", path, headers={})
    assert answer.status == status
    if status == 503:
        assert answer.code == "SERVICE_UNAVAILABLE"
        assert answer.body["data"]["status"] == "unhealthy"
        assert answer.body["data"]["services"] == {"database": "unhealthy"}


@pytest.mark.parametrize("path", ["/health", "/health/ready"])
async def test_a_service_that_can_be_done_without(server: Server, path: str) -> None:
    """It is reported, and no reason to send clients elsewhere."""
    server.chat.services = {"database": "healthy", "redis": "degraded"}
    answer = await server.ask("GET", path, headers={})
    assert (answer.status, answer.body["data"]["status"]) == (200, "degraded")


async def test_a_draining_server_is_well_but_not_ready(server: Server) -> None:
    """New work goes elsewhere; nobody restarts it for that."""
    server.chat.ready = False
    statuses = [(await server.ask("GET", path)).status for path in ("/health", "/health/ready", "/health/live")]
    assert statuses == [200, 503, 200]


async def test_metrics_are_text(server: Server) -> None:
    """The bytes come as they are, with the type that Prometheus asks for."""
    answer = await server.ask("GET", "/metrics", headers={})
    assert answer.text == "up 1\n"
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"


async def test_keys_are_no_envelope(server: Server) -> None:
    """A key set is as RFC 7517 has it, for libraries that know nothing of Parley."""
    assert (await server.ask("GET", "/.well-known/jwks.json", headers={})).body == {"keys": []}


async def test_what_clients_read_of_the_server(server: Server) -> None:
    """The server's key, ports and limits, in no envelope, to be asked for again soon."""
    answer = await server.ask("GET", "/.well-known/parley", headers={})
    assert answer.body == json.loads(msgspec.json.encode(INFO))
    assert answer.headers["Cache-Control"] == "public, max-age=60"


async def test_the_first_page_says_where_to_go(serve: Serve) -> None:
    """It names the public addresses, with nothing in them taken for HTML."""
    server = await serve(public_url="https://chat.example/<x>/")
    text = (await server.ask("GET", "/", headers={})).text
    assert "https://chat.example/&lt;x&gt;/api/v1" in text
    assert "wss://chat.example/&lt;x&gt;/ws" in text
    assert "{{" not in text


async def test_the_style_sheet_of_the_pages(server: Server) -> None:
    """Pages have their style from the server itself."""
    answer = await server.ask("GET", "/static/style.css", headers={})
    assert (answer.status, answer.headers["Content-Type"]) == (200, "text/css; charset=utf-8")


async def test_the_docs_show_every_address(server: Server) -> None:
    """Each line of the route table is on the page, and each link leads somewhere on it."""
    text = (await server.ask("GET", "/api/docs", headers={})).text
    for route in ROUTES:
        assert f'<code class="method">{route.method}</code> <code>{route.path}</code>' in text
    for link in text.split('href="#')[1:]:
        assert f'id="{link.partition(chr(34))[0]}"' in text
