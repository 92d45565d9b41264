"""A client's link goes silent: no packet comes or goes, and nobody is told."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from tests.e2e.server import Server
from tests.e2e.socket_client import socket_client
from tests.faults.cluster import PATIENCE, Node, until
from tests.ports import free_port

pytestmark = pytest.mark.timeout(240)

OURS, THEIRS = "10.203.113.1", "10.203.113.2"
"""Addresses of the two ends of the link; they exist in the namespaces alone."""
ROOT = Path(__file__).parent.parent.parent
IP = shutil.which("ip") or "/usr/sbin/ip"


class Link:
    """A network namespace with one way out, which can be silenced."""

    def __init__(self) -> None:
        self.space = f"parley-{uuid4().hex[:8]}"
        self._near, self._far = f"pn{uuid4().hex[:8]}", f"pf{uuid4().hex[:8]}"

    def make(self) -> None:
        """Makes it. Raises CalledProcessError where that is not allowed."""
        self._ip("netns", "add", self.space)
        self._ip("link", "add", self._near, "type", "veth", "peer", "name", self._far, "netns", self.space)
        self._ip("addr", "add", f"{OURS}/30", "dev", self._near)
        self._ip("link", "set", self._near, "up")
        self._ip("-n", self.space, "addr", "add", f"{THEIRS}/30", "dev", self._far)
        self._ip("-n", self.space, "link", "set", self._far, "up")

    def silence(self, on: bool) -> None:
        """Loses every packet at the client's end, both ways: its own side of the link forgets the other's address."""
        if on:
            self._ip("-n", self.space, "neigh", "replace", OURS, "lladdr", "02:00:00:00:00:01", "dev", self._far)
            self._ip("neigh", "replace", THEIRS, "lladdr", "02:00:00:00:00:02", "dev", self._near)
        else:
            self._ip("-n", self.space, "neigh", "del", OURS, "dev", self._far)
            self._ip("neigh", "del", THEIRS, "dev", self._near)

    def remove(self) -> None:
        """Takes all of it away."""
        subprocess.run([IP, "netns", "del", self.space], capture_output=True)
        subprocess.run([IP, "link", "del", self._near], capture_output=True)

    def _ip(self, *arguments: str) -> None:
        subprocess.run([IP, *arguments], check=True, capture_output=True)


@pytest.fixture
def link() -> Iterator[Link]:
    """Skipped where this user may not make one."""
    made = Link()
    try:
        made.make()
    except (OSError, subprocess.CalledProcessError) as error:
        made.remove()
        pytest.skip(f"no network namespace can be made here: {error}")
    yield made
    made.remove()


async def _listen(link: Link, url: str, token: str, room: UUID) -> asyncio.subprocess.Process:
    """A client on the far side, which prints the seq of each event of the chatroom that it has."""
    program = [sys.executable, "-m", "tests.faults.listener", url, token, str(room)]
    return await asyncio.create_subprocess_exec(
        IP, "netns", "exec", link.space, *program, cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )


async def _until_seq(client: asyncio.subprocess.Process, seqs: list[int], seq: int) -> None:
    assert client.stdout
    async with asyncio.timeout(PATIENCE):
        while not seqs or seqs[-1] < seq:
            seqs.append(int(await client.stdout.readline()))


async def test_a_link_that_goes_silent(database_url: str, tmp_path: Path, link: Link) -> None:
    """The server notices it by the heartbeat and lets the socket go; the client comes back and misses nothing."""
    port = free_port()
    heartbeat = {"PARLEY_HEARTBEAT_INTERVAL": "1", "PARLEY_HEARTBEAT_TIMEOUT": "1"}
    server = Server(tmp_path, database_url, {**heartbeat, "PARLEY_HTTP": f"0.0.0.0:{port}"}, port=port)
    await server.start()
    node = Node(server)
    ann, bob = await server.people(2)
    room = await server.chatroom(ann, bob)
    client = await _listen(link, f"ws://{OURS}:{port}/ws", bob.token, room)
    seqs: list[int] = []
    try:
        async with socket_client(server) as talking:
            first = (await talking.authenticate(ann.token))["chatrooms"][0]["seq"]
            await _until_seq(client, seqs, first)
            for number in range(20):
                await talking.say(room, f"{number}")
            await _until_seq(client, seqs, first + 20)
            link.silence(True)
            for number in range(20):
                await talking.say(room, f"lost {number}")
            await until(partial(_unnoticed, node))
            for number in range(20):
                await talking.say(room, f"gone {number}")
            link.silence(False)
            await _until_seq(client, seqs, first + 60)
    finally:
        client.kill()
        await client.wait()
        await server.stop()
    assert seqs == list(range(first, first + 61))
    assert "Traceback" not in server.logs()


async def _unnoticed(node: Node) -> str:
    return "" if await node.metric('parley_closes_total{reason="no_pong"}') else "the silence was not noticed"
