"""What a client knows from a fetch, plus the events it hears, is what a fresh fetch says: for every durable event.

Each action is done once before a member who is connected, and replayed by `sync` to the same
old state; a small model applies the events, as a client would.
"""

from __future__ import annotations

import copy
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import pytest

from crypto.end_to_end import DevicePrivateKey
from protocol.events import DURABLE
from tests.clamd import EICAR, running_clamd
from tests.e2e.conftest import StartServer
from tests.e2e.devices import Device
from tests.e2e.doors import ask
from tests.e2e.lines import Transport
from tests.e2e.server import Person, Server
from tests.e2e.socket_client import SocketClient, socket_client
from tests.e2e.test_avatars import set_avatar
from tests.e2e.test_files import upload
from tests.pictures import png

State = dict[str, Any]

NOTHING: State = {"row": None, "room": None, "members": {}, "role": None, "messages": [], "min_key_version": None}
"""The state of a room that is not the viewer's."""


@dataclass(slots=True)
class Scene:
    """A room and the people in it; `viewer` is the one whose view is checked."""

    server: Server
    room: UUID
    owner: Person
    viewer: Person
    other: Person
    outsider: Person
    stranger: Person

    async def do(self, person: Person, event: str, **data: Any) -> Any:
        """A command that has to succeed."""
        answer = await ask(self.server, "rest", person, event, **{"chatroom_id": self.room, **data})
        assert answer.code == "ok", answer
        return answer.data

    async def fetch(self) -> State:
        """All that the viewer can fetch of the room: None where it is gone."""
        listed = (await ask(self.server, "rest", self.viewer, "list_chatrooms", limit=100)).data["chatrooms"]
        row = next((item for item in listed if item["id"] == str(self.room)), None)
        if row is None:
            assert (await ask(self.server, "rest", self.viewer, "get_chatroom", chatroom_id=self.room)).code != "ok"
            return copy.deepcopy(NOTHING)
        fetched = await self.do(self.viewer, "get_chatroom")
        return {
            "row": row,
            "room": fetched["chatroom"],
            "members": {member["user_id"]: without_presence(member) for member in fetched["members"]},
            "role": fetched["user_role"],
            "messages": await self.server.history(self.viewer, self.room),
            "min_key_version": await self._min_key_version(),
        }

    async def _min_key_version(self) -> int:
        device = self.device(self.viewer)
        await device.register()
        version: int = (await device.fetch(self.room)).data["min_key_version"]
        return version

    def device(self, person: Person) -> Device:
        """A person's device, always the same one."""
        return Device(self.server, person, "state", key=DevicePrivateKey(b"\x07" * 32))


def without_presence(member: dict[str, Any]) -> dict[str, Any]:
    """Who is online is told by events of its own."""
    return {name: value for name, value in member.items() if name != "is_online"}


# --- the client's model ----------------------------------------------------------------------

SHARED = ("name", "description", "is_private", "member_count", "encryption_enabled", "kind", "seq", "avatar_url")
"""Fields of the list's rows that are the room's."""


class Model:
    """Applies durable events to a fetched state."""

    def __init__(self, state: State, viewer: Person, room: UUID) -> None:
        self.state = copy.deepcopy(state)
        self._me = str(viewer.id)
        self._room = str(room)

    def apply(self, frame: dict[str, Any]) -> None:
        """One event."""
        if self.state["room"] is not None:
            assert frame["seq"] == self.state["room"]["seq"] + 1
            self.state["room"]["seq"] = frame["seq"]
        getattr(self, f"_{frame['event']}")(copy.deepcopy(frame["data"]))
        if (row := self.state["row"]) is not None:
            row.update({name: self.state["room"][name] for name in SHARED})
            row["role"] = self.state["role"]

    def _enter(self, room: dict[str, Any], members: list[dict[str, Any]]) -> None:
        self.state["room"] = room
        self.state["members"] = {member["user_id"]: without_presence(member) for member in members}
        mine = self.state["members"][self._me]
        self.state["role"] = mine["role"]
        self.state["min_key_version"] = 1
        self.state["row"] = {
            "id": self._room,
            "last_message": None,
            "unread_count": 0,
            "joined_at": mine["joined_at"],
            "last_read_seq": mine["last_read_seq"],
        }

    def _gone(self) -> None:
        self.state = copy.deepcopy(NOTHING)

    def _chatroom_created(self, data: dict[str, Any]) -> None:
        if data["chatroom"]["kind"] == "direct":  # the event is the same for both; each calls the room by the other
            (other,) = [member for member in data["members"] if member["user_id"] != self._me]
            data["chatroom"] |= {"name": other["display_name"], "avatar_url": other["avatar_url"]}
        self._enter(data["chatroom"], data["members"])

    def _chatroom_updated(self, data: dict[str, Any]) -> None:
        self.state["room"] = data["chatroom"]

    def _chatroom_deleted(self, data: dict[str, Any]) -> None:
        self._gone()

    def _message_received(self, data: dict[str, Any]) -> None:
        message = data["message"]
        self.state["messages"].append(message)
        self.state["row"]["last_message"] = message
        self.state["row"]["unread_count"] += message["user_id"] != self._me

    def _message_recalled(self, data: dict[str, Any]) -> None:
        (message,) = [m for m in self.state["messages"] if m["id"] == data["message_id"]]
        empty = {"content": "", "attachments": [], "recalled_at": data["recalled_at"]}
        message.update(empty)
        if self.state["row"]["last_message"]["id"] == data["message_id"]:
            self.state["row"]["last_message"].update(empty)

    def _attachment_updated(self, data: dict[str, Any]) -> None:
        for message in (*self.state["messages"], self.state["row"]["last_message"]):
            for attachment in message["attachments"] if message["id"] == data["message_id"] else ():
                if attachment["id"] == data["file_id"]:
                    attachment["status"] = data["status"]

    def _user_joined(self, data: dict[str, Any]) -> None:
        member = without_presence(data["member"])
        assert data["user"]["id"] == member["user_id"]
        if member["user_id"] == self._me:
            self._enter(data["chatroom"], [member])
            return
        self.state["members"][member["user_id"]] = member
        self.state["room"]["member_count"] += 1
        assert data["chatroom"] == self.state["room"]

    def _user_left(self, data: dict[str, Any]) -> None:
        if data["user_id"] == self._me:
            self._gone()
            return
        del self.state["members"][data["user_id"]]
        self.state["room"]["member_count"] -= 1

    def _key_rotation_needed(self, data: dict[str, Any]) -> None:
        self.state["min_key_version"] = data["key_version"] + 1

    def _member_muted(self, data: dict[str, Any]) -> None:
        self.state["members"][data["user_id"]]["muted_until"] = data["muted_until"]

    def _member_updated(self, data: dict[str, Any]) -> None:
        self.state["members"][data["user_id"]]["role"] = data["role"]
        if data["role"] == "owner":
            self.state["members"][data["user_id"]]["muted_until"] = None
            self.state["room"]["owner_id"] = data["user_id"]
        if data["user_id"] == self._me:
            self.state["role"] = data["role"]


# --- the actions -----------------------------------------------------------------------------

SEALED = {"encrypted_data": "ZQ==", "iv": "aQ==", "key_version": 1}


async def say(scene: Scene) -> None:
    """Messages of others and of one's own, text and encrypted, with a reply."""
    first = await scene.do(scene.owner, "send_message", content="text", client_id="1")
    await scene.do(scene.owner, "send_message", content=SEALED)
    await scene.do(scene.viewer, "send_message", content="own", reply_to=first["message"]["id"])
    await scene.do(scene.owner, "send_message", content="again", client_id="1")


async def recall(scene: Scene) -> None:
    """What was said before, text and encrypted, is taken back by who said it and by the owner; once more is nothing."""
    told = (await scene.server.history(scene.viewer, scene.room))[:]
    for person, message in zip((scene.owner, scene.owner, scene.viewer), told, strict=False):
        for _ in range(2):
            await scene.do(person, "recall_message", message_id=message["id"])


async def update(scene: Scene) -> None:
    """Every setting there is, a picture, and a change of nothing."""
    await set_avatar(scene.server, scene.owner, png(8, 8), f"/chatrooms/{scene.room}/avatar")
    await scene.do(scene.owner, "update_chatroom", name="new", description="d", is_private=False, max_members=9)
    await scene.do(scene.owner, "update_chatroom", auto_summary_enabled=False, summary_threshold=7)
    await scene.do(scene.owner, "update_chatroom")
    await scene.do(scene.owner, "update_chatroom", description=None)


async def delete(scene: Scene) -> None:
    """The owner deletes the room."""
    await scene.do(scene.owner, "delete_chatroom")


async def join(scene: Scene) -> None:
    """Three at once, one of whom is a member."""
    ids = [scene.outsider.id, scene.other.id, scene.stranger.id]
    await scene.do(scene.owner, "add_members", user_ids=ids)


async def leave(scene: Scene) -> None:
    """Somebody else leaves."""
    await scene.do(scene.other, "leave_membership")


async def remove(scene: Scene) -> None:
    """Somebody else is removed."""
    await scene.do(scene.owner, "remove_member", user_id=scene.other.id)


async def mute(scene: Scene) -> None:
    """Mutes with and without an end, of others and of the viewer; one of them is ended, and one is not there."""
    await scene.do(scene.owner, "mute_member", user_id=scene.other.id, duration_seconds=60)
    await scene.do(scene.owner, "mute_member", user_id=scene.viewer.id, duration_seconds=None)
    await scene.do(scene.owner, "unmute_member", user_id=scene.other.id)
    await scene.do(scene.owner, "unmute_member", user_id=scene.other.id)


async def hand_to_the_muted(scene: Scene) -> None:
    """A muted member becomes a moderator, which changes nothing, and then the owner, who is not muted."""
    for role in ("moderator", "owner"):
        await scene.do(scene.owner, "mute_member", user_id=scene.other.id, duration_seconds=60)
        await scene.do(scene.owner, "update_member", user_id=scene.other.id, role=role)


async def ban(scene: Scene) -> None:
    """Somebody else is banned, and so is somebody who was no member; one may come back."""
    await scene.do(scene.owner, "ban_member", user_id=scene.other.id, reason="spam")
    await scene.do(scene.owner, "ban_member", user_id=scene.outsider.id)
    await scene.do(scene.owner, "unban_member", user_id=scene.other.id)
    await scene.do(scene.owner, "add_members", user_ids=[scene.other.id])


async def ban_viewer(scene: Scene) -> None:
    """The viewer is banned."""
    await scene.do(scene.owner, "ban_member", user_id=scene.viewer.id)


async def rotate(scene: Scene) -> None:
    """Somebody leaves who had the chatroom's key."""
    made = await scene.device(scene.viewer).make(scene.room, 1, bytes(32))
    assert made.code == "ok", made
    await scene.do(scene.other, "leave_membership")


async def remove_viewer(scene: Scene) -> None:
    """The viewer is removed."""
    await scene.do(scene.owner, "remove_member", user_id=scene.viewer.id)


async def owner_leaves(scene: Scene) -> None:
    """The owner leaves, and the room passes on."""
    await scene.do(scene.owner, "leave_membership")


async def promote(scene: Scene) -> None:
    """Roles of others and of one's own."""
    await scene.do(scene.owner, "update_member", user_id=scene.other.id, role="moderator")
    await scene.do(scene.owner, "update_member", user_id=scene.viewer.id, role="moderator")
    await scene.do(scene.owner, "update_member", user_id=scene.viewer.id, role="member")


async def hand_over(scene: Scene) -> None:
    """The viewer becomes the owner."""
    await scene.do(scene.owner, "update_member", user_id=scene.viewer.id, role="owner")


Action = Callable[[Scene], Awaitable[None]]
ACTIONS: dict[Action, set[str]] = {
    say: {"message_received"},
    recall: {"message_recalled"},
    update: {"chatroom_updated"},
    delete: {"chatroom_deleted"},
    join: {"user_joined"},
    leave: {"user_left"},
    remove: {"user_left"},
    mute: {"member_muted"},
    hand_to_the_muted: {"member_muted", "member_updated"},
    ban: {"user_left", "user_joined"},
    ban_viewer: {"user_left"},
    rotate: {"user_left", "key_rotation_needed"},
    remove_viewer: {"user_left"},
    owner_leaves: {"member_updated", "user_left"},
    promote: {"member_updated"},
    hand_over: {"member_updated"},
}
"""What is done in a room that is there, and the kinds of events that come of it."""


@pytest.fixture
async def scene(common_server: Server, crowd: list[Person], transport: Transport) -> Scene:
    """A room of three with a little history; its viewer sits at each transport in turn."""
    owner, viewer, other, outsider, stranger = crowd[:5]
    room = await common_server.chatroom(owner, viewer, other, description="old")
    scene = Scene(common_server.over(transport), room, owner, viewer, other, outsider, stranger)
    await scene.do(owner, "send_message", content="before")
    await scene.do(viewer, "send_message", content=SEALED)
    return scene


async def live_events(client: SocketClient, scene: Scene) -> list[dict[str, Any]]:
    """What the viewer's socket has heard of the room, up to now."""
    await client.send("ping", id="now")
    heard = []
    while (frame := await client.recv()).get("id") != "now":
        if frame.get("chatroom_id") == str(scene.room):
            heard.append(frame)
    return heard


async def replayed(scene: Scene, person: Person, after: int) -> list[dict[str, Any]]:
    """What `sync` sends a member who last heard event `after`."""
    async with socket_client(scene.server) as client:
        await client.authenticate(person.token)
        await client.send("sync", {"chatrooms": {str(scene.room): after}}, id="s")
        frames = []
        while (frame := await client.recv())["event"] != "synced":
            frames.append(frame)
        if (verdict := frame["data"]["chatrooms"][str(scene.room)])["verdict"] == "complete":
            assert verdict["to"] == after + len(frames)
        return frames


def check_kinds(frames: list[dict[str, Any]], kinds: set[str]) -> None:
    """The events are of these kinds, and each has the shape it should."""
    assert {frame["event"] for frame in frames} == kinds


@pytest.mark.parametrize("action", ACTIONS, ids=lambda action: action.__name__)
async def test_old_state_plus_events(scene: Scene, action: Action) -> None:
    """Live events bring an old state to where a fresh fetch is, and so do replayed ones."""
    old = await scene.fetch()
    async with socket_client(scene.server) as client:
        await client.authenticate(scene.viewer.token)
        await action(scene)
        live = await live_events(client, scene)
    fresh = await scene.fetch()
    check_kinds(live, ACTIONS[action])
    model = Model(old, scene.viewer, scene.room)
    for frame in live:
        model.apply(frame)
    assert model.state == fresh
    if fresh["room"] is not None:
        assert await replayed(scene, scene.viewer, old["room"]["seq"]) == live


async def test_a_file_that_is_scanned(start_server: StartServer) -> None:
    """`attachment_updated` brings a message whose files were being scanned to what a fetch says."""
    async with running_clamd() as (clamd, port):
        clamd.gate.clear()
        server = await start_server(PARLEY_CLAMD=f"127.0.0.1:{port}")
        owner, viewer, other = await server.people(3)
        scene = Scene(server, await server.chatroom(owner, viewer, other), owner, viewer, other, other, other)
        files = [await upload(server, owner, data) for data in (b"harmless", EICAR)]
        for _ in range(2):
            await scene.do(owner, "send_message", content="", attachments=[{"id": file["id"]} for file in files])
        await scene.do(viewer, "send_message", content="the last one")
        old = await scene.fetch()
        async with socket_client(server) as client:
            await client.authenticate(viewer.token)
            clamd.gate.set()
            live = [await client.until("attachment_updated") for _ in range(4)]
        fresh = await scene.fetch()
    model = Model(old, viewer, scene.room)
    for frame in live:
        model.apply(frame)
    assert model.state == fresh
    assert fresh != old
    assert await replayed(scene, viewer, old["room"]["seq"]) == live


async def test_a_room_that_is_made(common_server: Server, crowd: list[Person], transport: Transport) -> None:
    """`chatroom_created` is all that a member needs to know of a new group."""
    owner, viewer, other, outsider = crowd[:4]
    async with socket_client(common_server, transport) as client:
        await client.authenticate(viewer.token)
        room = await common_server.chatroom(owner, viewer, other, name="fresh", description="d", max_members=5)
        scene = Scene(common_server.over(transport), room, owner, viewer, other, outsider, outsider)
        live = await live_events(client, scene)
    check_kinds(live, {"chatroom_created"})
    await check_entered(scene, live)
    assert await replayed(scene, viewer, 0) == live


async def test_a_direct_room_that_is_made(common_server: Server, transport: Transport) -> None:
    """The same for a direct room, whose name depends on who looks."""
    ann, bob = await common_server.people(2)
    for viewer in (ann, bob):
        async with socket_client(common_server, transport) as client:
            await client.authenticate(viewer.token)
            other = await common_server.person()
            made = await ask(common_server, "rest", other, "create_chatroom", kind="direct", user_ids=[viewer.id])
            scene = Scene(
                common_server.over(transport), UUID(made.data["chatroom"]["id"]), other, viewer, other, other, other
            )
            live = await live_events(client, scene)
        check_kinds(live, {"chatroom_created"})
        await check_entered(scene, live)
        assert await replayed(scene, viewer, 0) == live


async def test_coming_into_a_room(scene: Scene) -> None:
    """A newcomer learns from `user_joined` what they came into; members and history they fetch."""
    scene.viewer = scene.outsider
    async with socket_client(scene.server) as client:
        await client.authenticate(scene.viewer.token)
        await scene.do(scene.owner, "add_members", user_ids=[scene.viewer.id])
        live = await live_events(client, scene)
    check_kinds(live, {"user_joined"})
    fresh = await scene.fetch()
    model = Model(
        NOTHING,
        scene.viewer,
        scene.room,
    )
    model.apply(live[0])
    assert model.state["room"] == fresh["room"]
    assert model.state["role"] == fresh["role"]
    assert {**model.state["row"], "last_message": None} == {**fresh["row"], "last_message": None}
    assert model.state["members"].items() <= fresh["members"].items()


async def check_entered(scene: Scene, live: list[dict[str, Any]]) -> None:
    """Nothing plus these events is what a fetch says."""
    model = Model(
        NOTHING,
        scene.viewer,
        scene.room,
    )
    for frame in live:
        model.apply(frame)
    assert model.state == await scene.fetch()


def test_no_durable_event_is_left_out() -> None:
    """A new kind of durable event needs a case here."""
    assert set().union(*ACTIONS.values()) | {"chatroom_created", "attachment_updated"} == DURABLE.keys()
