"""Chatrooms and their members: who may do what, and what becomes of a room."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID, uuid4

import pytest

from tests.e2e.doors import DOORS, ask
from tests.e2e.lines import Transport
from tests.e2e.server import Person, Server
from tests.e2e.socket_client import socket_client

BOTH = pytest.mark.parametrize("door", DOORS)
ROLES = ("owner", "moderator", "member", "outsider")


@pytest.fixture
def server(common_server: Server) -> Server:
    """The common server; every test here makes rooms of its own."""
    return common_server


async def role_room(server: Server, crowd: list[Person]) -> tuple[UUID, dict[str, Person]]:
    """A room with somebody in each role, and the people by role."""
    owner, moderator, member, other, second, outsider = crowd
    room = await server.chatroom(owner, moderator, member, other, second)
    for person in (moderator, second):
        path = f"/chatrooms/{room}/members/{person.id}"
        await server.data("PUT", path, owner.token, {"role": "moderator"})
    return room, {
        "owner": owner,
        "moderator": moderator,
        "member": member,
        "outsider": outsider,
        "other": other,
        "second": second,
    }


OK, DENIED, OWNER, GONE = "ok", "RESOURCE_ACCESS_DENIED", "CHATROOM_OWNER_REQUIRED", "CHATROOM_NOT_FOUND"
RULES: list[tuple[str, dict[str, Any], tuple[str, str, str, str]]] = [
    ("get_chatroom", {}, (OK, OK, OK, GONE)),
    ("fetch_messages", {}, (OK, OK, OK, GONE)),
    ("send_message", {"content": "hi"}, (OK, OK, OK, GONE)),
    ("message_read", {"seq": 1}, (OK, OK, OK, GONE)),
    ("update_chatroom", {"name": "new"}, (OK, OK, DENIED, GONE)),
    ("update_chatroom", {}, (OK, OK, DENIED, GONE)),
    ("delete_chatroom", {}, (OK, OWNER, OWNER, GONE)),
    ("add_members", {"user_ids": ["outsider"]}, (OK, OK, DENIED, GONE)),
    ("update_member", {"user_id": "other", "role": "moderator"}, (OK, OWNER, OWNER, GONE)),
    ("update_member", {"user_id": "other", "role": "owner"}, (OK, OWNER, OWNER, GONE)),
    ("update_member", {"user_id": "owner", "role": "member"}, ("VALIDATION_INVALID_VALUE", OWNER, OWNER, GONE)),
    ("update_member", {"user_id": "outsider", "role": "member"}, ("RESOURCE_NOT_FOUND", OWNER, OWNER, GONE)),
    ("remove_member", {"user_id": "other"}, (OK, OK, DENIED, GONE)),
    ("remove_member", {"user_id": "second"}, (OK, DENIED, DENIED, GONE)),
    ("remove_member", {"user_id": "owner"}, (OK, DENIED, DENIED, GONE)),
    ("remove_member", {"user_id": "outsider"}, ("RESOURCE_NOT_FOUND",) * 3 + (GONE,)),
    ("mute_member", {"user_id": "other", "duration_seconds": 9}, (OK, OK, DENIED, GONE)),
    ("mute_member", {"user_id": "second", "duration_seconds": None}, (OK, DENIED, DENIED, GONE)),
    ("mute_member", {"user_id": "owner", "duration_seconds": 9}, (DENIED, DENIED, DENIED, GONE)),
    ("mute_member", {"user_id": "outsider", "duration_seconds": 9}, ("RESOURCE_NOT_FOUND",) * 3 + (GONE,)),
    ("unmute_member", {"user_id": "other"}, (OK, OK, DENIED, GONE)),
    ("unmute_member", {"user_id": "second"}, (OK, DENIED, DENIED, GONE)),
    ("unmute_member", {"user_id": "outsider"}, ("RESOURCE_NOT_FOUND",) * 3 + (GONE,)),
    ("ban_member", {"user_id": "other", "reason": "spam"}, (OK, OK, DENIED, GONE)),
    ("ban_member", {"user_id": "second"}, (OK, DENIED, DENIED, GONE)),
    ("ban_member", {"user_id": "owner"}, (DENIED, DENIED, DENIED, GONE)),
    ("ban_member", {"user_id": "outsider"}, (OK, OK, DENIED, GONE)),
    ("unban_member", {"user_id": "other"}, ("RESOURCE_NOT_FOUND", "RESOURCE_NOT_FOUND", DENIED, GONE)),
    ("list_bans", {}, (OK, OK, DENIED, GONE)),
    ("leave_membership", {}, (OK, OK, OK, GONE)),
]


@pytest.mark.parametrize(("event", "data", "codes"), RULES, ids=lambda value: value if isinstance(value, str) else "")
async def test_who_may(
    server: Server, crowd: list[Person], event: str, data: dict[str, Any], codes: tuple[str, ...]
) -> None:
    """Each role may do what its place in the table says, through every door."""

    async def try_it(door: str, role: str) -> str:
        room, people = await role_room(server, crowd)
        who = {name: str(person.id) for name, person in people.items()}
        filled: dict[str, Any] = {name: who[data[name]] for name in ("user_id",) if name in data}
        filled |= {name: [who[user] for user in data[name]] for name in ("user_ids",) if name in data}
        return (await ask(server, door, people[role], event, chatroom_id=room, **(data | filled))).code

    for door in DOORS:
        assert tuple(await asyncio.gather(*(try_it(door, role) for role in ROLES))) == codes


async def test_commands_of_the_socket_alone(server: Server, crowd: list[Person], transport: Transport) -> None:
    """Opening a room and typing in it are for members; a sync says who is none."""
    room, people = await role_room(server, crowd)
    for role in ROLES:
        async with socket_client(server, transport) as client:
            await client.authenticate(people[role].token)
            for event in ("join_chatroom", "typing_start", "typing_stop"):
                answer = await client.ask(event, {"chatroom_id": room})
                code = "ok" if answer["event"] == "ack" else answer["data"]["code"]
                assert code == (GONE if role == "outsider" else OK)
            synced = await client.ask("sync", {"chatrooms": {str(room): 3}})
            verdict = "not_member" if role == "outsider" else "complete"
            assert synced["data"]["chatrooms"][str(room)] == {"from": 3, "to": 3, "verdict": verdict}


# --- creating --------------------------------------------------------------------------------


@BOTH
async def test_a_group_as_it_is_made(server: Server, crowd: list[Person], door: str) -> None:
    """A group has the settings given, its maker as owner, the named users as members, and seq 1."""
    ann, bob, *_ = crowd
    settings = {
        "name": "Plans",
        "description": "what to do",
        "is_private": False,
        "max_members": 7,
        "encryption_enabled": True,
        "auto_summary_enabled": False,
        "summary_threshold": 9,
    }
    made = await ask(server, door, ann, "create_chatroom", **settings, user_ids=[bob.id, ann.id, bob.id])
    room = made.data["chatroom"]
    assert made.data["created"] is True
    assert {name: room[name] for name in settings} == settings
    assert (room["owner_id"], room["member_count"], room["kind"], room["seq"]) == (str(ann.id), 2, "group", 1)
    fetched = await ask(server, door, bob, "get_chatroom", chatroom_id=room["id"])
    assert fetched.data["chatroom"] == room
    assert fetched.data["user_role"] == "member"
    assert {m["user_id"]: m["role"] for m in fetched.data["members"]} == {str(ann.id): "owner", str(bob.id): "member"}


@pytest.mark.parametrize(
    ("data", "code"),
    [
        ({}, "VALIDATION_REQUIRED_FIELD"),
        ({"name": ""}, "VALIDATION_INVALID_VALUE"),
        ({"name": "x" * 101}, "VALIDATION_LENGTH_EXCEEDED"),
        ({"name": "x", "description": "x" * 501}, "VALIDATION_LENGTH_EXCEEDED"),
        ({"name": "x", "max_members": 1}, "VALIDATION_INVALID_VALUE"),
        ({"name": "x", "kind": "channel"}, "VALIDATION_INVALID_VALUE"),
        ({"name": "x", "user_ids": ["nobody"]}, "VALIDATION_INVALID_FORMAT"),
        ({"name": "x", "user_ids": [str(UUID(int=5))]}, "AUTH_USER_NOT_FOUND"),
        ({"name": "x", "max_members": 2, "user_ids": ["BOB", "CAT"]}, "CHATROOM_FULL"),
        ({"kind": "direct"}, "VALIDATION_INVALID_VALUE"),
        ({"kind": "direct", "user_ids": ["ANN"]}, "VALIDATION_INVALID_VALUE"),
        ({"kind": "direct", "user_ids": ["BOB", "CAT"]}, "VALIDATION_INVALID_VALUE"),
        ({"kind": "direct", "user_ids": ["BOB", "BOB"]}, "VALIDATION_INVALID_VALUE"),
    ],
)
@BOTH
async def test_rooms_that_cannot_be(
    server: Server, crowd: list[Person], door: str, data: dict[str, Any], code: str
) -> None:
    """A wrong setting is refused with its code, and no room is made."""
    who = {"ANN": crowd[0].id, "BOB": crowd[1].id, "CAT": crowd[2].id}
    if "user_ids" in data:
        data = {**data, "user_ids": [str(who.get(user, user)) for user in data["user_ids"]]}
    before = (await ask(server, "rest", crowd[0], "list_chatrooms")).data["pagination"]["total"]
    assert (await ask(server, door, crowd[0], "create_chatroom", **data)).code == code
    assert (await ask(server, "rest", crowd[0], "list_chatrooms")).data["pagination"]["total"] == before


async def test_a_direct_room_exists_once(server: Server) -> None:
    """Creates at once, from both sides and through all doors, are one room; one of them made it."""
    ann, bob = await server.people(2)
    pairs = [(ann, bob), (bob, ann)]
    answers = await asyncio.gather(
        *(
            ask(
                server,
                DOORS[n // 2 % len(DOORS)],
                pairs[n % 2][0],
                "create_chatroom",
                kind="direct",
                user_ids=[pairs[n % 2][1].id],
            )
            for n in range(2 * len(DOORS))
        )
    )
    assert {answer.code for answer in answers} == {"ok"}
    assert len({answer.data["chatroom"]["id"] for answer in answers}) == 1
    assert sum(answer.data["created"] for answer in answers) == 1
    listed = await asyncio.gather(*(ask(server, "rest", person, "list_chatrooms") for person in (ann, bob)))
    assert [answer.data["pagination"]["total"] for answer in listed] == [1, 1]


async def test_a_direct_room_bears_the_other_s_name(server: Server, transport: Transport) -> None:
    """Each of the two sees the other's name, in the list, in the room and when a session opens."""
    ann, bob = await server.people(2)
    made = await ask(server, "rest", ann, "create_chatroom", kind="direct", user_ids=[bob.id])
    room = made.data["chatroom"]["id"]
    for person, other in ((ann, bob), (bob, ann)):
        listed = await ask(server, "rest", person, "list_chatrooms", search=other.username[:9])
        assert [item["name"] for item in listed.data["chatrooms"]] == [other.username.title()]
        fetched = await ask(server, "rest", person, "get_chatroom", chatroom_id=room)
        assert fetched.data["chatroom"]["name"] == other.username.title()
        async with socket_client(server, transport) as client:
            ready = await client.authenticate(person.token)
        assert [state["name"] for state in ready["chatrooms"]] == [other.username.title()]


@BOTH
async def test_a_direct_room_is_fixed(server: Server, crowd: list[Person], door: str) -> None:
    """The two of a direct room are its members for good, and it has no settings."""
    ann, bob, cat = crowd[:3]
    made = await ask(server, door, ann, "create_chatroom", kind="direct", user_ids=[bob.id])
    room = made.data["chatroom"]["id"]
    commands: dict[str, dict[str, Any]] = {
        "update_chatroom": {"name": "x"},
        "delete_chatroom": {},
        "add_members": {"user_ids": [cat.id]},
        "update_member": {"user_id": bob.id, "role": "owner"},
        "remove_member": {"user_id": bob.id},
        "mute_member": {"user_id": bob.id, "duration_seconds": 9},
        "unmute_member": {"user_id": bob.id},
        "ban_member": {"user_id": bob.id},
        "unban_member": {"user_id": bob.id},
        "list_bans": {},
        "leave_membership": {},
    }
    for event, data in commands.items():
        assert (await ask(server, door, ann, event, chatroom_id=room, **data)).code == "CHATROOM_ACCESS_DENIED"
        assert (await ask(server, door, cat, event, chatroom_id=room, **data)).code == "CHATROOM_NOT_FOUND"


# --- changing --------------------------------------------------------------------------------


@BOTH
async def test_update(server: Server, crowd: list[Person], door: str) -> None:
    """What is given changes, what is not stays; a null description clears it; fewer places than members are refused."""
    room, people = await role_room(server, crowd)
    owner = people["owner"]
    before = (await ask(server, door, owner, "get_chatroom", chatroom_id=room)).data["chatroom"]
    changed = await ask(server, door, owner, "update_chatroom", chatroom_id=room, name="New", description="d")
    after = changed.data["chatroom"]
    assert (after["name"], after["description"], after["seq"]) == ("New", "d", before["seq"] + 1)
    assert after["updated_at"] > before["updated_at"]
    assert {**after, "name": 0, "description": 0, "seq": 0, "updated_at": 0} == {
        **before,
        "name": 0,
        "description": 0,
        "seq": 0,
        "updated_at": 0,
    }
    cleared = await ask(server, door, owner, "update_chatroom", chatroom_id=room, description=None)
    assert cleared.data["chatroom"]["description"] is None
    refused = await ask(server, door, owner, "update_chatroom", chatroom_id=room, max_members=4)
    assert refused.code == "VALIDATION_INVALID_VALUE"
    fits = await ask(server, door, owner, "update_chatroom", chatroom_id=room, max_members=5)
    assert fits.data["chatroom"]["max_members"] == 5
    full = await ask(server, door, owner, "add_members", chatroom_id=room, user_ids=[people["outsider"].id])
    assert full.code == "CHATROOM_FULL"
    nothing = await ask(server, door, owner, "update_chatroom", chatroom_id=room)
    assert nothing.data["chatroom"]["seq"] == fits.data["chatroom"]["seq"]


@BOTH
async def test_a_deleted_room_is_gone(server: Server, crowd: list[Person], door: str) -> None:
    """After a delete the room is like one that never was, for everybody and every command."""
    room, people = await role_room(server, crowd)
    assert (await ask(server, door, people["owner"], "delete_chatroom", chatroom_id=room)).code == "ok"
    commands: dict[str, dict[str, Any]] = {
        "get_chatroom": {},
        "send_message": {"content": "x"},
        "fetch_messages": {},
        "update_chatroom": {"name": "x"},
        "delete_chatroom": {},
        "message_read": {"seq": 1},
    }
    for event, data in commands.items():
        assert (await ask(server, door, people["owner"], event, chatroom_id=room, **data)).code == GONE
    listed = await ask(server, "rest", people["member"], "list_chatrooms", limit=100)
    assert str(room) not in {item["id"] for item in listed.data["chatrooms"]}


# --- members ---------------------------------------------------------------------------------


@BOTH
async def test_adding_again_changes_nothing(server: Server, crowd: list[Person], door: str) -> None:
    """Those who are members stay as they are; only newcomers are added, and each is an event."""
    room, people = await role_room(server, crowd)
    before = (await ask(server, door, people["owner"], "get_chatroom", chatroom_id=room)).data["chatroom"]["seq"]
    ids = [people["moderator"].id, people["outsider"].id, people["outsider"].id]
    added = await ask(server, door, people["owner"], "add_members", chatroom_id=room, user_ids=ids)
    assert [member["user_id"] for member in added.data["added"]] == [str(people["outsider"].id)]
    assert added.data["seq"] == before + 1
    again = await ask(server, door, people["owner"], "add_members", chatroom_id=room, user_ids=ids)
    assert again.data["added"] == []
    assert again.data["seq"] == before + 1
    fetched = await ask(server, door, people["outsider"], "get_chatroom", chatroom_id=room)
    assert fetched.data["chatroom"]["member_count"] == 6
    roles = {member["user_id"]: member["role"] for member in fetched.data["members"]}
    assert roles[str(people["moderator"].id)] == "moderator"


async def test_a_room_does_not_overfill(server: Server, crowd: list[Person]) -> None:
    """Adds at the same moment never put more members into a room than it may have."""
    ann = crowd[0]
    room = await server.chatroom(ann, max_members=4)
    answers = await asyncio.gather(
        *(ask(server, "rest", ann, "add_members", chatroom_id=room, user_ids=[person.id]) for person in crowd[1:])
    )
    assert sorted(answer.code for answer in answers) == ["CHATROOM_FULL"] * 2 + ["ok"] * 3
    fetched = await ask(server, "rest", ann, "get_chatroom", chatroom_id=room)
    assert fetched.data["chatroom"]["member_count"] == len(fetched.data["members"]) == 4


@BOTH
async def test_an_owner_who_leaves_hands_over(server: Server, crowd: list[Person], door: str) -> None:
    """The longest-serving moderator becomes owner, or else the longest-serving member; the last to leave ends it."""
    ann, bob, cat, dan = crowd[:4]
    room = await server.chatroom(ann, bob)
    await ask(server, "rest", ann, "add_members", chatroom_id=room, user_ids=[cat.id])
    await ask(server, "rest", ann, "add_members", chatroom_id=room, user_ids=[dan.id])
    await ask(server, "rest", ann, "update_member", chatroom_id=room, user_id=dan.id, role="moderator")
    for leaver, heir in ((ann, dan), (dan, bob), (bob, cat)):
        assert (await ask(server, door, leaver, "leave_membership", chatroom_id=room)).code == "ok"
        fetched = (await ask(server, door, heir, "get_chatroom", chatroom_id=room)).data
        assert (fetched["chatroom"]["owner_id"], fetched["user_role"]) == (str(heir.id), "owner")
        assert (await ask(server, door, leaver, "get_chatroom", chatroom_id=room)).code == GONE
    assert (await ask(server, door, cat, "leave_membership", chatroom_id=room)).code == "ok"
    assert (await ask(server, door, cat, "get_chatroom", chatroom_id=room)).code == GONE


@BOTH
async def test_making_someone_owner_hands_over(server: Server, crowd: list[Person], door: str) -> None:
    """The old owner becomes a moderator, and there is always one owner."""
    room, people = await role_room(server, crowd)
    ann, bob = people["owner"], people["member"]
    done = await ask(server, door, ann, "update_member", chatroom_id=room, user_id=bob.id, role="owner")
    assert done.code == "ok"
    fetched = (await ask(server, door, bob, "get_chatroom", chatroom_id=room)).data
    roles = {member["user_id"]: member["role"] for member in fetched["members"]}
    assert fetched["chatroom"]["owner_id"] == str(bob.id)
    assert roles[str(bob.id)] == "owner"
    assert roles[str(ann.id)] == "moderator"
    assert (await ask(server, door, ann, "delete_chatroom", chatroom_id=room)).code == OWNER
    same = await ask(server, door, bob, "update_member", chatroom_id=room, user_id=bob.id, role="owner")
    assert (same.code, same.data["seq"]) == ("ok", 0)


# --- the list --------------------------------------------------------------------------------


async def test_the_list_of_chatrooms(server: Server) -> None:
    """The most recently active first, page by page, with role, last message and unread count; search is by name."""
    ann, bob = await server.people(2)
    rooms = [await server.chatroom(ann, bob, name=f"Room {n}") for n in range(5)]
    await ask(server, "rest", ann, "send_message", chatroom_id=rooms[1], content="hello")
    await ask(server, "rest", bob, "send_message", chatroom_id=rooms[1], content="hi")
    listed = (await ask(server, "rest", bob, "list_chatrooms")).data["chatrooms"]
    assert [item["id"] for item in listed] == [str(rooms[n]) for n in (1, 4, 3, 2, 0)]
    assert listed[0]["last_message"]["content"] == "hi"
    assert (listed[0]["unread_count"], listed[0]["role"], listed[0]["seq"]) == (1, "member", 3)
    assert listed[1]["last_message"] is None
    for door in DOORS:
        pages = [await ask(server, door, bob, "list_chatrooms", page=page, limit=2) for page in (1, 2, 3, 4)]
        assert [item["id"] for page in pages for item in page.data["chatrooms"]] == [item["id"] for item in listed]
        assert [page.data["pagination"]["has_more"] for page in pages] == [True, True, False, False]
        assert pages[0].data["pagination"] == {"page": 1, "limit": 2, "total": 5, "pages": 3, "has_more": True}
        for search, found in (("room 3", [3]), ("OOM", [1, 4, 3, 2, 0]), ("%", []), ("_oom", []), (str(uuid4()), [])):
            answer = await ask(server, door, ann, "list_chatrooms", search=search)
            assert [item["id"] for item in answer.data["chatrooms"]] == [str(rooms[n]) for n in found]
