"""Floods, dribbles and silence: each has a bound, and whoever keeps within theirs is served meanwhile."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack, suppress

import asyncpg
import pytest

from gateway.client import connect
from tests.e2e.conftest import StartServer
from tests.e2e.lines import LOST, TRANSPORTS, Ended
from tests.e2e.raw import RawSocket, head, raw_socket, text
from tests.e2e.server import PASSWORD, Server
from tests.e2e.socket_client import SocketClient, on_all_transports, socket_client

SILENT = 500


async def opened(client: SocketClient, token: str) -> str:
    """What a connection with a token comes to: `ready`, or an error's code."""
    await client.until("hello")
    await client.send("authenticate", {"token": token})
    frame = await client.recv()
    return "ready" if frame["event"] == "ready" else str(frame["data"]["code"])


async def test_connections_of_a_user(start_server: StartServer) -> None:
    """A user has six, over any transports; one more is refused for good, until one closes; others are not concerned."""
    server = await start_server(PARLEY_LIMIT_CONNECTIONS="6")
    ann, bob = await server.people(2)
    async with AsyncExitStack() as stack:
        six = [await stack.enter_async_context(socket_client(server, transport)) for transport in TRANSPORTS]
        assert [await opened(client, ann.token) for client in six] == ["ready"] * 6
        for place, transport in enumerate(TRANSPORTS):
            async with socket_client(server, transport) as another:
                assert await opened(another, ann.token) == "CONNECTION_LIMIT_EXCEEDED"
                assert await another.closed() == (4004, "CONNECTION_LIMIT_EXCEEDED")
            async with socket_client(server, transport) as other:
                assert await opened(other, bob.token) == "ready"
            await six[place].goodbye()
            again = await stack.enter_async_context(socket_client(server, transport))
            assert await opened(again, ann.token) == "ready"


async def test_connections_at_once(start_server: StartServer) -> None:
    """Of many that open in the same moment, over all transports, five get in."""
    server = await start_server(PARLEY_LIMIT_CONNECTIONS="5")
    ann = await server.person()
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(socket_client(server, transport)) for transport in TRANSPORTS * 4]
        outcomes = await asyncio.gather(*(opened(client, ann.token) for client in clients))
    assert sorted(outcomes) == ["CONNECTION_LIMIT_EXCEEDED"] * 19 + ["ready"] * 5


async def test_commands_of_a_session(start_server: StartServer) -> None:
    """Above the burst a command is refused with the time to wait, and works after it; a flood ends the connection."""
    await on_all_transports(await start_server(PARLEY_LIMIT_COMMANDS="120", PARLEY_LIMIT_BURST="5"), _flood)


async def _flood(server: Server) -> None:
    ann = await server.person()
    room = await server.chatroom(ann)
    async with socket_client(server) as client, socket_client(server) as other:
        await client.authenticate(ann.token)
        await other.authenticate(ann.token)
        for n in range(8):
            await client.send("send_message", {"chatroom_id": room, "content": str(n)}, id=str(n))
        answers = [await client.recv() for _ in range(8 + 5)]
        refused = {frame["id"]: frame["data"] for frame in answers if frame["event"] == "error"}
        assert refused.keys() == {"5", "6", "7"}
        assert {data["code"] for data in refused.values()} == {"RATE_LIMIT_EXCEEDED"}
        wait = refused["7"]["retry_after"]
        assert 0 < wait <= 0.5
        await asyncio.sleep(wait)
        assert (await client.say(room, "later"))["event"] == "ack"
        with suppress(Ended):
            for _ in range(200):
                await client.send("typing_start", {"chatroom_id": room})
        assert (await client.closed())[0] == 4102
        assert (await other.ask("ping"))["event"] == "pong"
        assert (await other.say(room, "mine"))["event"] == "ack"


async def test_broken_frames_count_as_commands(start_server: StartServer) -> None:
    """A flood of frames that are no commands ends the connection too."""
    server = await start_server(PARLEY_LIMIT_COMMANDS="1", PARLEY_LIMIT_BURST="2")
    ann = await server.person()
    for transport in TRANSPORTS:
        async with socket_client(server, transport) as client:
            await client.authenticate(ann.token)
            with suppress(Ended):
                for _ in range(100):
                    await client.line.send(b"{")
            assert (await client.closed())[0] == 4102
    assert "Traceback" not in server.logs()


async def test_strangers_of_an_address(start_server: StartServer) -> None:
    """An address has so many sockets that have not said who they are; HTTP and those who sign in are not counted."""
    server = await start_server(PARLEY_LIMIT_UNAUTHENTICATED="3")
    ann = await server.person()
    async with AsyncExitStack() as stack:
        three = [await stack.enter_async_context(raw_socket(server, head())) for _ in range(3)]
        assert await upgrade(server) == 429
        assert not await greeted(server)
        assert (await server.call("GET", "/users/me", ann.token))[0] == 200
        assert (await three[0].ask(text("authenticate", {"token": ann.token})))["event"] == "ready"
        assert await upgrade(server) == 101
        await until_upgraded(server)
        three[1].writer.transport.abort()
        await until_upgraded(server)
        three[2].send(text("authenticate", {"token": "wrong"}))
        await three[2].close_code()
        await until_upgraded(server)
    async with asyncio.timeout(5):
        while not await greeted(server):
            await asyncio.sleep(0.02)
    async with AsyncExitStack() as stack:
        for transport in ("tcp-json", "tcp-noise", "ws-noise"):
            await stack.enter_async_context(socket_client(server, transport))
        assert await upgrade(server) == 429
        assert not await greeted(server)
    await until_upgraded(server)


async def greeted(server: Server) -> bool:
    """Whether a stranger over TCP has a `hello`; one too many is cut without a word."""
    try:
        async with socket_client(server, "tcp-json") as client:
            await client.until("hello")
    except Ended as end:
        return end.code != LOST
    return True


async def upgrade(server: Server) -> int:
    """The status of an upgrade whose socket is closed at once."""
    async with raw_socket(server) as raw:
        raw.send(head())
        return (await raw.response())[0]


async def until_upgraded(server: Server) -> None:
    """There is a place for a stranger, soon."""
    async with asyncio.timeout(5):
        while await upgrade(server) != 101:
            await asyncio.sleep(0.02)


@pytest.mark.alone
async def test_five_hundred_who_say_nothing(start_server: StartServer) -> None:
    """Silent connections are cut at their deadline, and while they are there a login takes under a second."""
    server = await start_server(PARLEY_AUTH_DEADLINE="3", PARLEY_HTTP_HEADER_DEADLINE="3")
    ann = await server.person()
    async with AsyncExitStack() as stack:
        started = time.monotonic()
        sockets = [await stack.enter_async_context(raw_socket(server, head())) for _ in range(SILENT // 2)]
        silent = [await stack.enter_async_context(raw_socket(server)) for _ in range(SILENT // 2)]
        took = time.monotonic()
        body = {"username": ann.username, "password": PASSWORD}
        assert (await server.call("POST", "/auth/login", body=body))[0] == 200
        assert time.monotonic() - took < 1
        codes = await asyncio.gather(*(raw.close_code() for raw in sockets))
        assert set(codes) == {4204}
        assert await asyncio.gather(*(raw.ended() for raw in silent)) == [b""] * len(silent)
        assert time.monotonic() - started > 2.9
    assert (await server.call("GET", "/users/me", ann.token))[0] == 200


async def dribble(raw: RawSocket, data: bytes, every: float) -> float:
    """Sends a byte at a time until the server has had enough; the seconds it had patience for."""
    started = time.monotonic()
    ended = asyncio.create_task(raw.ended(30))
    for byte in data:
        if ended.done():
            break
        raw.send(bytes([byte]))
        await asyncio.sleep(every)
    await ended
    return time.monotonic() - started


async def test_more_than_can_be_let_in(start_server: StartServer) -> None:
    """Clients wait for their turn to open a session; after half of their deadline they hear when to come back."""
    server = await start_server(PARLEY_LIMIT_OPENINGS="1", PARLEY_AUTH_DEADLINE="6")
    ann = await server.person()
    await server.noise_key()  # asked for now, since each client's deadline begins when it connects
    admin = await asyncpg.connect(server.database_url)
    async with socket_client(server) as first, admin.transaction():
        await admin.execute("LOCK TABLE sign_ins IN ACCESS EXCLUSIVE MODE")
        await first.send("authenticate", {"token": ann.token})
        while not await admin.fetchval(
            "SELECT count(*) FROM pg_locks WHERE relation = 'sign_ins'::regclass AND NOT granted"
        ):
            await asyncio.sleep(0.02)
        await on_all_transports(server, lambda server: _turned_away(server, ann.token))
    await admin.close()
    async with connect(server.ws, ann.token) as client:
        assert client.user.id == ann.id
    assert "Traceback" not in server.logs()


async def _turned_away(server: Server, token: str) -> None:
    async with socket_client(server) as client:
        await client.until("hello")
        await client.send("authenticate", {"token": token}, id="a")
        refused = await client.until("error", "a", timeout=20)
        assert refused["data"]["code"] == "SERVICE_UNAVAILABLE"
        assert 0 < refused["data"]["retry_after"] < 75
        assert await client.closed() == (4100, "SERVICE_UNAVAILABLE")


async def test_half_a_request(start_server: StartServer) -> None:
    """Heads and bodies have a deadline in all: neither stopping in the middle nor a byte at a time holds a place."""
    server = await start_server(PARLEY_HTTP_HEADER_DEADLINE="1", PARLEY_HTTP_BODY_DEADLINE="1")
    post = b"POST /auth/login HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"
    live = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"
    cases = [
        (b"", b"GET /health HTTP/1.1\r\nX: " + b"y" * 1_000),
        (b"GET /health HTTP/1.1\r\nHost: x\r\n", b""),
        (b"", head()[:-2] + b"X: " + b"y" * 1_000),
        (post, b"{" * 900),
        (post, b""),
        (live, b"GET /again HTTP/1.1\r\nX: " + b"y" * 1_000),
    ]

    async def patience(first: bytes, rest: bytes) -> float:
        async with raw_socket(server) as raw:
            raw.send(first)
            return await dribble(raw, rest, 0.1)

    took = await asyncio.gather(*(patience(first, rest) for first, rest in cases))
    assert all(0.9 < seconds < 6 for seconds in took), took
    assert (await server.call("GET", "/health/live"))[0] == 200
    assert "Traceback" not in server.logs()


async def test_a_head_without_end(start_server: StartServer) -> None:
    """A head above 16 KiB is refused at once, whatever it is for."""
    server = await start_server()
    for start in (b"GET /ws HTTP/1.1\r\nX: ", b"POST / HTTP/1.1\r\nX: ", b"\0"):
        async with raw_socket(server) as raw:
            raw.send(start + b"x" * 20_000)
            assert b" 431 " in (await raw.ended()).split(b"\r\n")[0]
