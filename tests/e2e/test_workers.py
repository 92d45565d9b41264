"""`parley serve --workers`: processes that share their ports are nodes like any others, and are looked after."""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from uuid import uuid4

import psutil  # type: ignore[import-untyped]
import pytest
import pytest_asyncio

from protocol.errors import CloseCode
from tests.e2e.conftest import server_of_its_own
from tests.e2e.server import Person, Server
from tests.e2e.socket_client import SocketClient, socket_client

TWO = ("--workers", "2")
BOTH = b'parley_workers{state="answering"} 2\nparley_workers{state="silent"} 0\n'

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pair(server_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    """A server of two workers, both of which take connections."""
    async with server_of_its_own(server_url, tmp_path_factory, "workers", *TWO) as server:
        await _listen(server, 2)
        yield server


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A directory for temporary files, with a path that is short enough for sockets."""
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        yield Path(directory)


def _workers(server: Server) -> list[psutil.Process]:
    return [process for process in psutil.Process(server.pid).children() if "worker" in process.cmdline()]


async def _listen(server: Server, times: int) -> None:
    """Until workers have begun to listen so many times, over all its starts."""
    async with asyncio.timeout(60):
        while server.logs().count('"message":"listening"') < times:
            await asyncio.sleep(0.02)


def _worker_of(server: Server, port: int) -> psutil.Process:
    """Whose the other end of a connection from this port is."""
    for worker in _workers(server):
        if any(c.raddr and c.raddr.port == port for c in worker.net_connections("tcp")):
            return worker
    raise AssertionError("it is no worker's")


async def _apart(server: Server, stack: AsyncExitStack, *people: Person) -> list[tuple[SocketClient, psutil.Process]]:
    """A session for each of the two, on different workers. The kernel deals connections out as it likes."""
    taken: list[tuple[SocketClient, psutil.Process]] = []
    async with asyncio.timeout(60):
        while len(taken) < 2:
            client = await stack.enter_async_context(socket_client(server.ws))
            await client.authenticate(people[len(taken)].token)
            worker = _worker_of(server, client.ws.local_address[1])
            if worker not in [other for _, other in taken]:
                taken.append((client, worker))
    return taken


def _runs(process: psutil.Process) -> bool:
    """An orphan that has ended may stay a zombie where nobody adopts it, as in some containers."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    return False


async def _gone(processes: list[psutil.Process]) -> None:
    async with asyncio.timeout(60):
        while any(map(_runs, processes)):
            await asyncio.sleep(0.02)


def _left_in(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


async def test_they_hear_each_other(pair: Server) -> None:
    """What is said on one worker is heard on the other, in order, over the bus, with no setting at all."""
    ann, bob = await pair.people(2)
    room = await pair.chatroom(ann, bob)
    async with AsyncExitStack() as stack:
        (a, _), (b, _) = await _apart(pair, stack, ann, bob)
        for client in (a, b) * 10:
            await client.send("send_message", {"chatroom_id": str(room), "content": "x", "client_id": str(uuid4())})
        for client in (a, b):
            heard = [(await client.until("message_received", timeout=20))["seq"] for _ in range(20)]
            assert heard == list(range(heard[0], heard[0] + 20))
    received = re.findall(rb'bus_messages_total\{worker="\d",what="received"\} (\S+)', await _metrics(pair))
    assert len(received) == 2
    assert all(float(count) > 0 for count in received)


async def test_metrics_of_all(pair: Server) -> None:
    """Whichever worker is asked for metrics answers for all, and says how many did not tell it theirs in time."""
    reader, writer = await asyncio.open_connection("127.0.0.1", pair.port)
    text = await _ask_both(reader, writer)
    assert all(text.count(f'parley_sessions{{worker="{n}",state="attached"}}'.encode()) == 1 for n in range(2))
    assert text.count(b"# TYPE parley_sessions gauge") == 1
    asked = _worker_of(pair, writer.get_extra_info("sockname")[1])
    (other,) = [worker for worker in _workers(pair) if worker != asked]
    other.suspend()
    try:
        text = await _ask_metrics(reader, writer)
        assert len(set(re.findall(rb'worker="(\d)"', text))) == 1
        assert b'parley_workers{state="answering"} 1\nparley_workers{state="silent"} 1\n' in text
    finally:
        other.resume()
        writer.close()


async def _metrics(server: Server) -> bytes:
    """With those of both workers in it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        return await _ask_both(reader, writer)
    finally:
        writer.close()


async def _ask_both(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    """On a busy machine a worker may not answer the other in time, now and then."""
    async with asyncio.timeout(60):
        while BOTH not in (text := await _ask_metrics(reader, writer)):
            pass
    return text


async def _ask_metrics(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    """Over a connection that stays, so that the same worker answers each time."""
    writer.write(b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    async with asyncio.timeout(30):
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"Content-Length: (\d+)", head)
        assert length is not None, head
        return await reader.readexactly(int(length[1]))


async def test_a_killed_worker_comes_back(pair: Server) -> None:
    """When one worker is killed, sessions on the others go on, and it is back soon, with a line in the log."""
    ann, bob = await pair.people(2)
    room = await pair.chatroom(ann, bob)
    async with AsyncExitStack() as stack:
        (_, killed), (b, left) = await _apart(pair, stack, ann, bob)
        killed.kill()
        assert (await b.say(room, "still here"))["event"] == "ack"
        await _gone([killed])
        await _listen(pair, 3)
        workers = _workers(pair)
        assert left in workers
        (a, first), (_, second) = await _apart(pair, stack, ann, bob)
        assert {first, second} == set(workers)
        assert (await b.say(room, "and on"))["event"] == "ack"
        heard = await a.until("message_received", timeout=20)
        assert heard["data"]["message"]["content"] == "and on"
    assert '"a worker ended, and is started again"' in pair.logs()


async def test_hangup_reaches_all(pair: Server) -> None:
    """SIGHUP to the parent makes every worker take rotated keys."""
    before = pair.logs().count('"keys reloaded"')
    psutil.Process(pair.pid).send_signal(signal.SIGHUP)
    async with asyncio.timeout(30):
        while pair.logs().count('"keys reloaded"') < before + 2:
            await asyncio.sleep(0.02)


async def test_stops_and_leaves_nothing(tmp_path: Path, temporary: Path) -> None:
    """With no setting at all there are a PostgreSQL and a Valkey; SIGTERM drains all workers, and nothing is left."""
    data = temporary / "data"
    settings = {"DATABASE_URL": "", "PARLEY_DATA": str(data), "TMPDIR": str(temporary)}
    server = Server(tmp_path, "", settings, TWO)
    await server.start()
    await _listen(server, 2)
    assert server.logs().count("Parley is running.") == 1
    processes = psutil.Process(server.pid).children(recursive=True)
    assert [process.name() for process in processes].count("valkey-server") == 1
    postgres = psutil.Process(int((data / "postgres" / "postmaster.pid").read_text().splitlines()[0]))
    async with socket_client(server.ws) as client:
        await client.authenticate((await server.person()).token)
        await server.stop()
        await client.closed()
        assert client.close_code == CloseCode.draining
    assert server.process is not None
    assert server.process.returncode == 0
    assert not [process for process in (*processes, postgres) if _runs(process)]
    assert _left_in(temporary) == ["data"]
    assert "Traceback" not in server.logs()


async def test_killed_parent(tmp_path: Path, server_url: str, temporary: Path) -> None:
    """When the parent is killed its workers and its Valkey end by themselves, and are not in the way of the next."""
    server = Server(tmp_path, server_url, {"TMPDIR": str(temporary)}, TWO)
    await server.start()
    await _listen(server, 2)
    before = psutil.Process(server.pid).children(recursive=True)
    await server.kill()
    await server.start()
    await _gone(before)
    await _listen(server, 4)
    await server.stop()
    assert "Traceback" not in server.logs()
    assert not _left_in(temporary)


async def test_a_refusal_is_told_once(tmp_path: Path, server_url: str) -> None:
    """What a worker refuses to start with ends them all: one line, and the status that a single process has."""
    (tmp_path / "no.pem").write_text("no certificate")
    settings = {name: str(tmp_path / "no.pem") for name in ("PARLEY_TLS_CERT", "PARLEY_TLS_KEY")}
    server = Server(tmp_path, server_url, settings | {"PARLEY_HTTP": "127.0.0.1:0", "PARLEY_TCP": "off"})
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", "serve", *TWO),
        env=server.environment(),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        _, said = await process.communicate()
    assert process.returncode == 2
    (line,) = said.decode().splitlines()
    assert line.startswith("Error: PARLEY_TLS_CERT")
