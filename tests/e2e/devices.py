"""Devices that wrap and open keys by themselves, through either door: for tests of what the server lets them do."""

from __future__ import annotations

import asyncio
import base64
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

from crypto.end_to_end import DeviceName, DevicePrivateKey, Place, Wrap
from crypto.sealing import new_key
from tests.e2e.doors import Answer, ask
from tests.e2e.server import Person, Server


@dataclass(slots=True)
class Device:
    """A device of a person; what is refused comes back as the answer's code."""

    server: Server
    person: Person
    id: str = "laptop"
    door: str = "rest"
    key: DevicePrivateKey = field(default_factory=DevicePrivateKey.generate)

    @property
    def public_key(self) -> str:
        """As it is registered."""
        return base64.b64encode(self.key.public).decode()

    @property
    def name(self) -> DeviceName:
        """As wraps name it."""
        return DeviceName(self.person.id, self.id)

    async def ask(self, event: str, **data: Any) -> Answer:
        """A command of its user."""
        return await ask(self.server, self.door, self.person, event, **data)

    async def register(self) -> Answer:
        """Publishes its key."""
        return await self.ask("put_device_key", device_id=self.id, public_key=self.public_key)

    async def delete(self) -> Answer:
        """Takes its key back."""
        return await self.ask("delete_device_key", device_id=self.id)

    # --- keys of a chatroom ------------------------------------------------------------------

    def wraps(self, room: UUID, version: int, room_key: bytes, *devices: Device) -> list[dict[str, Any]]:
        """The room key, wrapped for each of these devices."""
        return [
            {
                "user_id": str(device.person.id),
                "device_id": device.id,
                "public_key": device.public_key,
                "wrapped_key": Wrap(room, version, self.name, device.name).close(room_key, self.key, device.key.public),
            }
            for device in devices
        ]

    async def put(self, room: UUID, version: int, keys: list[dict[str, Any]], **more: Any) -> Answer:
        """Stores wrapped keys."""
        sender = {"sender_device_id": self.id, "sender_public_key": self.public_key}
        return await self.ask(
            "put_chatroom_keys", **{"chatroom_id": room, "key_version": version, **sender, "keys": keys, **more}
        )

    async def give(self, room: UUID, version: int, room_key: bytes, *devices: Device) -> Answer:
        """Gives an existing version to these devices."""
        return await self.put(room, version, self.wraps(room, version, room_key, *devices))

    async def make(self, room: UUID, version: int, room_key: bytes, *others: Device) -> Answer:
        """Makes a version, for itself and for these."""
        return await self.put(room, version, self.wraps(room, version, room_key, self, *others), is_new=True)

    async def fetch(self, room: UUID, **more: Any) -> Answer:
        """What it may have."""
        return await self.ask("get_chatroom_keys", chatroom_id=room, device_id=self.id, **more)

    async def open_keys(self, room: UUID) -> dict[int, bytes]:
        """The room keys that it can open, by version; whoever wrapped them."""
        opened = {}
        for key in (await self.fetch(room)).data["keys"]:
            sender = DeviceName(UUID(key["sender_id"]), key["sender_device_id"])
            wrap = Wrap(room, key["key_version"], sender, self.name)
            public = base64.b64decode(key["sender_public_key"])
            opened[key["key_version"]] = wrap.open(key["wrapped_key"], self.key, public)
        return opened

    # --- messages ----------------------------------------------------------------------------

    def seal(self, room: UUID, version: int, room_key: bytes, text: str) -> dict[str, Any]:
        """Content that members can open."""
        data, iv = Place(room, self.person.id, version, "text", None).seal(room_key, text)
        return {"encrypted_data": data, "iv": iv, "key_version": version}

    async def send(self, room: UUID, version: int, room_key: bytes, text: str, **more: Any) -> Answer:
        """Writes an encrypted message."""
        content = self.seal(room, version, room_key, text)
        return await self.ask("send_message", chatroom_id=room, content=content, **more)


async def devices(server: Server, people: list[Person], door: str = "rest") -> list[Device]:
    """A new device of each of these people, registered."""
    made = [Device(server, person, f"test-{uuid4().hex[:8]}", door) for person in people]
    for answer in await asyncio.gather(*(device.register() for device in made)):
        assert answer.code == "ok", answer
    return made


async def retired(*used: Device) -> None:
    """A user may have ten devices, and these people are in many tests."""
    await asyncio.gather(*(device.delete() for device in used))


async def keyed_room(server: Server, *members: Device) -> tuple[UUID, bytes]:
    """A room of the owners of these devices, who have version 1 of its key."""
    people = list(dict.fromkeys(device.person.id for device in members))
    by_id = {device.person.id: device.person for device in members}
    room = await server.chatroom(*(by_id[id] for id in people))
    key = new_key()
    assert (await members[0].make(room, 1, key, *members[1:])).code == "ok"
    return room, key
