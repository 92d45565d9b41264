"""Values that the client's tests are made of."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid5

import msgspec

from protocol import commands, events, models
from protocol.codec import ServerFrame

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SPACE = UUID(int=1)
ME = models.User(id=UUID(int=10), username="ann", display_name="Ann")
HELLO = events.Hello(
    server="model", heartbeat_interval=25.0, auth_deadline=10.0, max_frame_bytes=65_536, resume_window=120.0
)


def room_id(number: int) -> UUID:
    """The id of the test's room `number`."""
    return UUID(int=1000 + number)


def message(room: UUID, seq: int, content: models.Content = "hi") -> models.Message:
    """A message as it stands in a chatroom."""
    return models.Message(
        id=uuid5(SPACE, f"{room}/{seq}"),
        chatroom_id=room,
        seq=seq,
        user_id=UUID(int=11),
        username="bob",
        display_name="Bob",
        avatar_url=None,
        content=content,
        message_type="text",
        reply_to=None,
        created_at=NOW,
    )


def member(role: models.Role = "member") -> models.Member:
    """The user's own membership."""
    return models.Member(
        user_id=ME.id,
        username=ME.username,
        display_name=ME.display_name,
        avatar_url=None,
        role=role,
        joined_at=NOW,
        last_read_seq=0,
        last_read_at=None,
    )


def chatroom(room: UUID, seq: int, name: str = "room") -> models.Chatroom:
    """A chatroom's settings."""
    return models.Chatroom(
        id=room,
        kind="group",
        name=name,
        description=None,
        owner_id=UUID(int=11),
        is_private=True,
        max_members=100,
        member_count=2,
        encryption_enabled=False,
        auto_summary_enabled=True,
        summary_threshold=50,
        seq=seq,
        created_at=NOW,
        updated_at=NOW,
    )


def listing(room: UUID, seq: int, name: str = "room", role: models.Role = "member") -> models.ChatroomState:
    """A chatroom as `ready` lists it."""
    return models.ChatroomState(id=room, kind="group", name=name, role=role, seq=seq, last_read_seq=0)


ROOM = room_id(1)
OTHER = room_id(2)


def plain(value: object) -> Any:
    """A struct as plain values, to compare states."""
    return msgspec.to_builtins(value)


def send(client_id: str = "m1") -> commands.SendMessage:
    """The command for a message to ROOM."""
    return commands.SendMessage(chatroom_id=ROOM, content="hi", client_id=client_id)


def spoken(seq: int) -> ServerFrame:
    """The frame of message `seq` in ROOM."""
    return ServerFrame("message_received", plain(events.MessageReceived(message=message(ROOM, seq))), None, ROOM, seq)
