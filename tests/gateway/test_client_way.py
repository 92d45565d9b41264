"""How a client finds the server's key, whatever answers in its place."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path

import msgspec
import pytest

from crypto.noise import PrivateKey
from gateway import client_way
from gateway.client_address import parse_address
from gateway.client_lines import ABNORMAL, HandshakeFailed, LineClosed
from gateway.client_way import Way
from gateway.config import Config
from gateway.envelope import NoiseBroken
from gateway.welcome import server_info
from protocol.codec import JSON
from tests.gateway.client_sealed import SERVER, listening, shake_hands


def answer(key: bytes = SERVER.public) -> bytes:
    """What a server says of itself, by HTTP."""
    info = server_info(Config(data=Path("data")), key, 9, ())
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n" + msgspec.json.encode(info)


class Found:
    """Answers whoever asks for the key, and keeps the requests."""

    def __init__(self, said: bytes) -> None:
        self.said = said
        self.heard: list[bytes] = []

    async def serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request."""
        self.heard.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(self.said)
        await writer.drain()


class Sealed:
    """A TCP port under Noise."""

    def __init__(self) -> None:
        self.key = SERVER

    async def serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One handshake."""
        try:
            await shake_hands(reader, writer, self.key)
        except NoiseBroken:
            writer.transport.abort()
            return
        await reader.read()


def way_to(port: int, found_at: int) -> Way:
    """The way to a server whose key is not pinned."""
    return Way(parse_address(f"parley://127.0.0.1:{port}?discover=http://127.0.0.1:{found_at}"), JSON, None, None)


async def opens(way: Way) -> None:
    """A line can be had."""
    async with asyncio.timeout(30):
        (await way.open()).abort()


async def refusal(way: Way) -> LineClosed:
    """Why no line can be had."""
    with pytest.raises(LineClosed) as closed:
        await opens(way)
    assert closed.value.code == ABNORMAL
    return closed.value


async def test_one_plain_request() -> None:
    """The key is asked for once, in HTTP/1.0, at the well-known path."""
    found, sealed = Found(answer()), Sealed()
    async with listening(found.serve_one) as at, listening(sealed.serve_one) as port:
        way = way_to(port, at)
        await opens(way)
        await opens(way)
        assert found.heard == [f"GET /.well-known/parley HTTP/1.0\r\nHost: 127.0.0.1:{at}\r\n\r\n".encode()]


async def test_a_key_is_kept_until_a_handshake_fails_with_it() -> None:
    """A server that is away has the same key when it comes back; one that cuts the handshake may have a new one."""
    found, sealed = Found(answer()), Sealed()
    async with listening(found.serve_one) as at:
        async with listening(sealed.serve_one) as port:
            way = way_to(port, at)
            await opens(way)
            sealed.key = PrivateKey.new()
            found.said = answer(sealed.key.public)
            assert isinstance(await refusal(way), HandshakeFailed)
            await opens(way)
        assert not isinstance(await refusal(way), HandshakeFailed)
        await refusal(way)
        assert len(found.heard) == 2


async def test_a_dripping_answer_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """One byte at a time does not hold a client: the whole request has so much time, and leaves nothing behind."""
    monkeypatch.setattr(client_way, "OPEN_TIMEOUT", 0.3)
    gone = asyncio.Event()

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            for byte in itertools.cycle(answer()):
                writer.write(bytes((byte,)))
                await writer.drain()
                await asyncio.sleep(0.01)
        finally:
            gone.set()

    async with listening(drip) as at:
        assert "TimeoutError" in (await refusal(way_to(9, at))).reason
        async with asyncio.timeout(30):
            await gone.wait()


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        (b"HTTP/1.1 302 Found\r\nLocation: {at}\r\n\r\n", "302"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + bytes(1 << 20), "more than"),
        (b"HTTP/1.1 200 OK\r\n", "truncated"),
        (b"HTTP/1.1 2000 OK\r\n\r\n{}", "2000"),
        (b"\xff" * 100, "it answers"),
        (b"", "it answers"),
        (b"HTTP/1.0 200 OK\r\n\r\n[1]", "object"),
        (answer()[:-9], "truncated"),
        (answer(b""), "not a key"),
        (answer(bytes(31)), "not a key"),
    ],
    ids=["redirect", "flood", "head", "status", "garbage", "nothing", "list", "cut", "no key", "short key"],
)
async def test_what_is_no_key(said: bytes, complaint: str) -> None:
    """A redirect, a flood, or anything else than a key is told in the log, and asked for again later."""
    elsewhere = Found(answer())
    async with listening(elsewhere.serve_one) as other:
        found = Found(said.replace(b"{at}", f"http://127.0.0.1:{other}/".encode()))
        async with listening(found.serve_one) as at:
            way = way_to(9, at)
            assert complaint in (await refusal(way)).reason
            await refusal(way)
            assert len(found.heard) == 2
    assert not elsewhere.heard
