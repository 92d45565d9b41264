"""The chaos proxy: without faults nothing is changed, and each fault does what it says, and no more."""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from bench.faults.addresses import Address, Streams, Tcp, dial, server_of, through
from bench.faults.balancer import Balancer
from bench.faults.proxy import Line, Proxy
from bench.faults.redis_commands import CommandReader, LosePublishes, command

Call = Callable[[], Awaitable[Streams]]

PATIENCE = 10.0
SILENCE = 0.2
"""How long nothing has to come for it to be held back: a bug shows as something that comes at once."""


class Echo:
    """Sends back what it gets; `got` is all of it, `lines` are the ends of its connections."""

    def __init__(self) -> None:
        self.got = bytearray()
        self.ended = 0
        self.writers: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        self.writers.append(writer)
        try:
            while data := await reader.read(65_536):
                self.got += data
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            self.ended += 1
            writer.close()


@pytest.fixture(params=["tcp", "unix"])
async def upstream(request: pytest.FixtureRequest) -> AsyncIterator[tuple[Echo, Address]]:
    """An echo on TCP, and one on a Unix socket."""
    echo = Echo()
    with tempfile.TemporaryDirectory(prefix="parley-") as short:
        if request.param == "tcp":
            server = await asyncio.start_server(echo.serve, "127.0.0.1", 0)
            address: Address = Tcp("127.0.0.1", server.sockets[0].getsockname()[1])
        else:
            address = Path(short) / "echo"
            server = await asyncio.start_unix_server(echo.serve, address)
        yield echo, address
        server.close()
        for writer in echo.writers:
            writer.close()


@pytest.fixture
async def proxy(upstream: tuple[Echo, Address]) -> AsyncIterator[Proxy]:
    """In front of the echo."""
    async with asyncio.timeout(60), Proxy(upstream[1]) as made:
        yield made


@pytest.fixture
async def call(proxy: Proxy) -> AsyncIterator[Call]:
    """Makes connections through the proxy."""
    async with AsyncExitStack() as stack:

        async def call() -> Streams:
            reader, writer = await dial(proxy.address, 65_536)
            stack.callback(writer.close)
            return reader, writer

        yield call


async def _says(reader: asyncio.StreamReader, words: bytes) -> None:
    async with asyncio.timeout(PATIENCE):
        assert await reader.readexactly(len(words)) == words


async def _silent(reader: asyncio.StreamReader) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(SILENCE):
            await reader.read(1)


async def _reset(reader: asyncio.StreamReader) -> None:
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(ConnectionResetError):
            while await reader.read(65_536):
                pass


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.005)


async def test_without_faults(proxy: Proxy, call: Call, upstream: tuple[Echo, Address]) -> None:
    """A megabyte goes up and comes down unchanged, and the end of one side reaches the other."""
    reader, writer = await call()
    sent = random.Random(1).randbytes(1_000_000)
    writer.write(sent)
    await _says(reader, sent)
    writer.write_eof()
    assert await asyncio.wait_for(reader.read(), PATIENCE) == b""
    await _until(lambda: upstream[0].ended == 1 and not proxy.lines)


async def test_latency(proxy: Proxy, call: Call) -> None:
    """Each way takes so long and a little more, and the order stays."""
    reader, writer = await call()
    proxy.faults.latency, proxy.faults.jitter = 0.05, 0.05
    began = time.monotonic()
    words = [b"%03d" % number for number in range(50)]
    for word in words:
        writer.write(word)
        await asyncio.sleep(0)
    await _says(reader, b"".join(words))
    assert time.monotonic() - began >= 0.1


async def test_one_byte_slices(proxy: Proxy, call: Call) -> None:
    """Every byte comes, one at a time."""
    reader, writer = await call()
    proxy.faults.slices = 1
    writer.write(b"hello")
    pieces: list[bytes] = []
    while sum(map(len, pieces)) < 5:
        pieces.append(await asyncio.wait_for(reader.read(65_536), PATIENCE))
    assert b"".join(pieces) == b"hello"
    assert len(pieces) > 1


async def test_stalled(proxy: Proxy, call: Call) -> None:
    """Nothing passes; afterwards everything does."""
    reader, writer = await call()
    proxy.faults.stalled = True
    writer.write(b"hello")
    await _silent(reader)
    proxy.faults.stalled = False
    await _says(reader, b"hello")


async def test_black_hole(proxy: Proxy, call: Call, upstream: tuple[Echo, Address]) -> None:
    """Connections and bytes are taken and lost. Afterwards new lines work, and those that lost something are reset."""
    old = await call()
    old[1].write(b"before")
    await _says(old[0], b"before")
    proxy.faults.black_hole = True
    new = await call()
    for reader, writer in (old, new):
        writer.write(b"lost")
        await _silent(reader)
    assert bytes(upstream[0].got) == b"before"
    await _until(lambda: proxy.lines[0].holed)
    await proxy.heal()
    await _reset(old[0])
    third = await call()
    third[1].write(b"again")
    await _says(third[0], b"again")


async def test_refuse(proxy: Proxy, call: Call) -> None:
    """New connections are refused, open ones go on; then they are taken again at the same port."""
    reader, writer = await call()
    writer.write(b"a")
    await _says(reader, b"a")
    proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        await call()
    writer.write(b"hello")
    await _says(reader, b"hello")
    await proxy.open()
    other = await call()
    other[1].write(b"back")
    await _says(other[0], b"back")


async def test_nobody_behind(
    call: Call, proxy: Proxy, upstream: tuple[Echo, Address], monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the server cannot be reached, the connection is reset."""
    monkeypatch.setattr(proxy, "_upstream", Path("/nowhere"))
    reader, _ = await call()
    await _reset(reader)


async def test_reset_lines(proxy: Proxy, call: Call, upstream: tuple[Echo, Address]) -> None:
    """Both ends notice it at once, by RST where there is such a thing."""
    lines = [await call() for _ in range(3)]
    for reader, writer in lines:
        writer.write(b"a")
        await _says(reader, b"a")
    assert proxy.reset_lines() == 3
    for reader, _ in lines:
        await _reset(reader)
    await _until(lambda: upstream[0].ended == 3)


async def test_half_close(proxy: Proxy, call: Call) -> None:
    """One direction ends, and the other still carries what comes."""
    reader, writer = await call()
    writer.write(b"a")
    await _says(reader, b"a")
    proxy.lines[0].half_close("down")
    assert await asyncio.wait_for(reader.read(), PATIENCE) == b""
    writer.write(b"still")
    await _until(lambda: proxy.lines[0].passed["up"] == 6)


@pytest.mark.parametrize("after", [0, 1, 5])
async def test_cut_after_bytes(proxy: Proxy, call: Call, upstream: tuple[Echo, Address], after: int) -> None:
    """So many bytes get through and not one more."""
    proxy.faults.cut = ("up", after)
    reader, writer = await call()
    writer.write(b"hello!")
    await _reset(reader)
    await _until(lambda: upstream[0].ended == 1)
    assert bytes(upstream[0].got) == b"hello!"[:after]


@pytest.mark.parametrize("through", [False, True])
async def test_on_a_pattern(proxy: Proxy, call: Call, upstream: tuple[Echo, Address], through: bool) -> None:
    """At a pattern, though it comes in two pieces, something is done: once the bytes have passed, or in their place."""
    done: list[Line] = []
    trigger = proxy.on("up", b"COMMIT", done.append, through=through)
    reader, writer = await call()
    writer.write(b"one COM")
    await _says(reader, b"one COM")
    writer.write(b"MIT two")
    await asyncio.wait_for(trigger.fired.wait(), PATIENCE)
    await _until(lambda: bool(done))
    if through:
        await _says(reader, b"MIT two")
        writer.write(b"COMMIT")
        await _says(reader, b"COMMIT")
    else:
        await _reset(reader)
        assert bytes(upstream[0].got) == b"one COM"
    assert len(done) == 1


async def test_a_reply_that_is_lost(proxy: Proxy, call: Call, upstream: tuple[Echo, Address]) -> None:
    """The request arrives and is answered, and the answer does not come; other lines notice nothing."""
    reader, writer = await call()
    other = await call()
    proxy.drop_reply(b"PUBLISH")
    writer.write(b"PUBLISH")
    await _until(lambda: bytes(upstream[0].got) == b"PUBLISH")
    await _silent(reader)
    other[1].write(b"PUBLISH")
    await _says(other[0], b"PUBLISH")
    await proxy.heal()
    await _reset(reader)


# --- publishes -------------------------------------------------------------------------------


def _lose(share: float, data: bytes, piece: int) -> tuple[bytes, LosePublishes]:
    losing = LosePublishes(random.Random(7), share)
    line = losing.line()
    return b"".join(line.feed(data[at : at + piece]) for at in range(0, len(data), piece)), losing


@pytest.mark.parametrize("piece", [1, 7, 10_000])
def test_publishes_are_lost_whole(piece: int) -> None:
    """A lost publish goes to a channel that nobody hears; other commands, and bytes that look like one, stay."""
    words = [[b"PUBLISH", b"room:1", b"*3\r\n$7\r\nPUBLISH\r\n"], [b"GET", b"PUBLISH"], [b"spublish", b"r{1}", b""]]
    data = b"".join(map(command, words))
    kept, _ = _lose(0.0, data, piece)
    assert kept == data
    lost, losing = _lose(1.0, data, piece)
    assert list(CommandReader().feed(lost)) == [
        [b"PUBLISH", b"lost:{room:1}", b"*3\r\n$7\r\nPUBLISH\r\n"],
        [b"GET", b"PUBLISH"],
        [b"spublish", b"lost:r{1}", b""],
    ]
    assert (losing.seen, losing.lost) == (2, 2)


def test_a_share_of_the_publishes() -> None:
    """About so many of them, the same ones each time."""
    data = command([b"PUBLISH", b"a", b"b"]) * 1000
    first, losing = _lose(0.1, data, 10_000)
    assert 60 < losing.lost < 140
    assert _lose(0.1, data, 999)[0] == first


def test_what_is_no_command() -> None:
    """A stream that is not RESP is told, not passed on unseen."""
    with pytest.raises(ValueError, match="no command"):
        list(CommandReader().feed(b"PING\r\n"))


# --- addresses and the balancer ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "address", "moved"),
    [
        (
            "postgresql://parley@/db?host=%2Ftmp%2Fx&port=5433",
            Path("/tmp/x/.s.PGSQL.5433"),
            "postgresql://parley@127.0.0.1:9/db",
        ),
        ("postgresql://a:b@db/x?sslmode=disable", Tcp("db", 5432), "postgresql://a:b@127.0.0.1:9/x?sslmode=disable"),
        ("redis://:secret@10.0.0.1/0", Tcp("10.0.0.1", 6379), "redis://:secret@127.0.0.1:9/0"),
        ("ws://127.0.0.1:8000/ws", Tcp("127.0.0.1", 8000), "ws://127.0.0.1:9/ws"),
    ],
)
def test_urls(url: str, address: Address, moved: str) -> None:
    """A URL says where its server is, and leads through a proxy by another host and port alone."""
    assert server_of(url) == address
    assert through(url, Tcp("127.0.0.1", 9)) == moved


def test_a_url_without_a_host() -> None:
    """It cannot be stood in front of."""
    with pytest.raises(ValueError, match="host"):
        server_of("postgresql:///parley")


class Node:
    """Answers /health/ready with a status, and says its name to anyone else."""

    def __init__(self, name: bytes) -> None:
        self._name = name
        self.status = b"200 OK"

    async def open(self) -> None:
        """Listens."""
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.address = Tcp("127.0.0.1", self.server.sockets[0].getsockname()[1])

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        said = await reader.readline()
        writer.write(b"HTTP/1.1 " + self.status + b"\r\n\r\n" if said.startswith(b"GET /health") else self._name)
        writer.close()


async def test_balancer() -> None:
    """Connections go round the nodes that are ready; one that is not ready, or gone, gets none."""
    nodes = [Node(b"a"), Node(b"b"), Node(b"c")]
    for node in nodes:
        await node.open()
    async with asyncio.timeout(60), Balancer([node.address for node in nodes]) as balancer:

        async def ask() -> bytes:
            reader, writer = await dial(balancer.address, 1024)
            writer.write(b"who\n")
            try:
                return await reader.read()
            finally:
                writer.close()

        assert sorted([await ask() for _ in range(6)]) == [b"a", b"a", b"b", b"b", b"c", b"c"]
        nodes[0].status = b"503 Service Unavailable"
        await _until(lambda: len(balancer.ready) == 2)
        nodes[1].server.close()
        assert [await ask() for _ in range(4)] == [b"c"] * 4
        nodes[0].status = b"200 OK"
        await _until(lambda: nodes[0].address in balancer.ready)
        assert {await ask() for _ in range(2)} == {b"a", b"c"}
    for node in nodes:
        node.server.close()
