"""Each address: which command it makes, and how the result comes back."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import msgspec
import pytest

from protocol import commands as c
from protocol import models as m
from protocol.commands import Command
from rest.routes import ROUTES
from tests.rest.conftest import ADA_SIGNED, Server
from tests.rest.stand_in import ADA, RESULTS, ROOM, ROOM_CHANGED, ROOM_ID, SIGNED_IN, StandInActor

R = str(ROOM_ID)
U = str(UUID(int=2))
ACCOUNT_BODY: Any = {"username": "ada", "email": "ada@example.com", "password": "correct horse"}
PUBLIC_KEY = f"{'A' * 43}="
DEVICE_BODY: Any = {"device_id": "laptop", "public_key": PUBLIC_KEY}

CASES: list[tuple[str, str, Any, int, Command]] = [
    ("POST", "/auth/register", ACCOUNT_BODY, 201, c.Register(**ACCOUNT_BODY)),
    ("POST", "/auth/login", {"username": "ada", "password": "x"}, 200, c.Login(username="ada", password="x")),
    ("POST", "/auth/refresh", {"refresh_token": "r"}, 200, c.Refresh(refresh_token="r")),
    ("POST", "/auth/logout", None, 200, c.Logout()),
    ("GET", "/users/me", None, 200, c.GetAccount()),
    ("PUT", "/users/me", {"avatar_url": None}, 200, c.UpdateAccount(avatar_url=None)),
    ("DELETE", "/users/me/avatar", None, 200, c.RemoveAvatar()),
    ("GET", "/users?search=null&limit=5", None, 200, c.SearchUsers(search="null", limit=5)),
    ("GET", f"/users/{U}", None, 200, c.GetUser(user_id=UUID(U))),
    ("GET", "/bots", None, 200, c.ListBots()),
    ("POST", "/bots", {"username": "robo", "scopes": ["read"]}, 201, c.CreateBot(username="robo", scopes=["read"])),
    ("GET", f"/bots/{U}", None, 200, c.GetBot(bot_id=UUID(U))),
    ("PUT", f"/bots/{U}", {"public_key": None}, 200, c.UpdateBot(bot_id=UUID(U), public_key=None)),
    ("DELETE", f"/bots/{U}", None, 200, c.RevokeBot(bot_id=UUID(U))),
    ("POST", f"/bots/{U}/rotate", None, 200, c.RotateBot(bot_id=UUID(U))),
    ("GET", "/chatrooms?page=2&search=12", None, 200, c.ListChatrooms(page=2, search="12")),
    ("POST", "/chatrooms", {"name": "Tea"}, 201, c.CreateChatroom(name="Tea")),
    ("GET", f"/chatrooms/{R}", None, 200, c.GetChatroom(chatroom_id=ROOM_ID)),
    ("PUT", f"/chatrooms/{R}", {"name": "T"}, 200, c.UpdateChatroom(chatroom_id=ROOM_ID, name="T")),
    ("DELETE", f"/chatrooms/{R}", None, 200, c.DeleteChatroom(chatroom_id=ROOM_ID)),
    ("DELETE", f"/chatrooms/{R}/avatar", None, 200, c.RemoveChatroomAvatar(chatroom_id=ROOM_ID)),
    (
        "POST",
        f"/chatrooms/{R}/members",
        {"user_ids": [U]},
        200,
        c.AddMembers(chatroom_id=ROOM_ID, user_ids=[UUID(U)]),
    ),
    (
        "PUT",
        f"/chatrooms/{R}/members/{U}",
        {"role": "moderator"},
        200,
        c.UpdateMember(chatroom_id=ROOM_ID, user_id=UUID(U), role="moderator"),
    ),
    (
        "DELETE",
        f"/chatrooms/{R}/members/{U}",
        None,
        200,
        c.RemoveMember(chatroom_id=ROOM_ID, user_id=UUID(U)),
    ),
    (
        "PUT",
        f"/chatrooms/{R}/members/{U}/mute",
        {"duration_seconds": 60},
        200,
        c.MuteMember(chatroom_id=ROOM_ID, user_id=UUID(U), duration_seconds=60),
    ),
    (
        "DELETE",
        f"/chatrooms/{R}/members/{U}/mute",
        None,
        200,
        c.UnmuteMember(chatroom_id=ROOM_ID, user_id=UUID(U)),
    ),
    ("GET", f"/chatrooms/{R}/bans?page=2&limit=3", None, 200, c.ListBans(chatroom_id=ROOM_ID, page=2, limit=3)),
    (
        "PUT",
        f"/chatrooms/{R}/bans/{U}",
        {"reason": "spam"},
        200,
        c.BanMember(chatroom_id=ROOM_ID, user_id=UUID(U), reason="spam"),
    ),
    ("DELETE", f"/chatrooms/{R}/bans/{U}", None, 200, c.UnbanMember(chatroom_id=ROOM_ID, user_id=UUID(U))),
    ("POST", f"/chatrooms/{R}/leave", None, 200, c.LeaveMembership(chatroom_id=ROOM_ID)),
    (
        "GET",
        f"/chatrooms/{R}/messages?before=12&limit=3",
        None,
        200,
        c.FetchMessages(chatroom_id=ROOM_ID, before="12", limit=3),
    ),
    (
        "POST",
        f"/chatrooms/{R}/messages",
        {"content": "Hello", "client_id": "c1"},
        201,
        c.SendMessage(chatroom_id=ROOM_ID, content="Hello", client_id="c1"),
    ),
    (
        "DELETE",
        f"/chatrooms/{R}/messages/{U}",
        None,
        200,
        c.RecallMessage(chatroom_id=ROOM_ID, message_id=UUID(U)),
    ),
    ("GET", "/users/me/keys", None, 200, c.ListDeviceKeys()),
    ("PUT", "/users/me/keys", DEVICE_BODY, 200, c.PutDeviceKey(**DEVICE_BODY)),
    ("DELETE", "/users/me/keys?device_id=laptop", None, 200, c.DeleteDeviceKey(device_id="laptop")),
    ("GET", f"/users/{U}/keys", None, 200, c.GetUserKeys(user_id=UUID(U))),
    (
        "GET",
        f"/chatrooms/{R}/keys?device_id=12&before=3",
        None,
        200,
        c.GetChatroomKeys(chatroom_id=ROOM_ID, device_id="12", before=3),
    ),
    (
        "POST",
        f"/chatrooms/{R}/keys",
        {
            "key_version": 2,
            "sender_device_id": "laptop",
            "sender_public_key": PUBLIC_KEY,
            "keys": [{"user_id": U, **DEVICE_BODY, "wrapped_key": "AAAA"}],
            "is_new": True,
        },
        200,
        c.PutChatroomKeys(
            chatroom_id=ROOM_ID,
            key_version=2,
            sender_device_id="laptop",
            sender_public_key=PUBLIC_KEY,
            keys=[m.KeyWrap(user_id=UUID(U), **DEVICE_BODY, wrapped_key="AAAA")],
            is_new=True,
        ),
    ),
    ("POST", "/files", {"filename": "a.txt"}, 201, c.CreateUpload(filename="a.txt")),
    ("POST", "/files/urls", {"file_ids": [U]}, 200, c.GetFileUrls(file_ids=[UUID(U)])),
    (
        "GET",
        f"/files/uploads/{U}?after=3&limit=9",
        None,
        200,
        c.GetUpload(file_id=UUID(U), after=3, limit=9),
    ),
    ("DELETE", f"/files/uploads/{U}", None, 200, c.AbortUpload(file_id=UUID(U))),
    (
        "POST",
        f"/files/uploads/{U}/complete",
        {"sha256": "0" * 64},
        200,
        c.CompleteUpload(file_id=UUID(U), sha256="0" * 64),
    ),
    ("GET", f"/files/{U}/info", None, 200, c.GetFile(file_id=UUID(U))),
    ("DELETE", f"/files/{U}", None, 200, c.DeleteFile(file_id=UUID(U))),
    ("GET", "/users/me/files?limit=5", None, 200, c.ListFiles(limit=5)),
    ("POST", f"/chatrooms/{R}/read", {"seq": 2}, 200, c.MessageRead(chatroom_id=ROOM_ID, seq=2)),
]


def plain(value: Any) -> Any:
    """A struct as a client reads it."""
    return msgspec.json.decode(msgspec.json.encode(value))


@pytest.mark.parametrize("mount", ["", "/api/v1"])
@pytest.mark.parametrize(("method", "path", "body", "status", "command"), CASES)
async def test_an_address_is_its_command(
    server: Server, mount: str, method: str, path: str, body: Any, status: int, command: Command
) -> None:
    """The request becomes this command from this user, and its result is the data of the answer, at both mounts."""
    answer = await server.ask(method, mount + path, json=body)
    assert answer.status == status, answer.text
    actor, asked = server.chat.asked[-1]
    assert asked == command
    assert actor == (None if path.startswith(("/auth/reg", "/auth/login", "/auth/ref")) else StandInActor(ADA))
    result = RESULTS[type(command)]
    assert answer.body["success"] is True
    assert answer.body.get("data") == (None if result is None else plain(result))


def test_every_route_is_tested_here() -> None:
    """The cases above name every command of the route table."""
    assert {type(case[4]) for case in CASES} == {route.command for route in ROUTES}


async def test_signing_out_says_so(server: Server) -> None:
    """The answer to a sign-out is a message without data, as the reference API has it."""
    answer = await server.ask("POST", "/auth/logout")
    assert answer.body == {"success": True, "message": "Logged out successfully"}


async def test_the_refresh_answer_is_flat(server: Server) -> None:
    """Tokens stand right under `data`."""
    answer = await server.ask("POST", "/auth/refresh", json={"refresh_token": "r"})
    assert answer.body["data"]["access_token"] == "a"
    assert answer.body["data"]["expires_in"] == 1800


async def test_a_direct_room_that_was_there_is_not_created(server: Server) -> None:
    """The second request for the same direct room is answered 200 with that room."""
    server.chat.on[c.CreateChatroom] = lambda _: msgspec.structs.replace(ROOM_CHANGED, created=False)
    answer = await server.ask("POST", "/chatrooms", json={"kind": "direct", "user_ids": [U]})
    assert (answer.status, answer.body["data"]["chatroom"]["id"]) == (200, str(ROOM.id))


async def test_a_repeated_message_is_not_created(server: Server) -> None:
    """A retry of a send is answered 200 with the first message and `duplicate`."""
    sent = RESULTS[c.SendMessage]
    assert sent is not None
    server.chat.on[c.SendMessage] = lambda _: msgspec.structs.replace(sent, duplicate=True)
    answer = await server.ask("POST", f"/chatrooms/{R}/messages", json={"content": "Hello", "client_id": "c1"})
    assert (answer.status, answer.body["data"]["duplicate"]) == (200, True)


async def test_the_path_is_stronger_than_the_body(server: Server) -> None:
    """A chatroom named in the body does not turn a request away from the one in the path."""
    await server.ask("POST", f"/chatrooms/{R}/leave", json={"chatroom_id": U})
    assert server.chat.last == c.LeaveMembership(chatroom_id=ROOM_ID)


@pytest.mark.parametrize("content_type", [None, "application/json", "Application/JSON; charset=utf-8"])
async def test_json_may_come_without_a_type(server: Server, content_type: str | None) -> None:
    """A body is taken for JSON where its type says so, or says nothing."""
    headers = ADA_SIGNED if content_type is None else ADA_SIGNED | {"Content-Type": content_type}
    skip = ["Content-Type"] if content_type is None else []
    answer = await server.ask("POST", "/chatrooms", data=b'{"name": "Tea"}', headers=headers, skip_auto_headers=skip)
    assert answer.status == 201, answer.text


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER  "])
async def test_the_scheme_has_no_case(server: Server, scheme: str) -> None:
    """The word before the token may be written as one likes (RFC 9110, 11.1)."""
    answer = await server.ask("GET", "/users/me", headers={"Authorization": f"{scheme} ada-token"})
    assert answer.status == 200


async def test_get_answers_head(server: Server) -> None:
    """HEAD gives what GET gives, without the body."""
    answer = await server.ask("HEAD", "/health")
    assert (answer.status, answer.text) == (200, "")


async def test_signing_in_needs_no_token(server: Server) -> None:
    """A stale token beside a sign-in is not looked at."""
    answer = await server.ask(
        "POST",
        "/auth/login",
        json={"username": "ada", "password": "x"},
        headers={"Authorization": "Bearer old-token"},
    )
    assert answer.body["data"] == plain(SIGNED_IN)


async def test_every_answer_is_observed_by_its_template(server: Server) -> None:
    """Metrics learn the route, not the path, and nothing of a path or a method that is not ours."""
    await server.ask("GET", f"/api/v1/chatrooms/{R}?x=1")
    await server.ask("GET", "/nowhere/at/all")
    await server.ask("PROPFIND", "/chatrooms")
    seen = [(route, method, status) for route, method, status, _ in server.observed]
    assert seen == [
        ("/chatrooms/{chatroom_id}", "GET", 200),
        ("unmatched", "GET", 404),
        ("unmatched", "OTHER", 405),
    ]
    assert all(0 <= seconds < 5 for *_, seconds in server.observed)
