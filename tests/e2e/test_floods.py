"""Floods: what one client sends at once costs itself a connection, and the others nothing."""

from __future__ import annotations

import asyncio
import re
import time

import pytest
from websockets.frames import Opcode

from protocol.framing import Preface, frame
from tests.e2e.conftest import StartServer
from tests.e2e.raw import frame as ws_frame
from tests.e2e.raw import head, raw_socket, text
from tests.e2e.server import Server
from tests.e2e.test_tcp import CLEAR, TcpSocket, signed_in, tcp_socket

EARLY = 64
"""Frames that may come before a session is open."""


@pytest.fixture(scope="module")
def small() -> dict[str, str]:
    """Limits as they are for users, and a small frame."""
    return {"PARLEY_LIMIT_COMMANDS": "120", "PARLEY_LIMIT_BURST": "30", "PARLEY_LIMIT_FRAME": "1000"}


@pytest.fixture
async def server(start_server: StartServer, small: dict[str, str]) -> Server:
    """A server with these."""
    return await start_server(**small)


async def closes(server: Server, reason: str) -> float:
    """How many connections the server has closed for a reason."""
    async with tcp_socket(server, b""):
        pass
    _, writer = reader_writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"GET /metrics HTTP/1.0\r\n\r\n")
    body = (await reader_writer[0].read()).decode()
    writer.close()
    found = re.search(rf'parley_closes_total{{reason="{reason}"}} (\S+)', body)
    return float(found.group(1)) if found else 0.0


async def until_closed(socket: TcpSocket) -> tuple[int, int]:
    """How many answers came, and the code of the close."""
    answers = 0
    while (event := await socket.event())["event"] != "closing":
        answers += event["event"] in ("error", "pong")
    return answers, event["data"]["code"]


async def test_strangers_say_little(server: Server) -> None:
    """A quarter of a million bytes of tiny frames before a session is open: few are answered, then the line ends."""
    async with tcp_socket(server, CLEAR + bytes(262_144)) as socket:
        answers, code = await until_closed(socket)
        assert (answers <= EARLY, code) == (True, 4102)
        assert await socket.rest() == b""
    async with raw_socket(server, head()) as raw:
        raw.send(ws_frame(Opcode.TEXT, b"{") * 30_000)
        assert await raw.close_code() == 4102
    async with tcp_socket(server, bytes(Preface(noise=True)) + frame(bytes(48)) * 5_000) as socket:
        assert await socket.rest() == b""


async def test_pings_have_an_end(server: Server) -> None:
    """A client may ping far more often than it needs; one that does nothing else is closed."""
    ann = await server.person()
    async with tcp_socket(server, CLEAR) as socket:
        await signed_in(socket, ann)
        socket.writer.write(frame(b'{"event":"ping"}') * 5_000)
        answers, code = await until_closed(socket)
        assert (400 <= answers < 1_500, code) == (True, 4102)


async def test_tokens_cannot_be_tried_for_ever(server: Server) -> None:
    """On a live session `authenticate` falls under the rate of commands, since each try costs a look-up."""
    ann = await server.person()
    async with tcp_socket(server, CLEAR) as socket:
        await signed_in(socket, ann)
        for _ in range(400):
            socket.send("authenticate", {"token": "ply_none"})
        codes = []
        while (event := await socket.event())["event"] == "error":
            codes.append(event["data"]["code"])
        assert event["data"]["code"] == 4102
        assert set(codes) == {"AUTH_TOKEN_INVALID", "RATE_LIMIT_EXCEEDED"}
        assert codes.count("AUTH_TOKEN_INVALID") < 60


async def test_a_broken_handshake_ends_the_websocket(server: Server) -> None:
    """What comes behind it is not looked at: a thousand handshakes in one write are one."""
    upgrade = head(Sec_WebSocket_Protocol="parley.v1.noise")
    preface = ws_frame(Opcode.BINARY, bytes(Preface(noise=True)))
    before = await closes(server, "broken_envelope")
    async with raw_socket(server) as raw:
        raw.send(upgrade)
        assert (await raw.response())[0] == 101
        raw.send(preface + ws_frame(Opcode.BINARY, bytes(48)) * 1_000)
        assert await raw.ended() == b""
    async with raw_socket(server) as raw:
        raw.send(upgrade)
        assert (await raw.response())[0] == 101
        raw.send(ws_frame(Opcode.BINARY, b"PLY1\x00") + preface + ws_frame(Opcode.TEXT, b"text is no Noise"))
        assert await raw.ended() == b""
    assert await closes(server, "broken_envelope") == before + 2


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("Origin: http://[\r\n", ""),
        ("Origin: http://elsewhere\r\n", "Host: other\r\n"),
        ("Authorization: Bearer a\r\n", "Authorization: Bearer b\r\n"),
    ],
)
async def test_headers_that_make_no_sense(common_server: Server, first: str, second: str) -> None:
    """They are refused, or come to nothing; the log stays clean."""
    async with raw_socket(common_server) as raw:
        raw.send(head()[:-2] + (first + second).encode() + b"\r\n")
        status, _ = await raw.response()
        assert status in (101, 400, 403)
    assert "Fatal error" not in common_server.logs()


@pytest.mark.parametrize("cut", [1, 2, 3, 9])
async def test_no_way_around_the_limit_of_a_frame(server: Server, cut: int) -> None:
    """A frame that begins right behind the upgrade has the same limit as any other."""
    async with raw_socket(server) as raw:
        large = text("ping", {}, filler="x" * 30_000)
        raw.send(head() + large[:cut])
        assert (await raw.response())[0] == 101
        assert (await raw.event())["event"] == "hello"
        raw.send(large[cut:])
        assert await raw.close_code() == 1009


async def test_there_is_time_to_read_the_close(start_server: StartServer) -> None:
    """A close just before another deadline leaves the client its three seconds, not what is left of that one."""
    server = await start_server(PARLEY_AUTH_DEADLINE="1")
    async with raw_socket(server, head()) as raw:
        await asyncio.sleep(0.5)
        raw.send(ws_frame(Opcode.TEXT, b"{") * (EARLY + 1))
        assert await raw.close_code() == 4102
        closed = time.monotonic()
        await raw.ended()
        assert time.monotonic() - closed > 2


async def test_frames_behind_the_token_are_taken(server: Server) -> None:
    """Who sends a few commands right behind `authenticate` need not wait for `ready`."""
    ann = await server.person()
    room = await server.chatroom(ann)
    async with tcp_socket(server, CLEAR) as socket:
        socket.send("authenticate", {"token": ann.token})
        for n in range(20):
            socket.send("send_message", {"chatroom_id": str(room), "content": f"{n}"})
        acked = [(await socket.until("ack"))["message"]["content"] for _ in range(20)]
    assert acked == [f"{n}" for n in range(20)]
