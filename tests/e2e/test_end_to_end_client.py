"""The Python client, end to end: it makes, hands out and rotates keys by itself, and reports whoever comes between."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest

from crypto.end_to_end import DeviceName, DevicePrivateKey, Wrap
from crypto.sealing import new_key
from gateway.client import (
    CannotOpen,
    ChatError,
    Client,
    ClientEvent,
    Device,
    DeviceRevoked,
    KeyChanged,
    KeysWentBack,
    connect,
)
from gateway.client_encrypted_room import EncryptedRoom
from gateway.client_keys import Keys
from protocol import commands, events
from protocol.commands import Command
from protocol.models import DeviceKey, KeyWrap, Message, WrappedKey
from tests.e2e.server import Person, Server


@pytest.fixture
def server(common_server: Server) -> Server:
    """The common server; every test here makes people and rooms of its own."""
    return common_server


class End:
    """A person at a device, connected."""

    def __init__(self, server: Server, person: Person, client: Client, device: Device) -> None:
        self.server = server
        self.person = person
        self.client = client
        self.device = device

    async def send(self, room: UUID, text: str, **more: Any) -> Message:
        """Writes to a room."""
        return (await self.client.room(room).send_encrypted(text, **more)).message

    async def read(self, room: UUID) -> list[str]:
        """The whole history, as far as it opens; the others by why they do not."""
        messages = (await self.client.fetch_messages(room, after=0, limit=100)).messages
        return [await self.text(message) for message in messages]

    async def text(self, message: Message) -> str:
        """One message, or why it does not open."""
        try:
            return await self.client.room(message.chatroom_id).open(message)
        except CannotOpen as error:
            return f"<{error.why}>"
        except KeyChanged:
            return "<changed>"

    async def event(self, name: str) -> ClientEvent:
        """The next event of this name."""
        async with asyncio.timeout(10):
            async for event in self.client:
                if event.event == name:
                    return event
        raise AssertionError("the client ended")

    async def version(self, room: UUID) -> int:
        """The newest version of a room's key."""
        return (await self.keys(room)).key_version

    async def keys(self, room: UUID) -> events.ChatroomKeysFetched:
        """What the server has for the device."""
        fetched: events.ChatroomKeysFetched = await self.client.call(
            commands.GetChatroomKeys(chatroom_id=room, device_id=self.device.id)
        )
        return fetched


Enter = Callable[..., Any]


@pytest.fixture
async def enter(server: Server, tmp_path: Path) -> AsyncIterator[Enter]:
    """Connects a person from a device, which is a file of this name."""
    async with AsyncExitStack() as stack:

        async def enter(person: Person | None = None, name: str | None = None) -> End:
            person = person or await server.person()
            device = Device.load(tmp_path / (name or f"{uuid4().hex}.device"))
            client = await stack.enter_async_context(connect(server.ws, person.token, device=device))
            return End(server, person, client, device)

        yield enter


async def room_of(owner: End, *others: End) -> UUID:
    """A room of these people that takes encrypted content only."""
    people = {other.person.id: other.person for other in others if other.person.id != owner.person.id}
    return await owner.server.chatroom(owner.person, *people.values(), encryption_enabled=True)


# --- a conversation --------------------------------------------------------------------------


async def test_a_conversation(enter: Enter) -> None:
    """The first message makes the key, both sides read all, and the server is sent nothing that it could read."""
    ann, bob = await enter(), await enter()
    room = await room_of(ann, bob)
    first = await ann.send(room, "hello, naïve café 🦊")
    assert not isinstance(first.content, str)
    assert (first.content.key_version, len(first.content.iv)) == (1, 48)
    await bob.send(room, "hello yourself", reply_to=first.id)
    received = (await bob.event("message_received")).data.message
    assert await bob.text(received) == "hello, naïve café 🦊"
    assert await ann.read(room) == await bob.read(room) == ["hello, naïve café 🦊", "hello yourself"]
    assert await ann.version(room) == 1


async def test_a_restarted_client_goes_on(enter: Enter, server: Server, tmp_path: Path) -> None:
    """The device's file is all that it takes: keys come back from the server, and nothing is made anew."""
    ann, bob = await enter(name="ann"), await enter()
    room = await room_of(ann, bob)
    await ann.send(room, "before")
    await ann.client.close()
    again = await enter(ann.person, "ann")
    assert again.client.keys.fingerprint == ann.client.keys.fingerprint
    await again.send(room, "after")
    assert await again.read(room) == await bob.read(room) == ["before", "after"]
    assert await bob.version(room) == 1


async def test_all_devices_of_a_user_read(enter: Enter) -> None:
    """A second device that was there before the key reads along; each user has up to ten."""
    ann, bob = await enter(), await enter()
    phone = await enter(bob.person)
    room = await room_of(ann, bob)
    await ann.send(room, "to both")
    assert await bob.read(room) == await phone.read(room) == ["to both"]


async def test_messages_that_do_not_open(enter: Enter) -> None:
    """Text, content of other clients, and a message that was changed or moved say why they do not open."""
    ann, bob = await enter(), await enter()
    room, other = await room_of(ann, bob), await room_of(ann, bob)
    message = await ann.send(room, "yes", reply_to=None)
    no = await ann.send(room, "no")
    await ann.send(other, "elsewhere")
    moved = msgspec.structs.replace(message, chatroom_id=other)
    stolen = msgspec.structs.replace(message, user_id=bob.person.id)
    turned = msgspec.structs.replace(message, reply_to=no.id)
    relabelled = msgspec.structs.replace(message, message_type="file")
    newer = msgspec.structs.replace(
        message,
        content=msgspec.structs.replace(message.content, key_version=2),
    )
    assert [await bob.text(one) for one in (message, moved, stolen, turned, relabelled, newer)] == [
        "yes",
        *["<broken>"] * 4,
        "<no_key>",
    ]
    plain = msgspec.structs.replace(message, content="yes")
    assert await bob.text(plain) == "<not_encrypted>"
    with pytest.raises(RuntimeError, match="device="):
        Client(bob.client._io).room(room)


# --- coming and going ------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["removed", "left"])
async def test_who_is_gone_reads_no_more(enter: Enter, how: str) -> None:
    """The next message is under a new key, which the former member, with all that they had, does not get."""
    ann, bob, eve = await enter(), await enter(), await enter()
    room = await room_of(ann, bob, eve)
    await ann.send(room, "before")
    assert await eve.read(room) == ["before"]
    if how == "removed":
        await ann.client.call(commands.RemoveMember(chatroom_id=room, user_id=eve.person.id))
    else:
        await eve.client.call(commands.LeaveMembership(chatroom_id=room))
    assert (await ann.event("key_rotation_needed")).data.key_version == 1
    after = await bob.send(room, "after")
    assert await ann.read(room) == ["before", "after"]
    assert await ann.version(room) == 2
    # Even with the message in hand.
    with pytest.raises(ChatError) as refused:
        await eve.text(after)
    assert refused.value.code == "CHATROOM_NOT_FOUND"
    assert set(eve.client.room(room)._held) == {1}
    with pytest.raises(ChatError):
        await eve.send(room, "let me in")


async def test_a_removal_that_the_sender_has_not_heard_of(enter: Enter) -> None:
    """A message under the old key is refused by the server; the client rotates, and it arrives once."""
    ann, bob, eve = await enter(), await enter(), await enter()
    room = await room_of(ann, bob, eve)
    await bob.send(room, "before")
    bob.client._io.inbox.watch = lambda _: None  # no event reaches the room any more
    await ann.client.call(commands.RemoveMember(chatroom_id=room, user_id=eve.person.id))
    sent = await bob.client.room(room).send_encrypted("after", client_id="once")
    assert (sent.duplicate, sent.client_id) == (False, "once")
    assert await ann.read(room) == ["before", "after"]
    assert await ann.version(room) == 2


async def test_newcomers_read_from_then_on(enter: Enter) -> None:
    """A newcomer opens nothing from before they came, and everything after; they may write first, too."""
    ann, bob, eve = await enter(), await enter(), await enter()
    room = await room_of(ann, bob)
    await ann.send(room, "before")
    await ann.client.call(commands.AddMembers(chatroom_id=room, user_ids=[eve.person.id]))
    await ann.event("user_joined")
    await ann.send(room, "welcome")
    assert await eve.read(room) == ["<no_key>", "welcome"]
    late = await enter()
    await ann.client.call(commands.AddMembers(chatroom_id=room, user_ids=[late.person.id]))
    await late.send(room, "hello")
    assert await late.read(room) == ["<no_key>", "<no_key>", "hello"]
    assert await ann.read(room) == await bob.read(room) == ["before", "welcome", "hello"]


async def test_a_member_without_a_device_gets_the_key_later(enter: Enter, server: Server) -> None:
    """Who was a member when the key was made is given it with their first device, without a new version."""
    ann, person = await enter(), await server.person()
    room = await server.chatroom(ann.person, person)
    await ann.send(room, "early")
    bob = await enter(person)
    ann.client.room(room)._checked_at = None  # as after a minute: a new device is no event
    await ann.send(room, "later")
    assert await bob.read(room) == ["early", "later"]
    assert await ann.version(room) == 1


async def test_everyone_at_once(enter: Enter) -> None:
    """Of five who write first at the same moment one makes the key; all messages are under it, and all are read."""
    ends = [await enter() for _ in range(5)]
    room = await room_of(*ends)
    await asyncio.gather(*(end.send(room, f"from {n}") for n, end in enumerate(ends)))
    for end in ends:
        assert sorted(await end.read(room)) == [f"from {n}" for n in range(5)]
    assert await ends[0].version(room) == 1


async def test_a_race_of_rotations(enter: Enter) -> None:
    """After a removal all write at once: one rotation serves them all."""
    ends = [await enter() for _ in range(4)]
    room = await room_of(*ends)
    await asyncio.gather(*(end.send(room, "before") for end in ends))
    await ends[0].client.call(commands.RemoveMember(chatroom_id=room, user_id=ends[3].person.id))
    await asyncio.gather(*(end.send(room, f"from {n}") for n, end in enumerate(ends[:3])))
    assert (await ends[0].read(room))[-3:] == (await ends[1].read(room))[-3:]
    assert await ends[0].version(room) == 2


# --- devices that go -------------------------------------------------------------------------


async def test_a_deleted_device_is_out(enter: Enter) -> None:
    """A device that its user removed gets no further key, and says so instead of coming back by itself."""
    ann, bob = await enter(), await enter()
    phone = await enter(bob.person, "phone")
    room = await room_of(ann, bob)
    await ann.send(room, "before")
    await bob.client.call(commands.DeleteDeviceKey(device_id=phone.device.id))
    after = await ann.send(room, "after")
    assert await bob.read(room) == ["before", "after"]
    with pytest.raises(DeviceRevoked):
        await phone.text(after)
    with pytest.raises(DeviceRevoked):
        await phone.send(room, "still here")
    with pytest.raises(DeviceRevoked):
        await enter(bob.person, "phone")
    with pytest.raises(DeviceRevoked):
        await enter(ann.person, "phone")


# --- keys that change ------------------------------------------------------------------------


async def test_first_use_is_told(enter: Enter) -> None:
    """The first keys of a user are taken, and an event says which."""
    bob = await enter()
    ann = await enter()
    room = await room_of(ann, bob)
    await ann.send(room, "hello")
    told = await ann.event("device_key_first_seen")
    assert (told.data.user_id, told.data.device_id) == (bob.person.id, bob.device.id)
    assert told.data.fingerprint == bob.client.keys.fingerprint
    (shown,) = await ann.client.keys.fingerprints(bob.person.id)
    assert (shown.fingerprint, shown.trust) == (bob.client.keys.fingerprint, "first_use")


@pytest.mark.parametrize("word", ["trust", "refuse"])
async def test_a_new_device_waits_for_a_word(enter: Enter, word: str) -> None:
    """A known user's new device is told, sending stops, and nothing is wrapped for it until somebody has decided."""
    ann, bob = await enter(), await enter()
    room = await room_of(ann, bob)
    await ann.send(room, "before")
    phone = await enter(bob.person)
    ann.client.room(room)._checked_at = None
    with pytest.raises(KeyChanged) as refused:
        await ann.send(room, "to whom?")
    (changed,) = refused.value.changed
    assert (changed.user_id, changed.fingerprint) == (bob.person.id, phone.client.keys.fingerprint)
    assert changed.fingerprint in str(refused.value)
    assert (await ann.event("device_key_changed")).data.fingerprint == changed.fingerprint
    assert (await phone.keys(room)).keys == ()
    with pytest.raises(KeyChanged):
        await ann.send(room, "still")
    getattr(ann.client.keys, word)(bob.person.id, changed.fingerprint)
    await ann.send(room, "decided")
    assert await bob.read(room) == ["before", "decided"]
    assert await phone.read(room) == (["before", "decided"] if word == "trust" else ["<no_key>", "<no_key>"])


async def test_what_was_decided_is_kept(enter: Enter) -> None:
    """Trust is in the device's file: a restart neither forgets a key nor takes a changed one for the first."""
    ann, bob = await enter(name="ann"), await enter()
    room = await room_of(ann, bob)
    await ann.send(room, "before")
    await enter(bob.person)
    await ann.client.close()
    ann = await enter(ann.person, "ann")
    with pytest.raises(KeyChanged):
        await ann.send(room, "to whom?")
    await ann.client.close()
    ann = await enter(ann.person, "ann")
    with pytest.raises(KeyChanged):
        await ann.send(room, "to whom?")
    ann.client.keys.trust(bob.person.id)
    await ann.client.close()
    ann = await enter(ann.person, "ann")
    await ann.send(room, "decided")
    assert {one.trust for one in await ann.client.keys.fingerprints(bob.person.id)} == {"trusted"}
    with pytest.raises(ValueError, match="fingerprint"):
        ann.client.keys.trust(bob.person.id, "0000")


async def test_safety_numbers(enter: Enter) -> None:
    """Two users see the same number; another device of either changes it at both ends."""
    ann, bob = await enter(), await enter()
    first = await ann.client.keys.safety_number(bob.person.id)
    assert first == await bob.client.keys.safety_number(str(ann.person.id))
    assert len(first.replace(" ", "")) == 60
    await enter(bob.person)
    second = await ann.client.keys.safety_number(bob.person.id)
    assert second == await bob.client.keys.safety_number(ann.person.id) != first


# --- a server that lies ----------------------------------------------------------------------

Lie = Callable[[Command, Any], Any]


def through(end: End, lie: Lie) -> tuple[EncryptedRoom, list[ClientEvent], Callable[[UUID], EncryptedRoom]]:
    """This end, as it is with a server that changes its answers."""
    told: list[ClientEvent] = []

    async def ask(command: Command) -> Any:
        return lie(command, await end.client.call(command))

    keys = Keys(ask, end.person.id, end.device, told.append)
    return EncryptedRoom(keys, UUID(int=0)), told, lambda room: EncryptedRoom(keys, room)


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
