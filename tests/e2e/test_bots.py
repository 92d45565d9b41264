"""Bots: made, used, changed and ended by their owners, over REST and on sockets."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from typing import Any
from uuid import UUID, uuid4

import pytest

from crypto.bot_keys import new_api_key
from crypto.noise import PrivateKey
from gateway.client import connect
from protocol.errors import ChatError
from tests.e2e.bots import make_bot
from tests.e2e.conftest import StartServer
from tests.e2e.devices import Device
from tests.e2e.doors import DOORS, ROUTES, ask
from tests.e2e.lines import Transport
from tests.e2e.server import Person, Server
from tests.e2e.socket_client import SocketClient, socket_client

CLOSES_WITHIN = 2.0
"""Seconds after which a key that has ended must have no socket left."""


def public_key() -> str:
    """A new X25519 public key in base64. Nearly every number below 2^255 is one (RFC 7748, section 5)."""
    return base64.b64encode(uuid4().bytes + uuid4().bytes[:15] + b"\x01").decode()


# --- making and managing ---------------------------------------------------------------------


async def test_a_bot_and_its_owner(common_server: Server) -> None:
    """The key is in the answer that makes the bot and nowhere after; the owner sees, changes and lists the bot."""
    server = common_server
    ann = await server.person()
    name, key = f"robo-{uuid4().hex[:8]}", public_key()
    body = {"username": name, "display_name": "Robo", "scopes": ["write", "read", "read"], "public_key": key}
    made = await server.data("POST", "/bots", ann.token, body)
    bot, api_key = made["bot"], made["api_key"]
    assert (bot["username"], bot["display_name"], bot["public_key"]) == (name, "Robo", key)
    assert bot["scopes"] == ["read", "write"]
    shown = await server.data("GET", f"/bots/{bot['id']}", ann.token)
    assert shown == bot
    assert await server.data("GET", "/bots", ann.token) == {"bots": [bot]}
    assert api_key not in json.dumps(shown)
    changed = await server.data("PUT", f"/bots/{bot['id']}", ann.token, {"display_name": "R2", "public_key": None})
    assert changed == bot | {"display_name": "R2", "public_key": None}
    account = await server.data("GET", "/users/me", api_key)
    assert (account["id"], account["display_name"], account["email"]) == (bot["id"], "R2", None)
    assert account["is_bot"]


async def test_a_bot_is_a_user(common_server: Server) -> None:
    """Others find a bot, see that it is one, and have it in their chatrooms; it cannot log in."""
    server = common_server
    ann, bob = await server.people(2)
    bot = await make_bot(server, ann)
    found = await server.data("GET", f"/users?search={bot.username}", bob.token)
    assert [(user["id"], user["is_bot"]) for user in found["users"]] == [(str(bot.id), True)]
    assert (await server.data("GET", f"/users/{ann.id}", bob.token))["is_bot"] is False
    room = await server.chatroom(bob, bot)
    members = (await server.data("GET", f"/chatrooms/{room}", bob.token))["members"]
    assert {member["user_id"]: member["is_bot"] for member in members} == {str(bob.id): False, str(bot.id): True}
    for password in ("", bot.token, "None"):
        status, _ = await server.call("POST", "/auth/login", body={"username": bot.username, "password": password})
        assert status in (401, 422)


async def test_strangers(common_server: Server) -> None:
    """To others a bot's address is like one that nobody has, whatever they do there."""
    server = common_server
    ann, bob = await server.people(2)
    bot = await make_bot(server, ann)
    for method, path, body in (
        ("GET", "/bots/{}", None),
        ("PUT", "/bots/{}", {"scopes": ["manage"]}),
        ("POST", "/bots/{}/rotate", None),
        ("DELETE", "/bots/{}", None),
    ):
        theirs = await server.call(method, path.format(bot.id), bob.token, body)
        nobodys = await server.call(method, path.format(uuid4()), bob.token, body)
        wrong = await server.call(method, path.format("none"), bob.token, body)
        assert theirs == nobodys
        assert (theirs[0], theirs[1]["error"]["code"]) == (404, "RESOURCE_NOT_FOUND")
        assert (wrong[0], wrong[1]["error"]["code"]) == (404, "RESOURCE_NOT_FOUND")
    assert await server.data("GET", "/bots", bob.token) == {"bots": []}
    assert (await server.call("GET", "/users/me", bot.token))[0] == 200


async def test_what_is_refused(common_server: Server) -> None:
    """Names and public keys that are taken, keys that are none, and scopes that there are not, name their field."""
    server = common_server
    ann, bob = await server.people(2)
    key = public_key()
    bot = await make_bot(server, ann, public_key=key)
    for fields, code, field in (
        ({"username": bob.username.upper()}, "RESOURCE_ALREADY_EXISTS", "username"),
        ({"username": "a@b"}, "VALIDATION_INVALID_VALUE", "username"),
        ({"username": "\u200bbot"}, "VALIDATION_INVALID_FORMAT", "username"),
        ({"public_key": key}, "RESOURCE_ALREADY_EXISTS", "public_key"),
        ({"public_key": base64.b64encode(bytes(32)).decode()}, "VALIDATION_INVALID_VALUE", "public_key"),
        ({"public_key": "A" * 44}, "VALIDATION_INVALID_VALUE", "public_key"),
        ({"scopes": []}, "VALIDATION_INVALID_VALUE", "scopes"),
        ({"scopes": ["admin"]}, "VALIDATION_INVALID_VALUE", "scopes[0]"),
    ):
        body = {"username": f"bot-{uuid4().hex[:12]}", "scopes": ["read"]} | fields
        _, answer = await server.call("POST", "/bots", bob.token, body)
        assert (answer["error"]["code"], answer["error"]["details"].get("field")) == (code, field), fields
    other = await make_bot(server, bob)
    _, answer = await server.call("PUT", f"/bots/{other.id}", bob.token, {"public_key": key, "scopes": ["manage"]})
    assert answer["error"]["code"] == "RESOURCE_ALREADY_EXISTS"
    assert (await server.data("GET", f"/bots/{other.id}", bob.token))["scopes"] == ["read", "write"]
    assert (await server.call("GET", "/users/me", bot.token))[0] == 200


async def test_how_many(start_server: StartServer) -> None:
    """A user has as many bots as the setting says; one that is revoked makes room for another."""
    server = await start_server(PARLEY_LIMIT_BOTS="2")
    ann, bob = await server.people(2)
    first, _ = await make_bot(server, ann), await make_bot(server, ann)
    status, answer = await server.call("POST", "/bots", ann.token, {"username": "third", "scopes": ["read"]})
    assert (status, answer["error"]["code"]) == (409, "RESOURCE_LIMIT_EXCEEDED")
    assert answer["error"]["details"] == {"limit": 2}
    await make_bot(server, bob)
    await server.data("DELETE", f"/bots/{first.id}", ann.token)
    await make_bot(server, ann)


# --- rooms -----------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["frame", "url", "header"])
async def test_a_bot_hears_and_speaks(common_server: Server, way: str) -> None:
    """With its key in a frame, the URL or a header, a bot's socket opens, hears its chatrooms and writes to them."""
    server = common_server
    ann, bob = await server.people(2)
    bot = await make_bot(server, ann)
    room = await server.chatroom(bob, bot)
    url = f"{server.ws}?token={bot.token}" if way == "url" else server.ws
    headers = {"Authorization": f"Bearer {bot.token}"} if way == "header" else {}
    async with socket_client(url, additional_headers=headers) as client:
        ready = await client.authenticate(bot.token) if way == "frame" else (await client.until("ready"))["data"]
        assert ready["token_expires_at"] is None
        assert [state["id"] for state in ready["chatrooms"]] == [str(room)]
        await server.data("POST", f"/chatrooms/{room}/messages", bob.token, {"content": "hi"})
        assert (await client.until("message_received"))["data"]["message"]["content"] == "hi"
        assert (await client.say(room, "beep"))["event"] == "ack"
        later = await server.chatroom(bob, bot)
        assert (await client.until("chatroom_created"))["chatroom_id"] == str(later)
    assert [m["user_id"] for m in await server.history(bob, room)] == [str(bob.id), str(bot.id)]


async def test_without_read(common_server: Server, transport: Transport) -> None:
    """A bot that may only write writes and types, and hears nothing: not of its rooms, nor of those it comes into."""
    server = common_server.over(transport)
    ann, bob = await server.people(2)
    bot = await make_bot(server, ann, "write")
    room = await server.chatroom(bob, bot)
    async with socket_client(server) as client, socket_client(server) as listener:
        await listener.authenticate(bob.token)
        await listener.ask("join_chatroom", {"chatroom_id": room})
        assert (await client.authenticate(bot.token))["chatrooms"] == []
        assert (await client.say(room, "beep"))["event"] == "ack"
        assert (await client.ask("typing_start", {"chatroom_id": room}))["event"] == "ack"
        assert (await listener.until("typing_indicator"))["data"]["user_id"] == str(bot.id)
        other = await server.chatroom(ann, bob)
        assert (await client.ask("typing_start", {"chatroom_id": other}))["data"]["code"] == "CHATROOM_NOT_FOUND"
        answers = client.received
        later = await server.chatroom(bob, bot)
        for target in (room, later):
            await server.data("POST", f"/chatrooms/{target}/messages", bob.token, {"content": "secret"})
        await server.data("POST", f"/chatrooms/{room}/read", bob.token, {"seq": 2})
        heads = {str(room): 1, str(later): 0}
        assert (await client.ask("sync", {"chatrooms": heads}))["data"]["details"] == {"scope": "read"}
        members = (await server.data("GET", f"/chatrooms/{room}", bob.token))["members"]
        assert {member["username"]: member["is_online"] for member in members} == {
            bob.username: True,
            bot.username: False,
        }
        assert (await client.say(later, "boop"))["event"] == "ack"
        assert client.received == answers + 2


# --- scopes, by both doors -------------------------------------------------------------------


def fields(room: UUID, device: Device, member: Person) -> dict[str, dict[str, Any]]:
    """Every command that both doors take, in an order in which none is in the way of the next, with its fields."""
    in_room, public_key = {"chatroom_id": str(room)}, {"public_key": device.public_key}
    keys = device.wraps(room, 1, bytes(32), device)
    sender = {"sender_device_id": device.id, "sender_public_key": device.public_key}
    return {
        "put_device_key": {"device_id": device.id, **public_key},
        "list_device_keys": {},
        "get_user_keys": {"user_id": str(member.id)},
        "put_chatroom_keys": in_room | sender | {"key_version": 1, "keys": keys, "is_new": True},
        "get_chatroom_keys": in_room | {"device_id": device.id},
        "get_file_urls": {"file_ids": [str(room)]},
        "delete_device_key": {"device_id": device.id},
        "list_chatrooms": {},
        "get_chatroom": in_room,
        "fetch_messages": in_room,
        "send_message": in_room | {"content": "x"},
        "recall_message": in_room | {"message_id": str(room)},
        "message_read": in_room | {"seq": 1},
        "create_chatroom": {"name": "room"},
        "update_chatroom": in_room | {"name": "other"},
        "add_members": in_room | {"user_ids": [str(member.id)]},
        "update_member": in_room | {"user_id": str(member.id), "role": "moderator"},
        "mute_member": in_room | {"user_id": str(member.id), "duration_seconds": 9},
        "unmute_member": in_room | {"user_id": str(member.id)},
        "remove_member": in_room | {"user_id": str(member.id)},
        "ban_member": in_room | {"user_id": str(member.id)},
        "list_bans": in_room,
        "unban_member": in_room | {"user_id": str(member.id)},
        "delete_chatroom": in_room,
        "leave_membership": in_room,
    }


NEEDED = {
    "read": (
        "list_device_keys",
        "get_user_keys",
        "get_chatroom_keys",
        "get_file_urls",
        "list_chatrooms",
        "get_chatroom",
        "fetch_messages",
        "list_bans",
    ),
    "write": (
        "put_device_key",
        "put_chatroom_keys",
        "delete_device_key",
        "send_message",
        "recall_message",
        "message_read",
    ),
    "manage": (
        "create_chatroom",
        "update_chatroom",
        "add_members",
        "update_member",
        "mute_member",
        "unmute_member",
        "remove_member",
        "ban_member",
        "unban_member",
        "delete_chatroom",
        "leave_membership",
    ),
}
NOT_THERE = {
    ("read", "get_chatroom_keys"): "RESOURCE_NOT_FOUND",
    ("write", "recall_message"): "MESSAGE_NOT_FOUND",
    ("manage", "leave_membership"): "CHATROOM_NOT_FOUND",
}
"""What is allowed and has nothing to do: there is no device without `write`, no such message, no chatroom left."""


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("scope", NEEDED)
async def test_scopes(common_server: Server, door: str, scope: str) -> None:
    """A scope gives its commands and no others, on either door; what is missing is named."""
    server = common_server
    ann, bob = await server.people(2)
    bot = await make_bot(server, ann, scope)
    room = await server.chatroom(bob, bot, name="room")
    await server.data("PUT", f"/chatrooms/{room}/members/{bot.id}", bob.token, {"role": "owner"})
    commands = fields(room, Device(server, bot), bob)
    assert set(commands) == set(ROUTES) == {event for events in NEEDED.values() for event in events}
    for event, data in commands.items():
        (needed,) = (needed for needed, events in NEEDED.items() if event in events)
        answer = await ask(server, door, bot, event, **data)
        if needed == scope:
            assert answer.code == NOT_THERE.get((scope, event), "ok"), event
        else:
            assert answer.code == "RESOURCE_ACCESS_DENIED", event
            assert answer.data["details"] == {"scope": needed}, event


@pytest.mark.parametrize("content", ["x" * 20_000, "x"])
async def test_scope_comes_first(common_server: Server, content: str) -> None:
    """Who may not write learns neither whether a chatroom exists nor whether the text was too long."""
    server = common_server
    bot = await make_bot(server, await server.person(), "read")
    for door in DOORS:
        answer = await ask(server, door, bot, "send_message", chatroom_id=str(uuid4()), content=content)
        assert (answer.code, answer.data["details"]) == ("RESOURCE_ACCESS_DENIED", {"scope": "write"})


async def test_what_is_for_people(common_server: Server) -> None:
    """A bot has no bots and cannot sign out; its profile it may change."""
    server = common_server
    ann = await server.person()
    bot = await make_bot(server, ann, "read", "write", "manage")
    for method, path, body in (
        ("POST", "/bots", {"username": f"bot-{uuid4().hex[:12]}", "scopes": ["read"]}),
        ("GET", "/bots", None),
        ("POST", f"/bots/{bot.id}/rotate", None),
        ("DELETE", f"/bots/{bot.id}", None),
        ("POST", "/auth/logout", None),
    ):
        status, answer = await server.call(method, path, bot.token, body)
        assert (status, answer["error"]["code"]) == (403, "RESOURCE_ACCESS_DENIED"), path
    changed = await server.data("PUT", "/users/me", bot.token, {"display_name": "Beep"})
    assert changed["display_name"] == "Beep"
    assert (await server.data("GET", f"/bots/{bot.id}", ann.token))["display_name"] == "Beep"


# --- ends ------------------------------------------------------------------------------------


async def closed_within(client: SocketClient, since: float) -> int:
    """The close code; the close has to come in time."""
    code, _ = await client.closed()
    assert time.monotonic() - since < CLOSES_WITHIN
    return code


async def refused(server: Server, key: str) -> None:
    """A key opens neither door."""
    status, answer = await server.call("GET", "/users/me", key)
    assert (status, answer["error"]["code"]) == (401, "AUTH_TOKEN_INVALID")
    async with socket_client(server) as client:
        await client.until("hello")
        await client.send("authenticate", {"token": key})
        assert (await client.recv())["data"]["code"] == "AUTH_TOKEN_INVALID"
        assert (await client.closed())[0] == 4001


async def resumed(server: Server, ready: dict[str, Any], token: str | None = None) -> dict[str, Any]:
    """What a resume of that session comes to."""
    async with socket_client(server) as client:
        await client.until("hello")
        asked = {"session_id": ready["session_id"], "resume_token": ready["resume_token"], "received": 0}
        await client.send("resume", asked | ({"token": token} if token else {}))
        return await client.recv()


@pytest.mark.parametrize("end", ["revoke", "rotate"])
async def test_a_key_that_has_ended(common_server: Server, end: str, transport: Transport) -> None:
    """Revoked or rotated, a key closes its sockets within 2 s, opens nothing, and its cut session is gone."""
    server = common_server.over(transport)
    ann = await server.person()
    bot = await make_bot(server, ann)
    room = await server.chatroom(ann, bot)
    async with socket_client(server) as client, socket_client(server) as cut:
        await client.authenticate(bot.token)
        ready = await cut.authenticate(bot.token)
        cut.cut()
        await client.say(room, "still here")
        since = time.monotonic()
        method, path = ("DELETE", "") if end == "revoke" else ("POST", "/rotate")
        answer = await server.data(method, f"/bots/{bot.id}{path}", ann.token)
        assert await closed_within(client, since) == 4001
    await refused(server, bot.token)
    assert (await resumed(server, ready))["data"]["reason"] == "unknown_session"
    assert [m["content"] for m in await server.history(ann, room)] == ["still here"]
    if end == "rotate":
        assert (await server.call("GET", "/users/me", answer["api_key"]))[0] == 200
        assert answer["api_key"] != bot.token
    else:
        assert (await server.call("GET", f"/bots/{bot.id}", ann.token))[0] == 404
        assert (await server.data("GET", f"/users/{bot.id}", ann.token))["username"] == bot.username


async def test_a_bot_resumes(common_server: Server, transport: Transport) -> None:
    """A cut session of a bot is resumed by its secret alone, and goes on with the bot's scopes."""
    server = common_server.over(transport)
    ann = await server.person()
    bot = await make_bot(server, ann, "read")
    room = await server.chatroom(ann, bot)
    async with socket_client(server) as client:
        ready = await client.authenticate(bot.token)
        client.cut()
    await server.data("POST", f"/chatrooms/{room}/messages", ann.token, {"content": "missed"})
    async with socket_client(server) as client:
        await client.until("hello")
        await client.send(
            "resume", {"session_id": ready["session_id"], "resume_token": ready["resume_token"], "received": 0}
        )
        assert (await client.recv())["data"] == {"missed": 1, "handled": 0}
        assert (await client.until("message_received"))["data"]["message"]["content"] == "missed"
        assert (await client.say(room, "x"))["data"]["details"] == {"scope": "write"}
        await client.send("authenticate", {"token": bot.token}, "a")
        assert (await client.until("authenticated"))["data"] == {"token_expires_at": None}


async def test_other_scopes(common_server: Server, transport: Transport) -> None:
    """New scopes hold at once: sockets are closed with the advice to come back, which the same key then does."""
    server = common_server.over(transport)
    ann = await server.person()
    bot = await make_bot(server, ann, "read", "write")
    room = await server.chatroom(ann, bot)
    path = f"/bots/{bot.id}"
    async with socket_client(server) as client:
        ready = await client.authenticate(bot.token)
        await server.data("PUT", path, ann.token, {"scopes": ["write", "read"], "display_name": "Same"})
        assert (await client.say(room, "still open"))["event"] == "ack"
        since = time.monotonic()
        await server.data("PUT", path, ann.token, {"scopes": ["write"]})
        assert await closed_within(client, since) == 4203
    assert (await resumed(server, ready, bot.token))["data"]["reason"] == "unknown_session"
    status, answer = await server.call("GET", f"/chatrooms/{room}/messages", bot.token)
    assert (status, answer["error"]["details"]) == (403, {"scope": "read"})
    async with socket_client(server) as client:
        assert (await client.authenticate(bot.token))["chatrooms"] == []
        assert (await client.say(room, "back"))["event"] == "ack"


@pytest.mark.parametrize("way", ["api key", "public key"])
async def test_a_program_outlives_other_scopes(common_server: Server, way: str) -> None:
    """The Python client comes back by itself when its bot has other scopes, with either key, and has the new ones."""
    server = common_server
    ann = await server.person()
    key = PrivateKey.new()
    bot = await make_bot(server, ann, "read", public_key=base64.b64encode(key.public).decode())
    room = await server.chatroom(ann, bot)
    options: dict[str, Any] = {"private_key": key.secret} if way == "public key" else {}
    url, token = (server.sealed, None) if way == "public key" else (server.ws, bot.token)
    async with asyncio.timeout(20), connect(url, token, **options) as client:
        with pytest.raises(ChatError, match="RESOURCE_ACCESS_DENIED"):
            await client.send_message(room, "not yet")
        await server.data("PUT", f"/bots/{bot.id}", ann.token, {"scopes": ["read", "write"]})
        sent = await client.send_message(room, "now")
        async for event in client:
            if event.event == "message_received":
                assert event.data.message == sent.message
                break


async def test_revoked_while_it_opens(common_server: Server) -> None:
    """However its opening and the revocation race, a revoked bot has no open socket in the end."""
    server = common_server
    ann = await server.person()
    bots = [await make_bot(server, ann) for _ in range(5)]

    async def race(bot: Person) -> None:
        async with socket_client(f"{server.ws}?token={bot.token}") as client:
            await server.data("DELETE", f"/bots/{bot.id}", ann.token)
            assert await closed_within(client, time.monotonic()) == 4001

    await asyncio.gather(*map(race, bots))


async def test_the_owner_signs_out(common_server: Server, transport: Transport) -> None:
    """A bot goes on when its owner's sign-in ends."""
    server = common_server.over(transport)
    ann = await server.person()
    bot = await make_bot(server, ann)
    async with socket_client(server) as client:
        await client.authenticate(bot.token)
        await server.call("POST", "/auth/logout", ann.token)
        await client.send("ping")
        assert (await client.recv())["event"] == "pong"
    assert (await server.call("GET", "/users/me", bot.token))[0] == 200


@pytest.mark.parametrize("spoil", ["secret", "checksum", "bot", "short"])
async def test_keys_that_are_none(common_server: Server, spoil: str) -> None:
    """A key with something wrong in it is refused, on either door."""
    server = common_server
    ann = await server.person()
    bot, other = await make_bot(server, ann), await make_bot(server, ann)
    key = bot.token
    wrong = {
        "secret": new_api_key(bot.id).text,
        "checksum": key[:-2] + ("aa" if key[-2:-1] != "a" else "bb"),
        "bot": other.token[:31] + key[31:],
        "short": "ply_x",
    }[spoil]
    await refused(server, wrong)
