"""End-to-end keys: who may read and write them, when they have to be made anew, and what is refused then."""

from __future__ import annotations

import asyncio
import base64
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from crypto.end_to_end import DevicePrivateKey
from crypto.sealing import new_key
from tests.e2e.bots import make_bot
from tests.e2e.devices import Device, devices, keyed_room, retired
from tests.e2e.doors import DOORS, ask, beside
from tests.e2e.lines import Transport
from tests.e2e.server import Person, Server
from tests.e2e.socket_client import SocketClient, socket_client

BOTH = pytest.mark.parametrize("door", DOORS)
GOOD = base64.b64encode(DevicePrivateKey(b"\x07" * 32).public).decode()
GONE, OUTDATED = "CHATROOM_NOT_FOUND", "MESSAGE_KEY_OUTDATED"


@pytest.fixture
def server(common_server: Server) -> Server:
    """The common server; every test here makes rooms of its own."""
    return common_server


async def heard(client: SocketClient, room: UUID) -> list[dict[str, Any]]:
    """The events of a room that have come up to now."""
    await client.send("ping", id="now")
    events = []
    while (frame := await client.recv()).get("id") != "now":
        if frame.get("chatroom_id") == str(room):
            events.append(frame)
    return events


# --- devices ---------------------------------------------------------------------------------


@BOTH
async def test_devices_of_a_user(server: Server, door: str) -> None:
    """A device's key is registered, read by everyone, replaced, and removed; the profile's `public_key` stays apart."""
    ann, bob = await server.people(2)
    laptop, phone = Device(server, ann, "laptop", door), Device(server, ann, "phone", door)
    await server.data("PUT", "/users/me", ann.token, {"public_key": "an RSA key, as before"})
    first = await laptop.ask("put_device_key", device_id="laptop", public_key=laptop.public_key, name="Ann's laptop")
    await phone.register()
    assert (first.data["replaced"], first.data["key"]["name"]) == (False, "Ann's laptop")
    again = await laptop.ask("put_device_key", device_id="laptop", public_key=laptop.public_key, name="Renamed")
    assert (again.data["replaced"], again.data["key"]["created_at"]) == (False, first.data["key"]["created_at"])
    seen = await ask(server, door, bob, "get_user_keys", user_id=ann.id)
    assert seen.data == (await laptop.ask("list_device_keys")).data
    assert seen.data["user_id"] == str(ann.id)
    assert [(k["device_id"], k["name"], k["public_key"]) for k in seen.data["keys"]] == [
        ("laptop", "Renamed", laptop.public_key),
        ("phone", None, phone.public_key),
    ]
    laptop.key = DevicePrivateKey.generate()
    assert (await laptop.register()).data["replaced"] is True
    assert (await phone.delete()).data == {"device_id": "phone"}
    assert (await phone.delete()).code == "RESOURCE_NOT_FOUND"
    left = (await ask(server, door, bob, "get_user_keys", user_id=ann.id)).data["keys"]
    assert [(key["device_id"], key["public_key"]) for key in left] == [("laptop", laptop.public_key)]
    assert (await server.data("GET", f"/users/{ann.id}", bob.token))["public_key"] == "an RSA key, as before"
    assert (await ask(server, door, bob, "get_user_keys", user_id=UUID(int=4))).code == "AUTH_USER_NOT_FOUND"


async def test_a_user_has_a_bounded_number_of_devices(server: Server) -> None:
    """The eleventh is refused, also when all come at once; a registered one can still be replaced."""
    ann = await server.person()
    many = [Device(server, ann, f"d{n}") for n in range(15)]
    codes = [answer.code for answer in await asyncio.gather(*(device.register() for device in many))]
    assert sorted(codes) == ["RESOURCE_LIMIT_EXCEEDED"] * 5 + ["ok"] * 10
    kept = many[codes.index("ok")]
    kept.key = DevicePrivateKey.generate()
    assert (await kept.register()).data["replaced"] is True


@BOTH
@pytest.mark.parametrize(
    ("data", "code", "field"),
    [
        ({"device_id": "x"}, "VALIDATION_REQUIRED_FIELD", "public_key"),
        ({"device_id": "with space", "public_key": GOOD}, "VALIDATION_INVALID_VALUE", "device_id"),
        ({"device_id": "x" * 65, "public_key": GOOD}, "VALIDATION_LENGTH_EXCEEDED", "device_id"),
        ({"public_key": "AAAA"}, "VALIDATION_INVALID_VALUE", "public_key"),
        ({"public_key": "?" * 43 + "="}, "VALIDATION_INVALID_VALUE", "public_key"),
        ({"public_key": base64.b64encode(bytes(32)).decode()}, "VALIDATION_INVALID_VALUE", "public_key"),
        ({"public_key": base64.b64encode(b"\xff" * 32).decode()}, "VALIDATION_INVALID_VALUE", "public_key"),
        ({"public_key": "A" * 42 + "B="}, "VALIDATION_INVALID_VALUE", "public_key"),
    ],
    ids=str,
)
async def test_keys_that_are_none(
    server: Server, crowd: list[Person], door: str, data: dict[str, Any], code: str, field: str
) -> None:
    """Wrong lengths, points of low order and second spellings are refused, naming the field."""
    answer = await ask(server, door, crowd[0], "put_device_key", **{"device_id": "bad", **data})
    assert (answer.code, answer.data["details"]["field"]) == (code, field)


# --- who may ---------------------------------------------------------------------------------


@BOTH
async def test_who_may_have_keys(server: Server, crowd: list[Person], door: str) -> None:
    """Members read what was wrapped for a device of theirs, and write; for others the room is not there."""
    ann, bob, eve = used = await devices(server, crowd[:3], door)
    room, key = await keyed_room(server, ann, bob)
    assert await ann.open_keys(room) == await bob.open_keys(room) == {1: key}
    assert (await eve.fetch(room)).code == GONE
    assert (await eve.make(room, 2, new_key())).code == GONE
    assert (await eve.give(room, 1, key, eve)).code == GONE
    # Another's device is not yours, to read as or to write as.
    mine = await bob.ask("get_chatroom_keys", chatroom_id=room, device_id=ann.id)
    assert (mine.code, mine.data["details"]) == ("RESOURCE_NOT_FOUND", {"field": "device_id"})
    posing = Device(server, bob.person, ann.id, door, ann.key)
    assert (await posing.give(room, 1, key, ann)).code == "RESOURCE_NOT_FOUND"
    # Keys go to members' present devices only.
    assert (await ann.give(room, 1, key, eve)).code == "RESOURCE_NOT_FOUND"
    other_key = Device(server, bob.person, bob.id, door)
    assert (await ann.give(room, 1, key, other_key)).code == "RESOURCE_NOT_FOUND"
    listed = (await bob.fetch(room)).data["devices"]
    assert {(device["user_id"], device["device_id"]) for device in listed} >= {
        (str(ann.person.id), ann.id),
        (str(bob.person.id), bob.id),
    }
    assert str(eve.person.id) not in {device["user_id"] for device in listed}
    await retired(*used)


@BOTH
async def test_versions(server: Server, crowd: list[Person], door: str) -> None:
    """A new version is the next; an existing one is given to who lacks it, by who has it, and never replaced."""
    ann, bob = used = await devices(server, crowd[:2], door)
    room = await server.chatroom(ann.person, bob.person)
    key, second = new_key(), new_key()
    empty = (await ann.fetch(room)).data
    assert (empty["key_version"], empty["min_key_version"], empty["rotation_needed"]) == (0, 1, False)
    assert (await ann.make(room, 2, key)).code == "VALIDATION_INVALID_VALUE"
    assert (await ann.put(room, 1, ann.wraps(room, 1, key, bob), is_new=True)).code == "VALIDATION_INVALID_VALUE"
    assert (await ann.give(room, 1, key, ann)).code == "RESOURCE_ACCESS_DENIED"
    wraps = ann.wraps(room, 1, key, ann)
    made = await ann.put(room, 1, wraps, is_new=True)
    assert (made.code, made.data["added"]) == ("ok", 1)
    retried = await ann.put(room, 1, wraps, is_new=True)
    assert (retried.code, retried.data["added"]) == ("ok", 0)
    assert (await ann.make(room, 1, second)).code == "RESOURCE_ALREADY_EXISTS"
    assert (await bob.give(room, 1, second, bob)).code == "RESOURCE_ACCESS_DENIED"
    lacking = [d["device_id"] for d in (await bob.fetch(room)).data["devices"] if not d["has_key"]]
    assert bob.id in lacking
    assert ann.id not in lacking
    assert (await ann.give(room, 1, key, bob)).data["added"] == 1
    assert (await ann.give(room, 1, second, bob)).data["added"] == 0
    assert await bob.open_keys(room) == {1: key}
    assert (await bob.make(room, 2, second, ann)).code == "ok"
    assert await ann.open_keys(room) == {1: key, 2: second}
    assert (await ann.fetch(room, before=2)).data["keys"][0]["key_version"] == 1
    await retired(*used)


async def test_the_loser_of_a_race_uses_the_winners_key(server: Server, crowd: list[Person]) -> None:
    """Of many who make the same version one succeeds, and its key is everybody's."""
    made = await devices(server, crowd[:5])
    room = await server.chatroom(*(device.person for device in made))
    keys = [new_key() for _ in made]
    answers = await asyncio.gather(
        *(one.make(room, 1, key, *(d for d in made if d is not one)) for one, key in zip(made, keys, strict=True))
    )
    codes = [answer.code for answer in answers]
    assert sorted(codes) == ["RESOURCE_ALREADY_EXISTS"] * 4 + ["ok"]
    assert answers[codes.index("RESOURCE_ALREADY_EXISTS")].data["details"]["key_version"] == 1
    winner = keys[codes.index("ok")]
    assert [await device.open_keys(room) for device in made] == [{1: winner}] * 5
    await retired(*made)


async def test_many_versions_come_page_by_page(server: Server, crowd: list[Person]) -> None:
    """200 versions come at once, the newest first, and `more` says that there are others."""
    (ann,) = used = await devices(server, crowd[:1])
    room = await server.chatroom(ann.person)
    connection = await asyncpg.connect(server.database_url)
    assert (await ann.make(room, 1, new_key())).code == "ok"
    await connection.execute(
        """INSERT INTO wrapped_keys SELECT chatroom_id, user_id, device_id, n, public_key, sender_id,
               sender_device_id, sender_public_key, wrapped_key, created_at
           FROM wrapped_keys, generate_series(2, 205) n WHERE chatroom_id = $1""",
        room,
    )
    await connection.close()
    first = (await ann.fetch(room)).data
    rest = (await ann.fetch(room, before=first["keys"][-1]["key_version"])).data
    assert [key["key_version"] for key in first["keys"] + rest["keys"]] == list(range(205, 0, -1))
    assert (first["more"], rest["more"]) == (True, False)
    await retired(*used)


# --- rotation --------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("how", ["user_left", "user_removed", "banned"])
async def test_who_goes_takes_the_key_out_of_use(server: Server, crowd: list[Person], door: str, how: str) -> None:
    """`key_rotation_needed` follows `user_left` at once; the old version is refused; a new one works.

    Who has gone hears neither, gets no keys, and opens nothing of what is written from then on.
    """
    ann, bob, eve = used = await devices(server, crowd[:3], door)
    room, key = await keyed_room(server, ann, bob, eve)
    before = await eve.send(room, 1, key, "before")
    async with socket_client(server, beside(door)) as client, socket_client(server, beside(door)) as gone:
        await client.authenticate(bob.person.token)
        await gone.authenticate(eve.person.token)
        if how == "user_left":
            done = await eve.ask("leave_membership", chatroom_id=room)
        else:
            command = "remove_member" if how == "user_removed" else "ban_member"
            done = await ann.ask(command, chatroom_id=room, user_id=eve.person.id)
        left, rotate = await heard(client, room)
        assert (left["event"], rotate["event"]) == ("user_left", "key_rotation_needed")
        assert rotate["seq"] == left["seq"] + 1 == done.data["seq"]
        reason = "user_left" if how == "user_left" else "user_removed"
        assert rotate["data"] == {"chatroom_id": str(room), "key_version": 1, "reason": reason}
        assert [frame["event"] for frame in await heard(gone, room)] == ["user_left"]
    refused = await bob.send(room, 1, key, "too late")
    assert (refused.code, refused.data["details"]) == (OUTDATED, {"key_version": 1, "min_key_version": 2})
    state = (await bob.fetch(room)).data
    assert (state["key_version"], state["min_key_version"], state["rotation_needed"]) == (1, 2, True)
    second = new_key()
    assert (await bob.make(room, 2, second, eve, ann)).code == "RESOURCE_NOT_FOUND"
    assert (await bob.make(room, 2, second, ann)).code == "ok"
    assert (await bob.fetch(room)).data["rotation_needed"] is False
    assert (await bob.send(room, 2, second, "after")).code == "ok"
    assert (await eve.fetch(room)).code == GONE
    assert before.code == "ok"
    await retired(*used)


async def test_who_comes_back_is_a_newcomer(server: Server, crowd: list[Person]) -> None:
    """Keys that a former member had are not given out again when they return."""
    ann, bob = used = await devices(server, crowd[:2])
    room, _ = await keyed_room(server, ann, bob)
    await bob.ask("leave_membership", chatroom_id=room)
    await ann.ask("add_members", chatroom_id=room, user_ids=[bob.person.id])
    assert await bob.open_keys(room) == {}
    await retired(*used)


@BOTH
@pytest.mark.parametrize("how", ["device_deleted", "device_replaced"])
async def test_a_device_that_goes_takes_the_key_out_of_use(
    server: Server, crowd: list[Person], door: str, how: str
) -> None:
    """Each chatroom whose key the device had hears `key_rotation_needed`; others do not."""
    ann, bob, phone = used = await devices(server, [crowd[0], crowd[1], crowd[1]], door)
    room, key = await keyed_room(server, ann, bob, phone)
    without, other_key = await keyed_room(server, ann, bob)
    async with socket_client(server, beside(door)) as client:
        await client.authenticate(ann.person.token)
        if how == "device_deleted":
            await phone.delete()
        else:
            phone.key = DevicePrivateKey.generate()
            assert (await phone.register()).data["replaced"] is True
        frames = await heard(client, room)
    assert [(frame["event"], frame["data"]) for frame in frames] == [
        ("key_rotation_needed", {"chatroom_id": str(room), "key_version": 1, "reason": how})
    ]
    assert (await bob.send(room, 1, key, "too late")).code == OUTDATED
    assert (await bob.send(without, 1, other_key, "in time")).code == "ok"
    if how == "device_replaced":
        assert await phone.open_keys(room) == {}
        assert (await ann.make(room, 2, key, bob, phone)).code == "ok"
        assert await phone.open_keys(room) == {2: key}
        # A key that was never used for this room is replaced without ado.
        phone.key = DevicePrivateKey.generate()
    await retired(*used)


async def test_a_revoked_bot_has_no_devices(server: Server, crowd: list[Person], transport: Transport) -> None:
    """Revoking a bot is the end of its devices too: its chatrooms' keys are out of use."""
    bot = await make_bot(server, crowd[0], "read", "write")
    ann, machine = await devices(server, [crowd[0], bot])
    room, key = await keyed_room(server, ann, machine)
    async with socket_client(server, transport) as client:
        await client.authenticate(ann.person.token)
        await server.data("DELETE", f"/bots/{bot.id}", ann.person.token)
        frames = await heard(client, room)
    assert [(frame["event"], frame["data"]["reason"]) for frame in frames] == [
        ("key_rotation_needed", "device_deleted")
    ]
    assert (await ann.send(room, 1, key, "too late")).code == OUTDATED
    assert {device["user_id"] for device in (await ann.fetch(room)).data["devices"]} == {str(ann.person.id)}
    await retired(ann)


async def test_a_rotation_that_is_due_is_not_due_twice(
    server: Server, crowd: list[Person], transport: Transport
) -> None:
    """A device that has no version that may still be used goes without an event; who leaves always makes one."""
    ann, bob, phone = used = await devices(server, [crowd[0], crowd[1], crowd[0]])
    room, _ = await keyed_room(server, ann, bob, phone)
    async with socket_client(server, transport) as client:
        await client.authenticate(ann.person.token)
        await phone.delete()
        await bob.delete()
        await bob.ask("leave_membership", chatroom_id=room)
        frames = await heard(client, room)
    assert [frame["event"] for frame in frames] == ["key_rotation_needed", "user_left", "key_rotation_needed"]
    assert [frame["data"].get("reason") for frame in frames] == ["device_deleted", None, "user_left"]
    assert (await ann.fetch(room)).data["min_key_version"] == 2
    await retired(*used)


async def test_no_keys_no_rotation(server: Server, crowd: list[Person], transport: Transport) -> None:
    """Where clients manage keys on their own, any version is taken, and nobody is told to rotate."""
    ann, bob = crowd[:2]
    room = await server.chatroom(ann, bob)
    sealed = {"encrypted_data": "ZQ==", "iv": "aQ==", "key_version": 77}
    async with socket_client(server, transport) as client:
        await client.authenticate(ann.token)
        await ask(server, "rest", bob, "leave_membership", chatroom_id=room)
        assert [frame["event"] for frame in await heard(client, room)] == ["user_left"]
    assert (await ask(server, "rest", ann, "send_message", chatroom_id=room, content=sealed)).code == "ok"


# --- refusals --------------------------------------------------------------------------------


@BOTH
async def test_versions_that_are_refused(server: Server, crowd: list[Person], door: str) -> None:
    """Above the newest and below the oldest is refused; text goes on; a retry still gives the first message."""
    ann, bob, eve = used = await devices(server, crowd[:3], door)
    room, key = await keyed_room(server, ann, bob, eve)
    first = await ann.send(room, 1, key, "first", client_id="one")
    assert (await ann.send(room, 2, key, "not yet")).code == OUTDATED
    await ann.ask("remove_member", chatroom_id=room, user_id=eve.person.id)
    assert (await ann.send(room, 1, key, "no more", client_id="two")).code == OUTDATED
    assert (await ann.send(room, 2, key, "not yet")).code == OUTDATED
    again = await ann.send(room, 1, key, "first", client_id="one")
    assert (again.code, again.data["duplicate"]) == ("ok", True)
    assert again.data["message"] == first.data["message"]
    assert (await ann.make(room, 2, new_key(), bob)).code == "ok"
    assert (await ann.send(room, 1, key, "still no more")).code == OUTDATED
    assert (await ask(server, door, ann.person, "send_message", chatroom_id=room, content="text")).code == "ok"
    await retired(*used)


async def test_no_message_under_an_old_key_after_a_removal(
    server: Server, crowd: list[Person], transport: Transport
) -> None:
    """Whatever races with a removal: no message of the old version has a `seq` above `key_rotation_needed`."""
    ann, bob, eve = used = await devices(server, crowd[:3])
    room, key = await keyed_room(server, ann, bob, eve)
    async with socket_client(server, transport) as client, socket_client(server, transport) as writer:
        await client.authenticate(ann.person.token)
        await writer.authenticate(bob.person.token)
        removal = asyncio.create_task(ann.ask("remove_member", chatroom_id=room, user_id=eve.person.id))
        taken = await _write_until_refused(writer, bob, room, key)
        await removal
        frames = await heard(client, room)
    kinds = [frame["event"] for frame in frames]
    assert "message_received" not in kinds[kinds.index("key_rotation_needed") :]
    assert kinds.count("message_received") == taken
    await retired(*used)


async def _write_until_refused(client: SocketClient, device: Device, room: UUID, key: bytes) -> int:
    """How many messages were taken; ten at a time, until all of ten are refused for their key."""
    taken = 0
    while True:
        content = device.seal(room, 1, key, "under the old key")
        for n in range(10):
            await client.send("send_message", {"chatroom_id": room, "content": content}, id=f"m{n}")
        answers: list[dict[str, Any]] = []
        while len(answers) < 10:
            frame = await client.recv()
            if frame.get("id") is not None:
                answers.append(frame)
        taken += sum(1 for frame in answers if frame["event"] == "ack")
        refused = [frame["data"]["code"] for frame in answers if frame["event"] == "error"]
        assert set(refused) <= {OUTDATED}
        if len(refused) == 10:
            return taken


async def test_a_rotation_that_was_cut_short_is_finished(start_server: Any, database_url: str) -> None:
    """A device that was deleted just before a crash: the next start tells the chatrooms what they have to know."""
    server: Server = await start_server()
    ann, bob = await devices(server, await server.people(2))
    room, key = await keyed_room(server, ann, bob)
    await server.kill()
    connection = await asyncpg.connect(database_url)
    await connection.execute("DELETE FROM device_keys WHERE user_id = $1", bob.person.id)
    await connection.close()
    await server.start()
    async with asyncio.timeout(20):
        while not (await ann.fetch(room)).data["rotation_needed"]:
            await asyncio.sleep(0.05)
    assert (await ann.send(room, 1, key, "too late")).code == OUTDATED
