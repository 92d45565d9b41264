"""Bytes go past the transport, and all the same in order, and never to somebody else's socket."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Callable, Coroutine

import pytest
import uvloop

from gateway.sink import Sink

Loops = Callable[[], asyncio.AbstractEventLoop]
LOOPS: list[Loops] = [uvloop.new_event_loop, asyncio.new_event_loop]
SECONDS = 30.0


class Way(Sink):
    """A socket's way out, and nothing else of it."""

    def __init__(self, made: asyncio.Queue[Way]) -> None:
        super().__init__()
        self._made = made
        self.lost = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """May be written to."""
        super().connection_made(transport)
        self._live = True
        self._made.put_nowait(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tells."""
        super().connection_lost(exc)
        self.lost.set()

    @property
    def held(self) -> int:
        """Bytes that the transport holds."""
        return self._transport.get_write_buffer_size()

    @property
    def descriptor(self) -> int:
        """The socket's."""
        found: int = self._transport.get_extra_info("socket").fileno()
        return found

    def send(self, data: bytes) -> None:
        """As a control frame goes, whether the session is live or not."""
        self._send(data)


@contextlib.asynccontextmanager
async def connected() -> AsyncIterator[tuple[Way, socket.socket]]:
    """A way out, and the socket at its other end. There is not much room in between."""
    loop = asyncio.get_running_loop()
    made: asyncio.Queue[Way] = asyncio.Queue()
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8_192)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8_192)
        client.setblocking(False)
        server = await loop.create_server(lambda: Way(made), sock=listener)
        try:
            await loop.sock_connect(client, listener.getsockname())
            async with asyncio.timeout(SECONDS):
                yield await made.get(), client
        finally:
            server.close()
            await asyncio.sleep(0)


async def in_order_when_full() -> None:
    """Bytes of all lengths, while the other end reads now and then."""
    async with connected() as (way, client):
        pieces = [bytes([number % 251]) * (1 + 997 * number % 20_000) for number in range(300)]
        expected, read, held = b"".join(pieces), bytearray(), []
        for number, piece in enumerate(pieces):
            way.write(piece)
            held.append(way.held > 0)
            if number % 3:
                with contextlib.suppress(BlockingIOError):
                    read += client.recv(20_000)  # the kernel has room, but the transport has what goes first
            if number % 50 == 49:
                while len(read) < sum(map(len, pieces[: number + 1])):
                    read += await asyncio.get_running_loop().sock_recv(client, 65_536)
        assert bytes(read) == expected
        assert set(held) == {True, False}


async def broken() -> None:
    """The client resets the connection, and nobody has noticed yet."""
    async with connected() as (way, client):
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        while not way.lost.is_set():
            way.write(b"too late")
            await asyncio.sleep(0)


async def not_to_another() -> None:
    """The client has gone, and the descriptor is another socket's."""
    async with connected() as (way, client):
        descriptor = way.descriptor
        client.close()
        await way.lost.wait()
        await asyncio.sleep(0)
        with contextlib.ExitStack() as stack:
            others: dict[int, socket.socket] = {}
            while descriptor not in others:
                one, two = (stack.enter_context(end) for end in socket.socketpair())
                others |= {one.fileno(): two, two.fileno(): one}
            way.write(b"secret")
            with contextlib.suppress(RuntimeError):  # uvloop has closed the transport, and says so
                way.send(b"secret")
            other = others[descriptor]
            other.setblocking(False)
            with pytest.raises(BlockingIOError):
                other.recv(100)


def run(loop: Loops, scene: Callable[[], Coroutine[None, None, None]]) -> None:
    """On a loop of that kind."""
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(scene())


@pytest.mark.parametrize("loop", LOOPS)
def test_bytes_keep_their_order_when_the_socket_is_full(loop: Loops) -> None:
    """What the transport still holds goes first, however much room the socket has by then."""
    run(loop, in_order_when_full)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_broken_socket_is_the_transports_to_find(loop: Loops) -> None:
    """Writing to a socket that is reset raises nothing; the connection ends as it does otherwise."""
    run(loop, broken)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_socket_that_is_gone_is_not_written_to(loop: Loops) -> None:
    """Once a connection is lost, nothing goes to its descriptor, which another socket may have by then."""
    run(loop, not_to_another)
