"""What a connection has to do to live on: give signs of life, and have a token that is good."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from datetime import datetime
from typing import Any

import asyncpg
import pytest
from websockets.frames import Opcode

from tests.e2e.conftest import StartServer
from tests.e2e.lines import TRANSPORTS, Transport
from tests.e2e.raw import frame, head, raw_socket, text
from tests.e2e.server import PASSWORD, Person, Server
from tests.e2e.socket_client import SocketClient, on_all_transports, socket_client


@pytest.fixture
async def brisk(start_server: StartServer) -> Server:
    """A server that asks for a sign of life after one second, and waits another for it."""
    return await start_server(PARLEY_HEARTBEAT_INTERVAL="1", PARLEY_HEARTBEAT_TIMEOUT="1", PARLEY_AUTH_DEADLINE="1.5")


async def test_signs_of_life(brisk: Server) -> None:
    """Silence is asked about after the interval, and ends the connection after the timeout; any traffic is life.

    A WebSocket is asked by a ping of its own, a TCP connection by a `ping` frame.
    """
    ann = await brisk.person()
    async with asyncio.TaskGroup() as group:
        group.create_task(silent(brisk, ann))
        for sign in (frame(Opcode.PONG, b""), frame(Opcode.PING, b"")):
            group.create_task(lively(brisk, ann, sign))
        for transport in TRANSPORTS:
            group.create_task(stranger(brisk.over(transport)))
            group.create_task(listening(brisk.over(transport), ann))
            for payload in (None, b"{"):
                group.create_task(talking(brisk.over(transport), ann, payload))
            if transport.startswith("tcp"):
                group.create_task(silent_over_tcp(brisk.over(transport), ann))


async def silent(server: Server, person: Person) -> None:
    """Pinged after a second, closed as `no_pong` after another."""
    async with raw_socket(server, head()) as raw:
        started = time.monotonic()  # before the server has heard anything
        raw.send(text("authenticate", {"token": person.token}))
        assert (await raw.event())["event"] == "ready"
        assert (await raw.frame())[0] == Opcode.PING
        assert 0.8 < time.monotonic() - started < 5
        assert await raw.close_code() == 4201
        assert 1.8 < time.monotonic() - started < 8
        await raw.ended()


async def silent_over_tcp(server: Server, person: Person) -> None:
    """The same; the ping is a frame of the protocol, the first one after `ready`."""
    async with socket_client(server, lively=False) as client:
        started = time.monotonic()
        await client.authenticate(person.token)
        assert client.decode(await client.line.receive()) == {"event": "ping", "data": {}}
        assert 0.8 < time.monotonic() - started < 5
        assert (await client.closed())[0] == 4201
        assert 1.8 < time.monotonic() - started < 8


async def stranger(server: Server) -> None:
    """Closed as `auth_timeout`, whatever it sends but a token."""
    started = time.monotonic()
    async with socket_client(server) as client:
        await client.send("ping")
        assert (await client.closed())[0] == 4204
        assert 1.4 < time.monotonic() - started < 8


async def lively(server: Server, person: Person, sign: bytes) -> None:
    """Lives, as long as it gives signs that only a WebSocket has."""
    async with raw_socket(server, head()) as raw:
        raw.send(text("authenticate", {"token": person.token}))
        for _ in range(7):
            await asyncio.sleep(0.5)
            raw.send(sign)
        raw.send(text("ping", id="last"))
        while (await raw.event()).get("id") != "last":
            pass


async def talking(server: Server, person: Person, payload: bytes | None) -> None:
    """Lives, as long as it sends something, pings or what is no command."""
    async with socket_client(server, lively=False) as client:
        await client.authenticate(person.token)
        for _ in range(7):
            await asyncio.sleep(0.5)
            await client.line.send(payload or client.encode({"event": "ping"}))
        await client.send("ping", id="last")
        await client.until("pong", id="last")


async def listening(server: Server, person: Person) -> None:
    """Lives, though it does nothing but answer the server's pings."""
    async with socket_client(server) as client:
        await client.authenticate(person.token)
        with pytest.raises(TimeoutError):
            await client.recv(3.5)
        assert (await client.ask("ping"))["event"] == "pong"


async def test_hearing_is_no_sign_of_life(brisk: Server) -> None:
    """What the server sends does not count: a half-open connection ends though its rooms are busy."""
    ann = await brisk.person()
    room = await brisk.chatroom(ann)
    async with raw_socket(brisk, head()) as raw, AsyncExitStack() as stack:
        raw.send(text("authenticate", {"token": ann.token}))
        closing = [asyncio.create_task(raw.close_code())]
        for transport in TRANSPORTS:
            if transport.startswith("tcp"):
                client = await stack.enter_async_context(socket_client(brisk, transport, lively=False))
                await client.authenticate(ann.token)
                closing.append(asyncio.create_task(code_of(client)))
        while not all(task.done() for task in closing):
            await brisk.data("POST", f"/chatrooms/{room}/messages", ann.token, {"content": "x"})
            await asyncio.sleep(0.2)
        assert [task.result() for task in closing] == [4201] * 4


async def code_of(client: SocketClient) -> int:
    """The code of the close that comes."""
    return (await client.closed())[0]


# --- tokens that run out ---------------------------------------------------------------------


async def refreshed(server: Server, person: Person) -> str:
    """A new access token of the same sign-in."""
    data = await server.data("POST", "/auth/refresh", body={"refresh_token": person.refresh_token})
    token: str = data["access_token"]
    return token


async def signed_in(server: Server, person: Person) -> str:
    """An access token that is as new as can be."""
    body = {"username": person.username, "password": PASSWORD}
    token: str = (await server.data("POST", "/auth/login", body=body))["access_token"]
    return token


async def test_a_token_that_runs_out(start_server: StartServer) -> None:
    """A socket is told before its token ends; with a new one it goes on, without it is closed after the grace."""
    server = await start_server(PARLEY_ACCESS_TOKEN_LIFE="4", PARLEY_TOKEN_WARNING="2", PARLEY_TOKEN_GRACE="1")
    await on_all_transports(server, _runs_out)


async def _runs_out(server: Server) -> None:
    ann, bob, eve = await server.people(3)
    room = await server.chatroom(ann, bob)
    async with socket_client(server) as renewing, socket_client(server) as lapsing:
        ready = await renewing.authenticate(await signed_in(server, ann))
        lapse = (await lapsing.authenticate(await signed_in(server, bob)))["token_expires_at"]
        warning = await renewing.until("token_expiring")
        assert warning["data"]["expires_at"] == ready["token_expires_at"]
        left = datetime.fromisoformat(ready["token_expires_at"]).timestamp() - time.time()
        assert 1 < left <= 2.1
        new = await refreshed(server, ann)
        foreign = await renewing.ask("authenticate", {"token": await refreshed(server, eve)})
        assert foreign["data"]["code"] == "AUTH_TOKEN_INVALID"
        assert (await renewing.ask("authenticate", {"token": "junk"}))["data"]["code"] == "AUTH_TOKEN_INVALID"
        renewed = await renewing.ask("authenticate", {"token": new})
        assert renewed["event"] == "authenticated"
        assert renewed["data"]["token_expires_at"] > ready["token_expires_at"]
        assert (await lapsing.closed())[0] == 4202
        assert 0.8 < time.time() - datetime.fromisoformat(lapse).timestamp() < 8
        assert (await renewing.until("token_expiring"))["data"]["expires_at"] == renewed["data"]["token_expires_at"]
        assert (await renewing.say(room, "still here"))["event"] == "ack"


# --- where a token may come from -------------------------------------------------------------


@pytest.mark.parametrize("way", ["query", "header", "lower case", "frame"])
async def test_ways_to_bring_a_token(common_server: Server, crowd: list[Person], way: str) -> None:
    """A token comes as `?token=`, as `Authorization: Bearer`, or in a frame; `ready` answers them all.

    Only the request of a WebSocket has room for the first two.
    """
    token = crowd[0].token
    url = f"{common_server.ws}?token={token}" if way == "query" else common_server.ws
    headers = {"header": f"Bearer {token}", "lower case": f"bearer {token}"}
    options: dict[str, Any] = {"additional_headers": {"Authorization": headers[way]}} if way in headers else {}
    async with socket_client(url, **options) as client:
        assert (await client.recv())["event"] == "hello"
        if way == "frame":
            await client.send("authenticate", {"token": token})
        ready = await client.recv()
    assert ready["event"] == "ready"
    assert ready["data"]["user"]["id"] == str(crowd[0].id)


async def test_what_hello_and_ready_say(common_server: Server, crowd: list[Person], transport: Transport) -> None:
    """`hello` names the limits; `ready` echoes the id, and lists each room with its seq."""
    room = await common_server.chatroom(crowd[0], name="Listed")
    async with socket_client(common_server, transport) as client:
        hello = await client.recv()
        assert hello["data"] == {
            "server": "parley",
            "heartbeat_interval": 25.0,
            "auth_deadline": 10.0,
            "max_frame_bytes": 65_536,
            "resume_window": 120.0,
        }
        await client.send("authenticate", {"token": crowd[0].token}, id="a1")
        ready = await client.recv()
    assert (ready["event"], ready["id"]) == ("ready", "a1")
    state = next(state for state in ready["data"]["chatrooms"] if state["id"] == str(room))
    assert state == {
        "id": str(room),
        "kind": "group",
        "name": "Listed",
        "role": "owner",
        "seq": 1,
        "last_read_seq": 1,
        "avatar_url": None,
    }


# --- accounts that end -----------------------------------------------------------------------


async def test_sign_out(common_server: Server, transport: Transport) -> None:
    """Signing out closes that sign-in's sockets within two seconds, and no other's; its token opens nothing."""
    ann = await common_server.person()
    login = {"username": ann.username, "password": PASSWORD}
    other = (await common_server.data("POST", "/auth/login", body=login))["access_token"]
    async with socket_client(common_server, transport) as one, socket_client(common_server, transport) as two:
        await one.authenticate(ann.token)
        await two.authenticate(other)
        await common_server.call("POST", "/auth/logout", ann.token)
        assert (await one.closed(2))[0] == 4001
        assert (await two.ask("ping"))["event"] == "pong"
    status, answer = await common_server.call("GET", "/users/me", ann.token)
    assert (status, answer["error"]["code"]) == (401, "AUTH_TOKEN_INVALID")
    async with socket_client(f"{common_server.ws}?token={ann.token}") as client:
        assert (await client.until("error"))["data"]["code"] == "AUTH_TOKEN_INVALID"
        assert (await client.closed())[0] == 4001


async def test_a_deactivated_account(common_server: Server, transport: Transport) -> None:
    """A deactivated account opens nothing: not by token, by password, by refresh or by resume."""
    ann = await common_server.person()
    async with socket_client(common_server, transport) as client:
        ready = await client.authenticate(ann.token)
        client.cut()
    conn = await asyncpg.connect(common_server.database_url)
    await conn.execute("UPDATE users SET is_active = false WHERE id = $1", ann.id)
    await conn.close()
    login = {"username": ann.username, "password": PASSWORD}
    for method, path, token, body in (
        ("GET", "/users/me", ann.token, None),
        ("POST", "/auth/login", None, login),
        ("POST", "/auth/refresh", None, {"refresh_token": ann.refresh_token}),
    ):
        status, answer = await common_server.call(method, path, token, body)
        assert (status, answer["error"]["code"]) == (403, "AUTH_USER_INACTIVE")
    wrong = await common_server.call("POST", "/auth/login", None, {**login, "password": "wrong"})
    assert wrong[1]["error"]["code"] == "AUTH_INVALID_CREDENTIALS"
    session = {name: ready[name] for name in ("session_id", "resume_token")}
    for event, data in (("authenticate", {"token": ann.token}), ("resume", {**session, "received": 0})):
        async with socket_client(common_server, transport) as client:
            await client.until("hello")
            await client.send(event, data)
            assert (await client.recv())["event"] == "error"
            assert (await client.closed())[0] == 4001
