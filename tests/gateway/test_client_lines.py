"""What a client believes of what comes outside a Noise envelope: that the line has ended, and no more."""

from __future__ import annotations

import asyncio
from http import HTTPStatus

import pytest
from websockets.asyncio.server import ServerConnection

from gateway.client import ClientClosed, connect
from gateway.client_address import parse_address
from gateway.client_lines import ABNORMAL, MAX_FRAME, HandshakeFailed, LineClosed, open_line
from gateway.envelope import Envelope
from gateway.tcp import framed_wires
from protocol.codec import JSON
from protocol.errors import CloseCode
from protocol.events import Closing
from tests.gateway.client_sealed import KEY, listening, sealed_websocket, shake_hands
from tests.gateway.client_served import Served


async def closed_by(url: str) -> LineClosed:
    """How a line ends that the server ends at once, or does not let begin."""
    with pytest.raises(LineClosed) as closed:
        async with asyncio.timeout(30):
            line = await open_line(parse_address(url), JSON)
            try:
                await line.receive()
            finally:
                line.abort()
    return closed.value


@pytest.mark.parametrize(
    ("sealed", "code"), [(False, ABNORMAL), (True, CloseCode.bad_frame)], ids=["outside", "inside"]
)
async def test_a_length_that_is_too_large(sealed: bool, code: int) -> None:
    """Outside the envelope anyone may have written it, and the client comes back; inside it was the server."""
    length = (MAX_FRAME + 1).to_bytes(4, "big")

    async def serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        envelope = await shake_hands(reader, writer)
        writer.write(envelope.seal(length) if sealed else length)
        await reader.read()

    async with listening(serve_one) as port:
        assert (await closed_by(f"parley://127.0.0.1:{port}?key={KEY}")).code == code


async def test_a_close_frame_is_not_the_servers_word() -> None:
    """Under Noise a WebSocket's close frame ends the connection, and never the client."""

    async def then(socket: ServerConnection, envelope: Envelope) -> None:
        await socket.close(CloseCode.auth_failed, "says who")

    async with sealed_websocket(then) as url:
        closed = await closed_by(url)
    assert (closed.code, closed.reason) == (ABNORMAL, "says who")


async def test_a_message_that_is_too_large() -> None:
    """More than a Noise message may have is not taken in; the client comes back."""

    told: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()

    async def then(socket: ServerConnection, envelope: Envelope) -> None:
        await socket.send(bytes(70_000))
        await socket.wait_closed()
        told.set_result(socket.close_code)

    async with sealed_websocket(then) as url, asyncio.timeout(30):
        assert (await closed_by(url)).code == ABNORMAL
        assert await told == 1009


async def test_the_closing_event_is_the_servers_word() -> None:
    """What is said inside the envelope ends the client, also if a close frame says something else."""
    chunk = framed_wires()["json"].chunk("closing", Closing(code=CloseCode.auth_failed, reason="signed out"))

    async def then(socket: ServerConnection, envelope: Envelope) -> None:
        await socket.send(envelope.seal(chunk.data))
        await socket.close(CloseCode.draining)

    async with sealed_websocket(then) as url:
        with pytest.raises(ClientClosed) as closed:
            async with asyncio.timeout(30), connect(url, "token"):
                pass
    assert (closed.value.code, closed.value.reason) == (CloseCode.auth_failed, "signed out")


@pytest.mark.parametrize("key", ["", f"?key={KEY}"], ids=["clear", "noise"])
async def test_an_upgrade_that_is_refused(key: str) -> None:
    """HTTP is outside the envelope, too: a refusal ends a client only where there is none."""
    served = Served()
    await served.start([])
    try:
        without = await closed_by(f"{served.url}/ws{key}")
        served.status = HTTPStatus.FORBIDDEN
        forbidden = await closed_by(f"{served.url}/ws{key}")
    finally:
        await served.stop()
    assert [without.code, forbidden.code] == ([ABNORMAL] * 2 if key else [CloseCode.bad_version, CloseCode.forbidden])


async def test_a_handshake_that_is_cut() -> None:
    """A server with another key says nothing and cuts; the client takes that for what it is."""

    async def serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.transport.abort()

    async with listening(serve_one) as port:
        closed = await closed_by(f"parley://127.0.0.1:{port}?key={KEY}")
    assert isinstance(closed, HandshakeFailed)
    assert closed.code == ABNORMAL
