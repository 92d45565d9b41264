"""Accounts that an operator takes out of use by `parley users deactivate`, and gives back."""

from __future__ import annotations

import time
from contextlib import AsyncExitStack
from typing import Any

from tests.e2e.bots import make_bot
from tests.e2e.doors import ask
from tests.e2e.lines import TRANSPORTS
from tests.e2e.program import parley
from tests.e2e.server import PASSWORD, Person, Server
from tests.e2e.socket_client import SocketClient, socket_client

CLOSES_WITHIN = 2.0
"""Seconds after which an account that was deactivated must have no socket left."""


async def opened(stack: AsyncExitStack, server: Server, person: Person) -> list[SocketClient]:
    """A session of the person on every transport."""
    clients = [await stack.enter_async_context(socket_client(server, transport)) for transport in TRANSPORTS]
    for client in clients:
        await client.authenticate(person.token)
    return clients


async def login(server: Server, person: Person) -> tuple[int, Any]:
    """Signing in with the password."""
    return await server.call("POST", "/auth/login", body={"username": person.username, "password": PASSWORD})


async def test_a_deactivated_account_is_out(common_server: Server) -> None:
    """Sockets of the user and of their bots close within 2 s on every transport; nothing lets them in; others go on."""
    server = common_server
    ann, bob = await server.people(2)
    bot, bobs = await make_bot(server, ann), await make_bot(server, bob)
    room = await server.chatroom(bob, ann, bot, bobs)
    async with AsyncExitStack() as stack:
        gone = [client for person in (ann, bot) for client in await opened(stack, server, person)]
        others = [client for person in (bob, bobs) for client in await opened(stack, server, person)]
        async with socket_client(server) as cut:
            ready = await cut.authenticate(ann.token)
            cut.cut()
        assert await parley(server, "users", "deactivate", ann.username.upper()) == f"{ann.username} is deactivated\n"
        since = time.monotonic()
        assert {(await client.closed())[0] for client in gone} == {4001}
        assert time.monotonic() - since < CLOSES_WITHIN
        for client in others:
            assert (await client.say(room, "still here"))["event"] == "ack"
    assert (await resumed(server, ready))["data"] == {"reason": "unknown_session"}
    for person in (ann, bot):
        assert (await ask(server, "rest", person, "list_chatrooms")).code == "AUTH_TOKEN_INVALID"
    refreshed = await server.call("POST", "/auth/refresh", body={"refresh_token": ann.refresh_token})
    assert refreshed[1]["error"]["code"] == "AUTH_REFRESH_TOKEN_INVALID"
    assert (await login(server, ann))[1]["error"]["code"] == "AUTH_USER_INACTIVE"
    other = await server.chatroom(bob)
    added = await ask(server, "rest", bob, "add_members", chatroom_id=other, user_ids=[ann.id])
    assert added.code == "AUTH_USER_NOT_FOUND"


async def resumed(server: Server, ready: dict[str, Any]) -> dict[str, Any]:
    """What a resume of that session comes to."""
    async with socket_client(server) as client:
        await client.until("hello")
        asked = {"session_id": ready["session_id"], "resume_token": ready["resume_token"], "received": 0}
        await client.send("resume", asked)
        return await client.recv()


async def test_an_account_that_is_given_back(common_server: Server) -> None:
    """Its user signs in anew, and old tokens stay dead; its bots' keys are good as before; memberships are there."""
    server = common_server
    ann, bob = await server.people(2)
    bot = await make_bot(server, ann)
    room = await server.chatroom(bob, ann, bot)
    await parley(server, "users", "deactivate", f"{ann.username}@example.com")
    assert await parley(server, "users", "activate", ann.username) == f"{ann.username} is active\n"
    assert (await ask(server, "rest", ann, "list_chatrooms")).code == "AUTH_TOKEN_INVALID"
    status, answer = await login(server, ann)
    assert status == 200
    ann.token = answer["data"]["access_token"]
    for person in (ann, bot):
        async with socket_client(server) as client:
            await client.authenticate(person.token)
            assert (await client.say(room, "back"))["event"] == "ack"


async def test_a_bot_alone(common_server: Server) -> None:
    """A bot can be deactivated without its owner, who cannot undo that by another key; one that is revoked stays so."""
    server = common_server
    ann = await server.person()
    bot, other = await make_bot(server, ann), await make_bot(server, ann)
    async with socket_client(server) as client, socket_client(server) as stays:
        await client.authenticate(bot.token)
        await stays.authenticate(other.token)
        await parley(server, "users", "deactivate", bot.username)
        assert (await client.closed())[0] == 4001
        assert (await stays.ask("list_chatrooms"))["event"] == "ack"
    rotated = await server.data("POST", f"/bots/{bot.id}/rotate", ann.token)
    bot.token = rotated["api_key"]
    assert (await ask(server, "rest", bot, "list_chatrooms")).code == "AUTH_TOKEN_INVALID"
    await parley(server, "users", "activate", bot.username)
    assert (await ask(server, "rest", bot, "list_chatrooms")).code == "ok"
    await server.data("DELETE", f"/bots/{bot.id}", ann.token)
    assert "has revoked" in await parley(server, "users", "activate", bot.username, status=1)
