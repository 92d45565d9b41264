"""People at devices, connected by the Python client: for tests of end-to-end encryption."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from gateway.client import CannotOpen, Client, ClientEvent, Device, KeyChanged, connect
from protocol import commands, events
from protocol.models import Message
from tests.e2e.server import Person, Server


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
async def enter(common_server: Server, tmp_path: Path) -> AsyncIterator[Enter]:
    """Connects a person from a device, which is a file of this name."""
    async with AsyncExitStack() as stack:

        async def enter(person: Person | None = None, name: str | None = None) -> End:
            person = person or await common_server.person()
            device = Device.load(tmp_path / (name or f"{uuid4().hex}.device"))
            client = await stack.enter_async_context(connect(common_server.ws, person.token, device=device))
            return End(common_server, person, client, device)

        yield enter


async def room_of(owner: End, *others: End) -> UUID:
    """A room of these people that takes encrypted content only."""
    people = {other.person.id: other.person for other in others if other.person.id != owner.person.id}
    return await owner.server.chatroom(owner.person, *people.values(), encryption_enabled=True)
