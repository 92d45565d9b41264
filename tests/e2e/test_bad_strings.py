"""Text that cannot be stored, in every field of every command; and rooms of others that look like none at all."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote
from uuid import UUID, uuid4

import aiohttp
import msgspec
import pytest
from msgspec import inspect
from yarl import URL

from protocol.commands import SOCKET_COMMANDS, Command
from protocol.errors import ERRORS
from rest.routes import ROUTES, Route
from tests.e2e.doors import ROUTES as COMMAND_ROUTES
from tests.e2e.lines import Transport
from tests.e2e.server import Person, Server
from tests.e2e.socket_client import SocketClient, socket_client

EVIL = ("a\0b", "\ud800", "\udfff a", "￿", "\U0010ffff", "‮", "\x7f\x1b[0m", "%00", "'; --", "{}")
SAMPLES = ("longenough", "someone@example.com", "A" * 43 + "=")
"""Texts, one of which a pattern allows."""
ID = "0190a0a0-0000-7000-8000-000000000001"


def texts(kind: inspect.Type, evil: str) -> Iterator[Any]:
    """Values of a type, each with `evil` in one place where text may stand."""
    match kind:
        case inspect.Metadata():
            yield from texts(kind.type, evil)
        case inspect.StrType() | inspect.UUIDType() | inspect.LiteralType():
            yield evil
        case inspect.ListType():
            yield from ([value] for value in texts(kind.item_type, evil))
        case inspect.DictType():
            yield from ({value: 1} for value in texts(kind.key_type, evil))
        case inspect.UnionType():
            for member in kind.types:
                yield from texts(member, evil)
        case inspect.StructType():
            yield from structs(kind, evil)
        case _:
            return


def structs(kind: inspect.StructType, evil: str) -> Iterator[dict[str, Any]]:
    """Objects that are right but for `evil` in one field."""
    for field in kind.fields:
        for value in texts(field.type, evil):
            yield {**right(kind), field.encode_name: value}


def right(kind: inspect.StructType) -> dict[str, Any]:
    """An object with what it needs."""
    return {field.encode_name: sample(field.type) for field in kind.fields if field.required}


def sample(kind: inspect.Type) -> Any:  # noqa: C901  (a case for each kind)
    """A value that a type allows."""
    kind = kind.type if isinstance(kind, inspect.Metadata) else kind
    match kind:
        case inspect.StrType():
            return next(text for text in SAMPLES if re.search(kind.pattern or "", text))
        case inspect.StructType():
            return right(kind)
        case inspect.UUIDType():
            return ID
        case inspect.IntType():
            return 1
        case inspect.LiteralType():
            return kind.values[0]
        case inspect.ListType():
            return [sample(kind.item_type)]
        case inspect.DictType():
            return {sample(kind.key_type): 1}
        case inspect.UnionType():
            return sample(kind.types[0])
    raise AssertionError(kind)


def bad_data(command: type[Command]) -> list[dict[str, Any]]:
    """Everything to be tried of one command."""
    kind = inspect.type_info(command)
    assert isinstance(kind, inspect.StructType)
    return [data for evil in EVIL for data in structs(kind, evil)]


async def test_evil_text_through_the_socket(common_server: Server, crowd: list[Person], transport: Transport) -> None:
    """Whatever a text field holds, the answer is an ack or a typed error of the client's own making."""
    tried = 0
    async with socket_client(common_server, transport) as client:
        await client.authenticate(crowd[0].token)
        for event, command in SOCKET_COMMANDS.items():
            for data in bad_data(command):
                await client.send(event, data)
                tried += 1
        codes = await answers(client)
    assert tried > 300
    assert codes.keys() <= ERRORS.keys() | {"ok"}
    assert "INTERNAL_ERROR" not in codes


async def answers(client: SocketClient) -> dict[str, int]:
    """The codes of all answers up to now, counted."""
    await client.send("ping", id="end")
    codes: dict[str, int] = {}
    while (frame := await client.recv(30)).get("id") != "end":
        code = frame["data"]["code"] if frame["event"] == "error" else "ok"
        codes[code] = codes.get(code, 0) + 1
    return codes


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method}-{route.path}")
async def test_evil_text_through_rest(common_server: Server, crowd: list[Person], route: Route) -> None:
    """The same for every address, in the path, the query and the body."""
    if not inspect.type_info(route.command).fields:  # type: ignore[attr-defined]
        return
    async with aiohttp.ClientSession() as http:
        for data in bad_data(route.command):
            status, answer = await request(common_server, http, crowd[0], route, data)
            assert status < 500, (data, answer)
            assert answer["success"] or answer["error"]["code"] in ERRORS


async def request(
    server: Server, http: aiohttp.ClientSession, person: Person, route: Route, data: dict[str, Any]
) -> tuple[int, Any]:
    """One request with these fields, wherever they belong."""
    rest = dict(data)
    path = route.path
    for name in ("chatroom_id", "user_id"):
        if f"{{{name}}}" in path:
            path = path.replace(f"{{{name}}}", escaped(rest.pop(name)))
    body = None
    if route.method in ("GET", "DELETE"):
        path += "?" + "&".join(f"{name}={escaped(str(value))}" for name, value in rest.items())
    else:
        body = json.dumps(rest).encode()
    headers = {"Authorization": f"Bearer {person.token}"}
    url = URL(server.http + path, encoded=True)
    async with http.request(route.method, url, headers=headers, data=body) as answer:
        return answer.status, await answer.json()


def escaped(value: str) -> str:
    """Text in a URL, halves of surrogate pairs too."""
    return quote(value.encode("utf-8", "surrogatepass"), safe="")


# --- rooms of others -------------------------------------------------------------------------

FIELDS: dict[str, dict[str, Any]] = {
    "send_message": {"content": "x", "client_id": "c"},
    "message_read": {"seq": 1},
    "update_chatroom": {"name": "x"},
    "add_members": {"user_ids": [ID]},
    "update_member": {"user_id": ID, "role": "member"},
    "remove_member": {"user_id": ID},
    "mute_member": {"user_id": ID, "duration_seconds": 9},
    "unmute_member": {"user_id": ID},
    "ban_member": {"user_id": ID, "reason": "x"},
    "unban_member": {"user_id": ID},
}
TWISTS: dict[str, list[dict[str, Any]]] = {
    "send_message": [{"content": "x" * 20_000}, {"reply_to": ID}, {"content": ""}],
    "message_read": [{"seq": None}, {"message_id": ID}],
    "fetch_messages": [{"before": "x"}, {"before": ID}, {"before": 1, "after": 1}, {"page": 9}],
    "update_chatroom": [{"max_members": 2}, {"name": ""}],
    "mute_member": [{"duration_seconds": 0}],
    "ban_member": [{"reason": "x" * 501}],
    "add_members": [{"user_ids": [str(UUID(int=4))] * 2}],
}
"""Other fields to the same commands: what is checked first must not tell either."""


def of_a_room() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every command on a chatroom, in several ways."""
    for event, command in SOCKET_COMMANDS.items():
        if "chatroom_id" in command.__struct_fields__:
            yield event, FIELDS.get(event, {})
            for twist in TWISTS.get(event, []):
                yield event, {**FIELDS.get(event, {}), **twist}


async def three_rooms(server: Server, ann: Person, bob: Person) -> list[str]:
    """A room that is not the asker's, one that was deleted, and one that never was."""
    foreign, deleted = await server.chatroom(ann, bob), await server.chatroom(ann, bob)
    for room in (foreign, deleted):
        await server.data("POST", f"/chatrooms/{room}/messages", ann.token, {"content": "secret", "client_id": "c"})
    await server.data("DELETE", f"/chatrooms/{deleted}", ann.token)
    return [str(foreign), str(deleted), str(uuid4())]


async def test_rooms_of_others_through_the_socket(
    common_server: Server, crowd: list[Person], transport: Transport
) -> None:
    """To an outsider, a room of others, a deleted one and none at all give the same bytes, in every command."""
    ann, bob, eve = crowd[:3]
    rooms = await three_rooms(common_server, ann, bob)
    async with socket_client(common_server, transport) as client:
        await client.authenticate(eve.token)
        for event, fields in of_a_room():
            seen = set()
            for room in rooms:
                await client.send(event, {"chatroom_id": room, **fields}, id="q")
                seen.add((await client.line.receive()).replace(room.encode(), b"ROOM"))
            assert len(seen) == 1, (event, fields, seen)
        await client.send("sync", {"chatrooms": dict.fromkeys(rooms, 1)})
        synced = await client.until("synced")
    assert {room["verdict"] for room in synced["data"]["chatrooms"].values()} == {"not_member"}


async def test_rooms_of_others_through_rest(common_server: Server, crowd: list[Person]) -> None:
    """The same by REST: status, headers and body."""
    ann, bob, eve = crowd[:3]
    rooms = await three_rooms(common_server, ann, bob)
    routes = {route.command: route for route in ROUTES}
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {eve.token}"}) as http:
        for event, fields in of_a_room():
            if event not in COMMAND_ROUTES:
                continue
            route = routes[SOCKET_COMMANDS[event]]
            path = route.path.replace("{user_id}", ID)
            body = {name: value for name, value in fields.items() if name != "user_id"}
            seen = set()
            for room in rooms:
                url = common_server.http + path.replace("{chatroom_id}", room)
                query = {"params": body} if route.method == "GET" else {"json": body}
                async with http.request(route.method, url, **query) as answer:  # type: ignore[arg-type]
                    seen.add((answer.status, tuple(sorted(answer.headers)), await answer.text()))
            assert len(seen) == 1, (event, fields, seen)


def test_the_samples_are_right() -> None:
    """What surrounds an evil field is taken by the decoder, or the tests above would test nothing."""
    for command in {*SOCKET_COMMANDS.values(), *(route.command for route in ROUTES)}:
        kind = inspect.type_info(command)
        assert isinstance(kind, inspect.StructType)
        msgspec.convert(right(kind), command)
