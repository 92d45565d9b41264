"""A server that lies about keys, and a member who hands out rubbish: the Python client notices, and does not obey."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest

from crypto.end_to_end import DeviceName, DevicePrivateKey, Wrap
from crypto.sealing import new_key
from gateway.client import (
    CannotOpen,
    ClientEvent,
    KeyChanged,
    KeysWentBack,
)
from gateway.client_encrypted_room import EncryptedRoom
from gateway.client_files import Files
from gateway.client_keys import Keys
from protocol import commands, events
from protocol.commands import Command
from protocol.models import DeviceKey, KeyWrap, WrappedKey
from tests.e2e.ends import End, Enter, room_of
from tests.e2e.ends import enter as enter  # a fixture

NO_FILES = Files("", None, lambda: asyncio.sleep(0, ""))
Lie = Callable[[Command, Any], Any]


def through(end: End, lie: Lie) -> tuple[EncryptedRoom, list[ClientEvent], Callable[[UUID], EncryptedRoom]]:
    """This end, as it is with a server that changes its answers."""
    told: list[ClientEvent] = []

    async def ask(command: Command) -> Any:
        return lie(command, await end.client.call(command))

    keys = Keys(ask, end.person.id, end.device, told.append)
    return EncryptedRoom(keys, UUID(int=0), NO_FILES), told, lambda room: EncryptedRoom(keys, room, NO_FILES)


class Spy:
    """A server's own device, which it names as somebody else's."""

    def __init__(self) -> None:
        self.key = DevicePrivateKey.generate()
        self.public_key = base64.b64encode(self.key.public).decode()


async def test_a_swapped_device_key_is_noticed(enter: Enter) -> None:
    """A server that puts its key in the place of a known one gets nothing wrapped for it, and is reported."""
    ann, bob = await enter(), await enter()
    room = await room_of(ann, bob)
    await ann.send(room, "before")
    spy, wrapped = Spy(), []

    def lie(command: Command, answer: Any) -> Any:
        if isinstance(command, commands.PutChatroomKeys):
            wrapped.extend(command.keys)
        if isinstance(answer, events.ChatroomKeysFetched):
            swapped = [
                msgspec.structs.replace(one, public_key=spy.public_key, has_key=False)
                if one.user_id == bob.person.id
                else one
                for one in answer.devices
            ]
            return msgspec.structs.replace(answer, devices=tuple(swapped))
        return answer

    _, told, room_at = through(ann, lie)
    with pytest.raises(KeyChanged) as noticed:
        await room_at(room).send_encrypted("for Bob's eyes")
    assert [one.user_id for one in noticed.value.changed] == [bob.person.id]
    assert [event.event for event in told] == ["device_key_changed"]
    assert wrapped == []
    assert len(await bob.read(room)) == 1


async def test_a_device_slipped_in_is_noticed(enter: Enter) -> None:
    """The same for a device that is named beside the real ones, of a member or of the user itself."""
    ann, bob = await enter(), await enter()
    room = await room_of(ann, bob)
    await ann.send(room, "before")
    for victim in (bob.person.id, ann.person.id):
        spy = Spy()

        def lie(command: Command, answer: Any, victim: UUID = victim, spy: Spy = spy) -> Any:
            if isinstance(answer, events.ChatroomKeysFetched):
                extra = msgspec.structs.replace(
                    answer.devices[0], user_id=victim, device_id="spy", public_key=spy.public_key, has_key=False
                )
                return msgspec.structs.replace(answer, devices=(*answer.devices, extra))
            return answer

        _, _, room_at = through(ann, lie)
        with pytest.raises(KeyChanged) as noticed:
            await room_at(room).send_encrypted("secret")
        assert "spy" in [one.device_id for one in noticed.value.changed]


async def test_a_swapped_first_key_shows_in_the_safety_number(enter: Enter) -> None:
    """Who is in between from the very beginning is trusted on first use, and betrayed by the comparison."""
    ann, bob = await enter(), await enter()
    spy = Spy()

    def lie(command: Command, answer: Any) -> Any:
        if isinstance(command, commands.GetUserKeys) and command.user_id == bob.person.id:
            listed: list[DeviceKey] = [msgspec.structs.replace(k, public_key=spy.public_key) for k in answer.keys]
            return msgspec.structs.replace(answer, keys=tuple(listed))
        return answer

    first, told, _ = through(ann, lie)
    assert await first._keys.safety_number(bob.person.id) != await bob.client.keys.safety_number(ann.person.id)
    assert [event.event for event in told] == ["device_key_first_seen"]


@pytest.mark.parametrize("sender", ["spy as bob", "spy by its own key", "nobody"])
async def test_a_wrapped_key_of_the_servers_own_is_not_taken(enter: Enter, sender: str) -> None:
    """A key that the server made up is neither written with nor read with, whoever it says wrapped it."""
    ann, bob = await enter(), await enter()
    room = await room_of(ann, bob)
    await bob.send(room, "before")
    await ann.read(room)
    spy, planted = Spy(), new_key()
    to = ann.device.name(ann.person.id)
    named = DeviceName(bob.person.id if sender != "nobody" else uuid4(), bob.device.id)
    shown = bob.device.public_key if sender == "spy as bob" else spy.public_key
    sent: list[Any] = []

    def forged(version: int) -> str:
        return Wrap(room, version, named, to).close(planted, spy.key, ann.device.key.public)

    def lie(command: Command, answer: Any) -> Any:
        if isinstance(command, commands.SendMessage):
            sent.append(command.content)
        if not isinstance(answer, events.ChatroomKeysFetched):
            return answer
        swapped: list[WrappedKey] = [
            msgspec.structs.replace(
                key,
                sender_id=named.user_id,
                sender_device_id=named.device_id,
                sender_public_key=shown,
                wrapped_key=forged(key.key_version),
            )
            if key.sender_id == bob.person.id
            else key
            for key in answer.keys
        ]
        return msgspec.structs.replace(answer, keys=tuple(swapped))

    _, _, room_at = through(ann, lie)
    mine = room_at(room)
    (message,) = (await ann.client.fetch_messages(room, after=0)).messages
    with pytest.raises(CannotOpen if sender == "spy as bob" else KeyChanged):
        await mine.open(message)
    await mine.send_encrypted("after")
    assert planted not in [held.key for held in mine._held.values()]
    assert [content.key_version for content in sent] == [2]
    assert await bob.read(room) == ["before", "after"]


async def test_a_former_members_key_is_not_written_with(enter: Enter) -> None:
    """A server that passes on a key from somebody who has left, whose device is known and was trusted, is not believed.

    With what a former member sealed before, it still opens what was written before.
    """
    ann, bob, eve = await enter(), await enter(), await enter()
    room = await room_of(ann, bob, eve)
    await eve.send(room, "before")
    await ann.read(room)
    await ann.client.call(commands.RemoveMember(chatroom_id=room, user_id=eve.person.id))
    await bob.send(room, "after")
    evil = new_key()
    wrap = Wrap(room, 2, eve.device.name(eve.person.id), ann.device.name(ann.person.id))
    forged = wrap.close(evil, eve.device.key, ann.device.key.public)
    sent: list[Any] = []

    def lie(command: Command, answer: Any) -> Any:
        if isinstance(command, commands.SendMessage):
            sent.append(command.content)
        if not isinstance(answer, events.ChatroomKeysFetched):
            return answer
        old = next(key for key in answer.keys if key.key_version == 1)
        planted = msgspec.structs.replace(old, key_version=2, wrapped_key=forged)
        kept = [key for key in answer.keys if key.key_version != 2]
        return msgspec.structs.replace(answer, keys=(planted, *kept))

    _, _, room_at = through(ann, lie)
    mine = room_at(room)
    await mine.send_encrypted("not for Eve")
    assert sent[0].key_version == 3
    assert mine._held[3].key != evil
    first = (await ann.client.fetch_messages(room, after=0)).messages[0]
    assert await mine.open(first) == "before"


async def test_a_wrap_that_was_moved_is_not_taken(enter: Enter) -> None:
    """A server that gives out the key of an older version as the newest, or of another chatroom, is not believed."""
    ann, bob, eve = await enter(), await enter(), await enter()
    room, other = await room_of(ann, bob, eve), await room_of(ann, bob)
    await bob.send(room, "before")
    await bob.send(other, "elsewhere")
    old = (await ann.keys(room)).keys[0].wrapped_key
    elsewhere = (await ann.keys(other)).keys[0].wrapped_key
    await ann.client.call(commands.RemoveMember(chatroom_id=room, user_id=eve.person.id))
    await bob.send(room, "after")
    message = (await ann.client.fetch_messages(room, limit=1)).messages[0]
    for wrapped in (old, elsewhere, "AAAA", "no base64"):

        def lie(command: Command, answer: Any, wrapped: str = wrapped) -> Any:
            if not isinstance(answer, events.ChatroomKeysFetched):
                return answer
            keys = [msgspec.structs.replace(key, wrapped_key=wrapped) for key in answer.keys if key.key_version == 2]
            return msgspec.structs.replace(answer, keys=tuple(keys))

        _, _, room_at = through(ann, lie)
        with pytest.raises(CannotOpen) as refused:
            await room_at(room).open(message)
        assert refused.value.why == "no_key"


@pytest.mark.parametrize(
    "change",
    [
        {"sender_public_key": "no base64"},
        {"sender_public_key": base64.b64encode(bytes(32)).decode()},
        {"sender_device_id": "x" * 300},
        {"sender_device_id": "käse"},
        {"key_version": 2**40},
        {"key_version": -1},
    ],
    ids=str,
)
async def test_rubbish_is_no_key(enter: Enter, change: dict[str, Any]) -> None:
    """Whatever the server makes of a wrapped key, the client says that it has none, and makes a new one to write."""
    ann, bob = await enter(), await enter()
    room = await room_of(ann, bob)
    await bob.send(room, "before")
    (message,) = (await ann.client.fetch_messages(room, after=0)).messages

    def lie(command: Command, answer: Any) -> Any:
        if not isinstance(answer, events.ChatroomKeysFetched):
            return answer
        keys = [msgspec.structs.replace(key, **change) for key in answer.keys if key.sender_id == bob.person.id]
        return msgspec.structs.replace(answer, keys=(*keys, *answer.keys[len(keys) :]))

    _, _, room_at = through(ann, lie)
    with pytest.raises(CannotOpen) as refused:
        await room_at(room).open(message)
    assert refused.value.why == "no_key"
    await room_at(room).send_encrypted("after")
    assert await bob.read(room) == ["before", "after"]


async def test_a_server_that_goes_back_is_noticed(enter: Enter) -> None:
    """A server that hides a rotation, to have the next message written for a former member, is reported."""
    ann, bob, eve = await enter(name="ann"), await enter(), await enter()
    room = await room_of(ann, bob, eve)
    await ann.send(room, "before")
    past = await ann.keys(room)
    await ann.client.call(commands.RemoveMember(chatroom_id=room, user_id=eve.person.id))
    await ann.send(room, "after")

    def lie(command: Command, answer: Any) -> Any:
        return past if isinstance(answer, events.ChatroomKeysFetched) else answer

    _, _, room_at = through(ann, lie)
    with pytest.raises(KeysWentBack):
        await room_at(room).send_encrypted("not for Eve")
    await ann.client.close()
    again = await enter(ann.person, "ann")
    _, _, room_at = through(again, lie)
    with pytest.raises(KeysWentBack):
        await room_at(room).send_encrypted("not for Eve either")


async def test_a_member_who_hands_out_rubbish_stops_nobody(enter: Enter) -> None:
    """A wrap that does not open counts as none: the device makes a new version and goes on."""
    ann, bob = await enter(), await enter()
    room = await room_of(ann, bob)
    rubbish = [
        KeyWrap(user_id=end.person.id, device_id=end.device.id, public_key=end.device.public_key, wrapped_key="AAAA")
        for end in (bob, ann)
    ]
    await bob.client.call(
        commands.PutChatroomKeys(
            chatroom_id=room,
            key_version=1,
            sender_device_id=bob.device.id,
            sender_public_key=bob.device.public_key,
            keys=rubbish,
            is_new=True,
        )
    )
    await ann.send(room, "hello")
    assert await bob.read(room) == await ann.read(room) == ["hello"]
    assert await ann.version(room) == 2
