"""What clamd is asked, and what its answers mean."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path

import pytest

from gateway.files.clamd import Clamd, ClamdAddress, ClamdAway, Verdict, parse_address
from tests.clamd import EICAR, FakeClamd, Mode, running_clamd
from tests.ports import free_port


async def stream(*pieces: bytes) -> AsyncIterator[bytes]:
    """These pieces."""
    for piece in pieces:
        yield piece


def at(port: int, patience: float = 60) -> Clamd:
    """A client of the one that listens there."""
    return Clamd(ClamdAddress(None, "127.0.0.1", port), patience)


@pytest.mark.parametrize(
    ("pieces", "verdict"),
    [
        ((b"harmless",), "clean"),
        ((), "clean"),
        ((EICAR,), "infected"),
        ((b"x" * 1_000_000, EICAR[:30], EICAR[30:], b"y" * 1_000_000), "infected"),
        ((b"x" * 1_000_000,) * 26, "clean"),
        ((b"x" * 1_000_000,) * 27, "too_large"),
        ((b"x" * 1_000_000,) * 60, "too_large"),
    ],
    ids=["clean", "empty", "virus", "across-chunks", "largest", "too-large", "much-too-large"],
)
async def test_verdicts(pieces: tuple[bytes, ...], verdict: Verdict) -> None:
    """A stream arrives as it is, and the answer is understood, also when it comes before the end."""
    async with running_clamd() as (clamd, port):
        clamd.limit = 26_000_000
        assert await at(port).scan(stream(*pieces)) == verdict
        if verdict != "too_large":
            assert clamd.seen == [sha256(b"".join(pieces)).digest()]


async def test_what_has_no_end() -> None:
    """Nothing more is sent once the answer is there."""

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield bytes(100_000)

    async with running_clamd() as (clamd, port):
        clamd.limit = 1_000_000
        async with asyncio.timeout(60):
            assert await at(port).scan(endless()) == "too_large"


@pytest.mark.parametrize("mode", ["cut", "nonsense"])
async def test_no_verdict(mode: Mode) -> None:
    """A connection that breaks and an error of clamd's own are no verdict."""
    async with running_clamd() as (clamd, port):
        clamd.mode = mode
        with pytest.raises(ClamdAway):
            await at(port).scan(stream(*[b"x" * 1_000_000] * 5))


async def test_silence() -> None:
    """Who does not answer is left after a while."""
    async with running_clamd() as (clamd, port):
        clamd.gate.clear()
        with pytest.raises(ClamdAway, match="TimeoutError"):
            await at(port, patience=0.3).scan(stream(b"x"))


async def test_nobody_there() -> None:
    """A port that nobody listens on, and a socket that is not there."""
    for clamd in (at(free_port()), Clamd(ClamdAddress("/nowhere/clamd.sock", "", 0))):
        with pytest.raises(ClamdAway, match="cannot be reached"):
            await clamd.scan(stream(b"x"))


async def test_by_a_socket_in_the_file_system(tmp_path: Path) -> None:
    """clamd may listen on a path."""
    path = tmp_path / "clamd.sock"
    clamd = FakeClamd()
    server = await asyncio.start_unix_server(clamd.serve, path)
    assert await Clamd(parse_address(f"unix:{path}")).scan(stream(EICAR)) == "infected"
    server.close()
    await clamd.end()


async def test_a_stream_that_breaks() -> None:
    """Its error is the caller's, and nothing is said of it."""

    async def broken() -> AsyncIterator[bytes]:
        yield b"x"
        raise LookupError

    async with running_clamd() as (clamd, port):
        with pytest.raises(LookupError):
            await at(port).scan(broken())
        assert clamd.seen == []


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:3310", ClamdAddress(None, "127.0.0.1", 3310)),
        ("[::1]:3310", ClamdAddress(None, "::1", 3310)),
        ("clamav:3310", ClamdAddress(None, "clamav", 3310)),
        ("unix:/run/clamd.sock", ClamdAddress("/run/clamd.sock", "", 0)),
    ],
)
def test_addresses(text: str, address: ClamdAddress) -> None:
    """A host with a port, or a path."""
    assert parse_address(text) == address


@pytest.mark.parametrize(
    "text", ["clamav", "clamav:", ":3310", "clamav:0", "clamav:99999", "unix:clamd.sock", "tcp://a"]
)
def test_bad_addresses(text: str) -> None:
    """Anything else is refused."""
    with pytest.raises(ValueError, match=r".*"):
        parse_address(text)
