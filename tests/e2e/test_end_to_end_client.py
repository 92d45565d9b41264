"""The Python client, end to end: it makes, hands out and rotates keys by itself, and asks before it takes new ones."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from gateway import client_encrypted_room
from gateway.client import (
    ChatError,
    Client,
    DeviceRevoked,
    KeyChanged,
)
from protocol import commands
from tests.e2e.ends import Enter, room_of
from tests.e2e.ends import enter as enter  # a fixture
from tests.e2e.server import Server


@pytest.fixture
def server(common_server: Server) -> Server:
    """The common server; every test here makes people and rooms of its own."""
    return common_server


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
    highest = msgspec.structs.replace(message.content, key_version=2**31 - 1)
    assert await bob.text(msgspec.structs.replace(message, content=highest)) == "<no_key>"
    plain = msgspec.structs.replace(message, content="yes")
    assert await bob.text(plain) == "<not_encrypted>"
    with pytest.raises(RuntimeError, match="device="):
        Client(bob.client._io, bob.client._files).room(room)


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


async def test_more_devices_than_fit_into_a_command(enter: Enter, monkeypatch: pytest.MonkeyPatch) -> None:
    """The key of a large chatroom is handed out with several commands, and is one version for all."""
    monkeypatch.setattr(client_encrypted_room, "WRAPS", 2)
    ends = [await enter() for _ in range(6)]
    room = await room_of(*ends)
    await ends[0].send(room, "to all of you")
    assert [await end.read(room) for end in ends] == [["to all of you"]] * 6
    assert await ends[0].version(room) == 1


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
