"""What an operator is given: the image, compose.yaml, the balancer's settings, and docs/operations.md."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.cli import main
from gateway.config import Config
from gateway.metrics import Metrics
from gateway.worker_metrics import WORKERS
from storage.embedded_valkey import valkey_program
from tests.e2e.conftest import StartServer
from tests.e2e.conftest import start_server as start_server  # a fixture
from tests.e2e.server import Server
from tests.ports import free_port

ROOT = Path(__file__).parent.parent
DOCKERFILE = (ROOT / "Dockerfile").read_text()
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
HAPROXY = (ROOT / "deploy" / "haproxy.cfg").read_text()
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()
SETTINGS = {f.metadata["env"]: f.metadata["secret"] for f in fields(Config)}
NODE = COMPOSE["services"]["node-1"]
MOUNTED = "/run/secrets/"


def _instructions(name: str) -> list[str]:
    """The arguments of an instruction of the Dockerfile, wherever it stands, with continued lines joined."""
    joined = re.sub(r"\\\n\s*", "", DOCKERFILE)
    return [rest.strip() for word, _, rest in (line.partition(" ") for line in joined.splitlines()) if word == name]


def _environment() -> dict[str, str]:
    """What the image sets."""
    return dict(pair.split("=", 1) for line in _instructions("ENV") for pair in line.split())


# --- the image -------------------------------------------------------------------------------


def test_dockerfile_is_linted(tmp_path: Path) -> None:
    """hadolint finds nothing in the Dockerfile, whatever its own settings may be."""
    hadolint = shutil.which("hadolint", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if hadolint is None:
        pytest.skip("hadolint has no wheel for this system")
    (settings := tmp_path / "hadolint.yaml").write_text("failure-threshold: style\n")
    command = [hadolint, "--config", str(settings), str(ROOT / "Dockerfile")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_ignored_rules_have_reasons() -> None:
    """A rule of hadolint that is turned off has its reason behind it."""
    ignored = re.findall(r"^#\s*hadolint\s+(?:global\s+)?ignore=\S+(.*)$", DOCKERFILE, re.MULTILINE)
    assert all(re.search(r"\s#\s*\w", reason) for reason in ignored)


def test_image_is_small_and_not_root() -> None:
    """What builds it stays behind, and what runs has a number that is not root's."""
    assert len(_instructions("FROM")) == 2
    assert all(re.search(r":\d", image) for image in _instructions("FROM"))
    assert int(_instructions("USER")[-1]) >= 10_000
    assert f"--uid {_instructions('USER')[-1]} " in _instructions("RUN")[-1]


def test_image_starts_parley() -> None:
    """Its command is one that there is, its variables are settings, and its ports are those it listens on."""
    (entry,), (command,) = (json.loads(_instructions(name)[0]) for name in ("ENTRYPOINT", "CMD"))
    assert entry == "parley"
    assert command in main.commands
    environment = _environment()
    assert environment.keys() - {"PATH"} <= SETTINGS.keys()
    ports = {environment[name].rpartition(":")[2] for name in ("PARLEY_HTTP", "PARLEY_TCP")}
    assert set(_instructions("EXPOSE")[0].split()) == ports
    assert _instructions("VOLUME") == [environment["PARLEY_DATA"]]


async def test_healthcheck(start_server: StartServer) -> None:
    """The image's health check passes where a node answers, and fails where none does."""
    options, _, text = _instructions("HEALTHCHECK")[0].partition("CMD ")
    assert "--start-period" in options
    command = json.loads(text)
    command[0] = sys.executable
    server: Server = await start_server()
    assert await _status(command, PARLEY_HTTP=f"0.0.0.0:{server.port}") == 0
    await server.stop()
    assert await _status(command, PARLEY_HTTP=f"0.0.0.0:{server.port}") != 0


async def _status(command: list[str], **environment: str) -> int:
    process = await asyncio.create_subprocess_exec(
        *command, env={**os.environ, **environment}, stderr=asyncio.subprocess.DEVNULL
    )
    return await asyncio.wait_for(process.wait(), 30)


# --- compose.yaml ----------------------------------------------------------------------------


def test_nodes_have_what_production_needs() -> None:
    """The nodes' variables are settings; every secret comes from a file that is mounted, and none is missing."""
    environment = NODE["environment"]
    secret = {f"{name}_FILE" for name, is_secret in SETTINGS.items() if is_secret}
    assert environment.keys() <= SETTINGS.keys() | secret
    assert environment["PARLEY_ENV"] == "production"
    assert environment.keys() & secret == secret
    assert {environment[name].removeprefix(MOUNTED) for name in secret} == set(NODE["secrets"])
    assert [node for name, node in COMPOSE["services"].items() if name.startswith("node-")] == [NODE, NODE]


def test_nodes_share_their_files() -> None:
    """Files are in a volume that every node has, and the image has a directory for it that Parley may write to."""
    place = Config(blobs=NODE["environment"]["PARLEY_BLOBS"]).blob_place
    (volume,) = NODE["volumes"]
    name, _, mounted = volume.partition(":")
    assert name in COMPOSE["volumes"]
    assert str(place) == mounted
    (made,) = re.findall(r"install --directory --owner=parley .*", _instructions("RUN")[-1])
    assert mounted in made.split()


def test_secrets_are_mounted() -> None:
    """Each service's secrets are declared, and each file of a secret that is named is one of the service's."""
    used = {name: set(service.get("secrets", ())) for name, service in COMPOSE["services"].items()}
    assert set.union(*used.values()) == set(COMPOSE["secrets"])
    for name, service in COMPOSE["services"].items():
        assert set(re.findall(rf"{MOUNTED}([\w.]+)", json.dumps(service))) <= used[name]


def test_balancer_is_believed() -> None:
    """PARLEY_PROXIES is the balancer's address, which is fixed, and the balancer writes the header itself."""
    address = COMPOSE["services"]["balancer"]["networks"]["front"]["ipv4_address"]
    assert NODE["environment"]["PARLEY_PROXIES"] == address
    assert "http-request set-header X-Forwarded-For %[src]" in HAPROXY
    assert "front" in NODE["networks"]


def test_nobody_else_is_reached() -> None:
    """Only the balancer publishes ports; PostgreSQL and Redis are in a network without a way out."""
    assert [name for name, service in COMPOSE["services"].items() if "ports" in service] == ["balancer"]
    assert COMPOSE["networks"]["back"]["internal"] is True
    assert all(COMPOSE["services"][name]["networks"] == ["back"] for name in ("postgres", "redis"))


def test_nodes_have_time_to_stop() -> None:
    """A container is not killed while its sessions are on their way to the other node."""
    seconds = int(NODE["stop_grace_period"].removesuffix("s"))
    config = Config(drain=float(NODE["environment"]["PARLEY_DRAIN"]))
    (told,) = re.findall(r"enough for ([\d,]+) sessions", (ROOT / "compose.yaml").read_text())
    sessions = int(told.replace(",", ""))
    assert seconds >= sessions / config.reconnect_rate + 2 * config.drain + 10


def test_balancer_knows_the_nodes() -> None:
    """Every node is a server of both ports, asked for its readiness where it answers HTTP."""
    http, tcp = (_environment()[name].rpartition(":")[2] for name in ("PARLEY_HTTP", "PARLEY_TCP"))
    for node in (name for name in COMPOSE["services"] if name.startswith("node-")):
        assert f"server {node} {node}:{http}\n" in HAPROXY
        assert f"server {node} {node}:{tcp} port {http}\n" in HAPROXY
    assert "http-check send meth GET uri /health/ready" in HAPROXY
    idle = [int(minutes) * 60 for minutes in re.findall(r"timeout (?:tunnel|client|server) (\d+)m", HAPROXY)]
    assert len(idle) == 3
    assert min(idle) > Config().heartbeat_interval + Config().heartbeat_timeout


def test_balancer_takes_its_settings() -> None:
    """HAProxy itself has nothing to say against its file."""
    if (haproxy := shutil.which("haproxy", path=f"{os.environ['PATH']}{os.pathsep}/usr/sbin")) is None:
        pytest.skip("HAProxy is not installed")
    command = [haproxy, "-c", "-f", str(ROOT / "deploy" / "haproxy.cfg")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "ALERT" not in done.stderr


async def test_secrets_that_are_made(start_server: StartServer, tmp_path: Path) -> None:
    """The page's commands make every secret of compose.yaml; with them Valkey and a node start, and understand each
    other."""
    (block,) = (text for text in re.findall(r"^```sh\n(.*?)^```$", OPERATIONS, re.DOTALL | re.M) if "genpkey" in text)
    await asyncio.to_thread(subprocess.run, ["bash", "-eu", "-c", block], cwd=tmp_path, check=True, capture_output=True)
    made = tmp_path / "secrets"
    declared = {Path(it["file"]) for it in COMPOSE["secrets"].values()}
    assert {Path("secrets", path.name) for path in made.iterdir()} == declared
    assert made.stat().st_mode & 0o777 == 0o700
    assert all(path.stat().st_mode & 0o777 == 0o644 for path in made.iterdir())
    port = free_port()
    password = (made / "postgres.password").read_text().strip()
    assert (made / "database.url").read_text().strip() == f"postgresql://parley:{password}@postgres:5432/parley"
    redis_url = made / "redis.url"
    redis_url.write_text(redis_url.read_text().replace("redis:6379", f"127.0.0.1:{port}"))
    valkey = _valkey(made / "valkey.conf", port)
    try:
        server: Server = await start_server(**_here(NODE["environment"], made))
        async with asyncio.timeout(30):
            while "parley_bus_connected 1.0" not in await _text(server, "/metrics"):
                await asyncio.sleep(0.05)
        assert (await server.call("GET", "/health/ready"))[0] == 200
    finally:
        valkey.terminate()
        valkey.wait(30)


def _valkey(settings: Path, port: int) -> subprocess.Popen[bytes]:
    """Valkey with this file, on a port of ours."""
    options = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(settings.parent.parent)]
    return subprocess.Popen([valkey_program(), settings, *options], stdout=subprocess.DEVNULL)


def _here(environment: dict[str, Any], secrets: Path) -> dict[str, str]:
    """A node's variables, with its secrets here, and the test's database."""
    given = {name: str(value).replace(MOUNTED, f"{secrets}/") for name, value in environment.items()}
    return {name: value for name, value in given.items() if name != "DATABASE_URL_FILE"}


async def _text(server: Server, path: str) -> str:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n".encode())
    try:
        return (await reader.read()).decode()
    finally:
        writer.close()


# --- docs/operations.md ----------------------------------------------------------------------


def test_settings_in_the_page() -> None:
    """Every setting that the page, compose.yaml or the balancer's file names is one."""
    text = OPERATIONS + HAPROXY + (ROOT / "compose.yaml").read_text()
    named = set(re.findall(r"\b(?:PARLEY_[A-Z_]+[A-Z]|DATABASE_URL|REDIS_URL)\b", text))
    assert named <= SETTINGS.keys() | {f"{name}_FILE" for name, is_secret in SETTINGS.items() if is_secret}


def test_metrics_in_the_page() -> None:
    """Every metric that the page names is one."""
    known = set(re.findall(r"^# HELP (\w+)", Metrics().render().decode() + WORKERS, re.MULTILINE))
    assert set(re.findall(r"\bparley_[a-z_]+", OPERATIONS)) <= known
