"""The same command through any door, REST or a socket, so that one table of rules serves them all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlencode

from tests.e2e.lines import TRANSPORTS, Transport
from tests.e2e.server import Person, Server
from tests.e2e.socket_client import socket_client

DOORS = ("rest", *TRANSPORTS)

ROUTES = {
    "create_chatroom": ("POST", "/chatrooms"),
    "list_chatrooms": ("GET", "/chatrooms"),
    "get_chatroom": ("GET", "/chatrooms/{chatroom_id}"),
    "update_chatroom": ("PUT", "/chatrooms/{chatroom_id}"),
    "delete_chatroom": ("DELETE", "/chatrooms/{chatroom_id}"),
    "add_members": ("POST", "/chatrooms/{chatroom_id}/members"),
    "update_member": ("PUT", "/chatrooms/{chatroom_id}/members/{user_id}"),
    "remove_member": ("DELETE", "/chatrooms/{chatroom_id}/members/{user_id}"),
    "mute_member": ("PUT", "/chatrooms/{chatroom_id}/members/{user_id}/mute"),
    "unmute_member": ("DELETE", "/chatrooms/{chatroom_id}/members/{user_id}/mute"),
    "ban_member": ("PUT", "/chatrooms/{chatroom_id}/bans/{user_id}"),
    "unban_member": ("DELETE", "/chatrooms/{chatroom_id}/bans/{user_id}"),
    "list_bans": ("GET", "/chatrooms/{chatroom_id}/bans"),
    "leave_membership": ("POST", "/chatrooms/{chatroom_id}/leave"),
    "fetch_messages": ("GET", "/chatrooms/{chatroom_id}/messages"),
    "send_message": ("POST", "/chatrooms/{chatroom_id}/messages"),
    "recall_message": ("DELETE", "/chatrooms/{chatroom_id}/messages/{message_id}"),
    "put_device_key": ("PUT", "/users/me/keys"),
    "list_device_keys": ("GET", "/users/me/keys"),
    "delete_device_key": ("DELETE", "/users/me/keys"),
    "get_user_keys": ("GET", "/users/{user_id}/keys"),
    "put_chatroom_keys": ("POST", "/chatrooms/{chatroom_id}/keys"),
    "get_chatroom_keys": ("GET", "/chatrooms/{chatroom_id}/keys"),
    "get_file_urls": ("POST", "/files/urls"),
    "message_read": ("POST", "/chatrooms/{chatroom_id}/read"),
}
"""Where REST takes each socket command."""


def beside(door: str) -> Transport:
    """The transport of a socket that a test has beside a door: the door's own where it is one."""
    return "ws-json" if door == "rest" else cast("Transport", door)


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: `code` is an error's, or `ok`."""

    code: str
    data: Any
    status: int = 0


async def ask(server: Server, door: str, person: Person, event: str, **data: Any) -> Answer:
    """Has a person give a command through a door."""
    if door == "rest":
        return await _ask_rest(server, person, event, data)
    async with socket_client(server, beside(door)) as client:
        await client.authenticate(person.token)
        frame = await client.ask(event, data)
        return Answer("ok" if frame["event"] == "ack" else frame["data"]["code"], frame["data"])


async def _ask_rest(server: Server, person: Person, event: str, data: dict[str, Any]) -> Answer:
    method, template = ROUTES[event]
    path = template.format(**data)
    rest = {name: plain(value) for name, value in data.items() if f"{{{name}}}" not in template}
    if method in ("GET", "DELETE"):
        path, body = f"{path}?{urlencode(rest)}", None
    else:
        body = rest
    status, answer = await server.call(method, path, person.token, body)
    if answer["success"]:
        return Answer("ok", answer.get("data"), status)
    return Answer(answer["error"]["code"], answer["error"], status)


def plain(value: Any) -> Any:
    """Ids as text, all else as it is."""
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value if value is None or isinstance(value, str | int | float | bool | dict) else str(value)
