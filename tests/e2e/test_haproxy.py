"""The balancer of compose.yaml, with its own settings, before two real nodes."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from gateway.client import connect
from tests.e2e.server import Server
from tests.e2e.test_migration import Talker, metrics, pair
from tests.ports import free_port
from tests.valkey import Valkey

SETTINGS = (Path(__file__).parent.parent.parent / "deploy" / "haproxy.cfg").read_text()
HAPROXY = shutil.which("haproxy", path=f"{os.environ['PATH']}{os.pathsep}/usr/sbin")

pytestmark = pytest.mark.skipif(HAPROXY is None, reason="HAProxy is not installed")


@asynccontextmanager
async def haproxy(directory: Path, nodes: tuple[Server, Server]) -> AsyncIterator[tuple[int, int, int]]:
    """HAProxy before these nodes. Its ports for HTTP, for TCP, and for what it tells of itself."""
    ports = {name: free_port() for name in ("8000", "8001", "8404")}
    text = re.sub(r"bind :(8\d+)", lambda found: f"bind 127.0.0.1:{ports[found[1]]}", SETTINGS)
    text = re.sub(r"maxconn \d+", "maxconn 500", text)
    for number, node in enumerate(nodes, 1):
        text = text.replace(f"node-{number}:8000", f"127.0.0.1:{node.port}")
        text = text.replace(f"node-{number}:8001", f"127.0.0.1:{node.tcp_port}")
        text = text.replace("port 8000", f"port {node.port}", 1)
    (directory / "haproxy.cfg").write_text(text)
    assert HAPROXY is not None
    with (directory / "haproxy.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            HAPROXY, "-db", "-f", str(directory / "haproxy.cfg"), stdout=log, stderr=log
        )
    try:
        async with asyncio.timeout(30):
            while not await _all_up(ports["8404"]):
                assert process.returncode is None, (directory / "haproxy.log").read_text()
                await asyncio.sleep(0.05)
        yield ports["8000"], ports["8001"], ports["8404"]
    finally:
        process.kill()
        await process.wait()


async def _all_up(port: int) -> bool:
    """Whether both nodes have passed a check, for both ports."""
    try:
        async with aiohttp.ClientSession() as http, http.get(f"http://127.0.0.1:{port}/metrics") as answer:
            text = await answer.text()
    except aiohttp.ClientError:
        return False
    return len(re.findall(r'^haproxy_server_check_status\{.*state="L7OK"\} 1$', text, re.MULTILINE)) == 4


async def _attached(node: Server) -> float:
    return (await metrics(node, "parley_sessions"))['{state="attached"}']


async def test_behind_haproxy(database_url: str, tmp_path: Path, valkey: Valkey) -> None:
    """A node stops under load, comes back, and the other stops: every client goes on by HAProxy, without a loss.

    Nobody can give an address of their own, and nobody sees the metrics.
    """
    settings = {"PARLEY_DRAIN": "60", "PARLEY_PROXIES": "127.0.0.1", "PARLEY_LIMIT_REQUESTS": "20"}
    async with AsyncExitStack() as stack:
        nodes = await stack.enter_async_context(pair(database_url, tmp_path, valkey, **settings))
        http, tcp, status = await stack.enter_async_context(haproxy(tmp_path, nodes))
        base = f"http://127.0.0.1:{http}"
        people = await nodes[0].people(4)
        room = await nodes[0].chatroom(people[0], *people[1:])
        urls = [f"ws://127.0.0.1:{http}/ws", f"parley://127.0.0.1:{tcp}?discover={base}"]
        talkers = [
            Talker(await stack.enter_async_context(connect(urls[number % 2], person.token)), room, str(number))
            for number, person in enumerate(people)
        ]
        assert [await _attached(node) for node in nodes] == [2, 2]
        stop, head = asyncio.Event(), asyncio.get_running_loop().create_future()
        listening = asyncio.gather(*(talker.listen(head) for talker in talkers))
        writing = asyncio.gather(*(talker.write(stop) for talker in talkers))
        for node, other in (nodes, nodes[::-1]):
            assert node.process is not None
            node.process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(60):
                assert await node.process.wait() == 0
                while await _attached(other) != len(people):
                    await asyncio.sleep(0.05)
            await node.start()
            async with asyncio.timeout(30):
                while await metrics(other, "parley_nodes") != {"": 1} or not await _all_up(status):
                    await asyncio.sleep(0.05)
        stop.set()
        await writing
        head.set_result((await nodes[0].history(people[0], room))[-1]["seq"])
        async with asyncio.timeout(30):
            await talkers[0].client.send_message(room, "the last")
            await listening
        assert [talker.client.session_id for talker in talkers] == [talker.session for talker in talkers]
        for talker in talkers:
            seqs = [seq for _, seq in talker.heard]
            assert seqs == list(range(seqs[0] or 0, (seqs[0] or 0) + len(seqs)))
            assert len(seqs) >= head.result() - (seqs[0] or 0)
        async with aiohttp.ClientSession() as client:
            assert (await client.get(f"{base}/metrics")).status == 403
            forged = ({"X-Forwarded-For": f"203.0.113.{number}"} for number in range(100))
            while (await client.post(f"{base}/auth/login", headers=next(forged), json={})).status != 429:
                pass
