from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import get_args
from uuid import UUID

import pytest

from crypto.keyfile import FILES
from gateway.actions.bots import NEEDED
from gateway.chat import ACTIONS
from gateway.client_commands import RESULTS
from gateway.config import settings_table
from gateway.metrics import Metrics
from gateway.session import Refused
from gateway.worker_metrics import WORKERS
from protocol import commands, tables
from rest.routes import ROUTES
from tests.e2e.conftest import StartServer
from tests.e2e.conftest import start_server as start_server  # a fixture
from tests.e2e.server import Server

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
PROTOCOL = (ROOT / "protocol" / "PROTOCOL.md").read_text("utf-8")
PAGES = {
    name: (ROOT / name).read_text("utf-8")
    for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "docs/operations.md")
} | {"protocol/PROTOCOL.md": PROTOCOL}


def _blocks(language: str) -> list[str]:
    """The code blocks of README in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


def _shell_block(word: str) -> str:
    (block,) = (block for block in _blocks("sh") if word in block)
    return block


def _rows(page: str, *head: str) -> list[list[str]]:
    """The cells of the table with this head, without their backquotes."""
    lines = iter(page.splitlines())
    assert f"| {' | '.join(head)} |" in lines
    next(lines)
    rows: list[list[str]] = []
    for line in lines:
        if not line.startswith("|"):
            return rows
        rows.append([cell.strip().replace("`", "") for cell in line.strip("|").split(" | ")])
    return rows


# --- README ----------------------------------------------------------------------------------


def test_settings() -> None:
    """README lists every setting as the code has it."""
    table = settings_table()
    assert table in README, f"Paste this into README.md:\n{table}"


def test_metrics() -> None:
    """README lists every metric of ours."""
    metrics = Metrics()
    helps = re.findall(r"^# HELP (parley_\w+)", metrics.render().decode() + WORKERS, re.MULTILINE)
    listed = {name for name, *_ in _rows(README, "metric", "labels", "meaning")}
    assert listed == {name for name in helps if not name.endswith("_created")}


async def test_python_example(start_server: StartServer, tmp_path: Path) -> None:
    """README's client of twelve lines sends a message and prints it when it comes."""
    (example,) = _blocks("python")
    assert len(example.splitlines()) == 12
    (tmp_path / "hello.py").write_text(example)
    server: Server = await start_server()
    ann = await server.person()
    room = await server.chatroom(ann)
    arguments = (str(tmp_path / "hello.py"), server.ws, ann.token, str(room))
    assert "Hello from Python" in await _run(sys.executable, *arguments, PYTHONPATH=str(ROOT))


async def test_curl_example(start_server: StartServer, tmp_path: Path) -> None:
    """README's commands for curl make an account, a chatroom and a message, read it back, send a file, and have a bot
    answer.
    """
    server: Server = await start_server()
    blocks = [block for block in _blocks("sh") if "curl" in block]
    script = f"cd {tmp_path}\n" + "".join(blocks).replace("http://127.0.0.1:8000", server.http)
    printed = await _run("bash", "-eu", "-o", "pipefail", "-c", f"TOKEN=\n{script}")
    assert printed.count('"success":true') == 5
    assert printed.count('"content":"Hello"') == 2
    assert printed.count('"content":"Beep"') == 1
    assert printed.count('"filename":"notes.txt"') == 1
    assert printed.count("Two spoons a cup") == 1


async def test_production_example(start_server: StartServer, tmp_path: Path) -> None:
    """README's commands make secrets with which a production install starts, and a rotated one is taken at SIGHUP."""
    make, _, _ = _shell_block("openssl").partition("\nexport")
    await _run("bash", "-eu", "-c", f"cd {tmp_path}\n{make}")
    settings = {f"{name}_FILE": str(tmp_path / "secrets" / file) for name, file in FILES.items()}
    server: Server = await start_server(PARLEY_ENV="production", **settings)
    ann = await server.person()
    room = await server.chatroom(ann)
    jwt, master = tmp_path / "secrets" / "jwt.pem", tmp_path / "secrets" / "master.keys"
    old_jwt, old_master = jwt.read_text(), master.read_text()
    await _run("bash", "-eu", "-c", f"cd {tmp_path}\nrm -r secrets\n{make}")
    jwt.write_text(jwt.read_text() + old_jwt)
    master.write_text(f"next:{master.read_text().partition(':')[2]}{old_master}")
    os.kill(server.pid, signal.SIGHUP)
    async with asyncio.timeout(10):
        while "keys reloaded" not in server.logs():
            await asyncio.sleep(0.05)
    _, keys = await server.call("GET", "/.well-known/jwks.json")
    assert len(keys["keys"]) == 2
    assert await server.history(ann, room) == []


async def _run(*command: str, **environment: str) -> str:
    """What a program printed; it has to end well within 30 seconds."""

    def run() -> str:
        env = {**os.environ, **environment}
        done = subprocess.run(command, env=env, check=False, capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return await asyncio.to_thread(run)


# --- PROTOCOL.md -----------------------------------------------------------------------------


def test_tables() -> None:
    """The tables of errors, close codes, commands, events and shapes are those of the code."""
    assert tables.fill(PROTOCOL) == PROTOCOL, "Run: python -m protocol.tables"


def test_every_table_is_used() -> None:
    """Nothing that the code can describe is missing from the page."""
    assert re.findall(r"<!-- generated: (\w+) -->", PROTOCOL) == list(
        dict.fromkeys(re.findall(r"<!-- generated: (\w+) -->", PROTOCOL))
    )
    assert set(re.findall(r"<!-- generated: (\w+) -->", PROTOCOL)) == set(tables.TABLES)


def test_answers() -> None:
    """Every command of a socket is in the table of answers, with the answer that the Python client expects."""
    listed = {row[0]: row[1] for row in _rows(PROTOCOL, "command", "answer", "durable events it makes", "again")}
    assert list(listed) == list(commands.SOCKET_COMMANDS)
    expected = {command: result.__name__ for command, result in RESULTS.items() if result is not None}
    assert {event: listed[event] for event, kind in commands.SOCKET_COMMANDS.items() if kind in expected} == {
        event: expected[kind] for event, kind in commands.SOCKET_COMMANDS.items() if kind in expected
    }


def test_routes() -> None:
    """Every REST address is in the table of routes, with its command, its answer and its status."""
    listed = [
        (method, path, command, answer, status.partition(";")[0])
        for method, path, command, answer, status in _rows(
            PROTOCOL, "method", "path", "command", "answer (`data`)", "status"
        )
    ]
    assert listed == [
        (r.method, r.path, r.command.__name__, r.result.__name__ if r.result else "none", str(r.status)) for r in ROUTES
    ]


def test_scopes() -> None:
    """The table of scopes says of every command what a bot needs for it."""
    rows = _rows(PROTOCOL, "scope", "commands")
    listed = {scope.removeprefix("none: a "): set(words.split(", ")) for scope, words in rows}
    names = {kind: event for event, kind in commands.SOCKET_COMMANDS.items()}
    needed: dict[str, set[str]] = {}
    for kind, scope in NEEDED.items():
        needed.setdefault(scope, set()).add(names.get(kind, kind.__name__))
    assert listed == needed


def test_reset_reasons() -> None:
    """Every reason for which a session cannot be resumed is in its table."""
    code = "".join((ROOT / "gateway" / f"{name}.py").read_text("utf-8") for name in ("door", "arrivals", "handover"))
    reasons = {*re.findall(r'(?:Reset\(|_refuse\(asked, )"(\w+)"', code), *get_args(Refused)} - {"superseded"}
    assert {row[0] for row in _rows(PROTOCOL, "reason", "meaning", "`handled`")} == reasons


def test_every_command_has_an_action() -> None:
    """What the page lists can be done: by an action, by the journal, or by the connection itself."""
    connection = {commands.Authenticate, commands.Resume, commands.Ping, commands.Goodbye, commands.SendMessage}
    assert {*commands.SOCKET_COMMANDS.values(), *(r.command for r in ROUTES)} == {*ACTIONS, *connection}


# --- all pages -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PAGES)
def test_names_in_the_text(name: str) -> None:
    """Files that a page names are there, and so are the tests."""
    for path in re.findall(r"`((?:bench|crypto|gateway|protocol|rest|storage|tests)/[\w./]+)(?:::\w+)?`", PAGES[name]):
        assert (ROOT / path).exists(), path
    for path, test in re.findall(r"`(tests/[\w./]+)::(\w+)`", PAGES[name]):
        assert re.search(rf"def {test}\b", (ROOT / path).read_text("utf-8")), f"{path}::{test}"


@pytest.mark.parametrize("name", PAGES)
def test_links(name: str) -> None:
    """Links between the pages lead somewhere."""
    for target in re.findall(r"\]\(([^)]+)\)", PAGES[name]):
        path, _, anchor = target.partition("#")
        if path.startswith("http"):
            continue
        page = (ROOT / name).parent / path if path else ROOT / name
        assert page.exists(), target
        assert not anchor or anchor in _anchors(page.read_text("utf-8")), target


def _anchors(page: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", page, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_ids_are_uuids() -> None:
    """Examples show ids as they are."""
    for text in re.findall(r'"([0-9a-f]{8}-[0-9a-f-]+)"', PROTOCOL):
        assert str(UUID(text)) == text
        assert UUID(text).version == 7
