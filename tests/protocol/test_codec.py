"""Frames and their bytes, in both encodings; and that no bytes at all make anything but a command or a BadFrame."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.codec import CODECS, FRAMES, JSON, MAX_ID, MSGPACK, BadFrame, ClientFrame, Codec, Request
from protocol.commands import (
    SOCKET_COMMANDS,
    Authenticate,
    Command,
    CreateChatroom,
    FetchMessages,
    LeaveChatroom,
    MessageRead,
    Ping,
    Resume,
    SendMessage,
    Sync,
    UpdateChatroom,
)
from protocol.errors import ERRORS, ChatError
from protocol.events import Done, Lagging, MessageReceived, Synced, TypingIndicator
from protocol.models import EncryptedContent, Message, SyncedRoom
from tests.protocol import strategies

ID = "0190a0a0-0000-7000-8000-000000000001"
ROOM = UUID(ID)
BOTH = pytest.mark.parametrize("codec", CODECS.values(), ids=lambda codec: codec.name)

COMMANDS: list[tuple[dict[str, Any], str, str | None, Command]] = [
    ({"event": "ping"}, "ping", None, Ping()),
    ({"event": "ping", "id": "1", "data": {}}, "ping", "1", Ping()),
    ({"event": "ping", "data": {"received": 7}}, "ping", None, Ping(received=7)),
    ({"event": "authenticate", "data": {"token": "t"}}, "authenticate", None, Authenticate(token="t")),
    (
        {"event": "resume", "data": {"session_id": ID, "resume_token": "r", "received": 0}},
        "resume",
        None,
        Resume(session_id=ROOM, resume_token="r", received=0),
    ),
    ({"event": "sync", "data": {"chatrooms": {ID: 5}}}, "sync", None, Sync(chatrooms={ROOM: 5})),
    ({"data": {"chatroom_id": ID}, "event": "leave_chatroom"}, "leave_chatroom", None, LeaveChatroom(chatroom_id=ROOM)),
    (
        {
            "event": "send_message",
            "id": "c1",
            "data": {"chatroom_id": ID, "content": "hé", "client_id": "x", "more": 1},
        },
        "send_message",
        "c1",
        SendMessage(chatroom_id=ROOM, content="hé", client_id="x"),
    ),
    (
        {
            "event": "send_message",
            "data": {"chatroom_id": ID, "content": {"encrypted_data": "e", "iv": "i", "key_version": 1}},
        },
        "send_message",
        None,
        SendMessage(chatroom_id=ROOM, content=EncryptedContent(encrypted_data="e", iv="i", key_version=1)),
    ),
    (
        {"event": "fetch_messages", "data": {"chatroom_id": ID, "before": 5, "limit": 100}},
        "fetch_messages",
        None,
        FetchMessages(chatroom_id=ROOM, before=5, limit=100),
    ),
    (
        {"event": "update_chatroom", "data": {"chatroom_id": ID, "description": None}},
        "update_chatroom",
        None,
        UpdateChatroom(chatroom_id=ROOM, description=None),
    ),
    (
        {"event": "message_read", "data": {"chatroom_id": ID, "seq": 2**63 - 1}},
        "message_read",
        None,
        MessageRead(chatroom_id=ROOM, seq=2**63 - 1),
    ),
    (
        {"event": "create_chatroom", "data": {"kind": "direct", "user_ids": [ID]}},
        "create_chatroom",
        None,
        CreateChatroom(kind="direct", user_ids=[ROOM]),
    ),
]

SEND = {"chatroom_id": ID, "content": "x"}

REFUSED: list[tuple[Any, str, str | None]] = [
    (None, "VALIDATION_INVALID_FORMAT", None),
    ([], "VALIDATION_INVALID_FORMAT", None),
    ("ping", "VALIDATION_INVALID_FORMAT", None),
    ({}, "VALIDATION_REQUIRED_FIELD", "event"),
    ({"event": 5}, "VALIDATION_INVALID_FORMAT", "event"),
    ({"event": None}, "VALIDATION_INVALID_FORMAT", "event"),
    ({"event": "Ping"}, "VALIDATION_UNKNOWN_EVENT", "event"),
    ({"event": ""}, "VALIDATION_UNKNOWN_EVENT", "event"),
    ({"event": "ping", "id": 5}, "VALIDATION_INVALID_FORMAT", "id"),
    ({"event": "ping", "id": "x" * (MAX_ID + 1)}, "VALIDATION_LENGTH_EXCEEDED", "id"),
    ({"event": "ping", "data": []}, "VALIDATION_INVALID_FORMAT", None),
    ({"event": "ping", "data": None}, "VALIDATION_INVALID_FORMAT", None),
    ({"event": "ping", "data": {"received": -1}}, "VALIDATION_INVALID_VALUE", "received"),
    ({"event": "ping", "data": {"received": 1.5}}, "VALIDATION_INVALID_FORMAT", "received"),
    ({"event": "ping", "data": {"received": True}}, "VALIDATION_INVALID_FORMAT", "received"),
    ({"event": "send_message"}, "VALIDATION_REQUIRED_FIELD", "data"),
    ({"event": "send_message", "data": {"content": "x"}}, "VALIDATION_REQUIRED_FIELD", "chatroom_id"),
    ({"event": "send_message", "data": {**SEND, "chatroom_id": "no"}}, "VALIDATION_INVALID_FORMAT", "chatroom_id"),
    ({"event": "send_message", "data": {**SEND, "content": 5}}, "VALIDATION_INVALID_FORMAT", "content"),
    (
        {"event": "send_message", "data": {**SEND, "content": {"iv": "i", "key_version": 1}}},
        "VALIDATION_REQUIRED_FIELD",
        "content.encrypted_data",
    ),
    ({"event": "send_message", "data": {**SEND, "message_type": "system"}}, "VALIDATION_INVALID_VALUE", "message_type"),
    ({"event": "send_message", "data": {**SEND, "client_id": ""}}, "VALIDATION_INVALID_VALUE", "client_id"),
    ({"event": "send_message", "data": {**SEND, "client_id": "x" * 65}}, "VALIDATION_LENGTH_EXCEEDED", "client_id"),
    ({"event": "send_message", "data": {**SEND, "client_id": "a\0b"}}, "VALIDATION_INVALID_VALUE", "client_id"),
    ({"event": "sync", "data": {"chatrooms": {}}}, "VALIDATION_INVALID_VALUE", "chatrooms"),
    ({"event": "sync", "data": {"chatrooms": {"no": 1}}}, "VALIDATION_INVALID_FORMAT", "chatrooms"),
    ({"event": "fetch_messages", "data": {"chatroom_id": ID, "limit": 101}}, "VALIDATION_INVALID_VALUE", "limit"),
    ({"event": "add_members", "data": {"chatroom_id": ID, "user_ids": []}}, "VALIDATION_INVALID_VALUE", "user_ids"),
]


def encoded(codec: Codec, value: Any) -> bytes:
    """The value as a client in another language would write it."""
    return msgspec.msgpack.encode(value) if codec.binary else json.dumps(value).encode()


@BOTH
@pytest.mark.parametrize(("value", "event", "frame_id", "command"), COMMANDS)
def test_commands(codec: Codec, value: dict[str, Any], event: str, frame_id: str | None, command: Command) -> None:
    """A frame is the command it says, whatever the order of its fields; unknown fields are let pass."""
    assert codec.decode(encoded(codec, value)) == Request(event, frame_id, command)


@BOTH
@pytest.mark.parametrize(("value", "code", "field"), REFUSED)
def test_refusals(codec: Codec, value: Any, code: str, field: str | None) -> None:
    """What is no command gets its code, and the field that is wrong."""
    with pytest.raises(BadFrame) as refused:
        codec.decode(encoded(codec, value))
    assert refused.value.code == code
    assert refused.value.details.get("field", "").split("[")[0] == (field or "")


@BOTH
def test_a_refusal_keeps_the_sender_s_id(codec: Codec) -> None:
    """Where the id can be read, the error bears it."""
    for value in ({"event": "nothing", "id": "c7"}, {"id": "c7", "event": "send_message", "data": {"content": 5}}):
        with pytest.raises(BadFrame) as refused:
            codec.decode(encoded(codec, value))
        assert refused.value.frame_id == "c7"
    with pytest.raises(BadFrame) as refused:
        codec.decode(encoded(codec, {"event": "nothing", "id": {"a": 1}}))
    assert refused.value.frame_id is None


@pytest.mark.parametrize(
    ("codec", "payload"),
    [
        (JSON, b""),
        (JSON, b" "),
        (JSON, b"\xff"),
        (JSON, b'{"event":"ping"'),
        (JSON, b'{"event":"ping"}x'),
        (JSON, b'{"event":"ping","id":"\\ud800"}'),
        (JSON, b'{"event":"ping","id":"\xed\xa0\x80"}'),
        (JSON, b'{"event":"ping","data":' + b"[" * 60_000),
        (JSON, b'{"id":' * 60_000),
        (JSON, b'{"event":"ping","data":{"received":' + b"9" * 60_000 + b"}}"),
        (MSGPACK, b""),
        (MSGPACK, b"\xc1"),
        (MSGPACK, b"\x91" * 60_000),
        (MSGPACK, b"\x81\xa2id" + b"\x91" * 60_000),
        (MSGPACK, b"\x81\xa2id\xdd\xff\xff\xff\xff"),
        (MSGPACK, b"\xdf\xff\xff\xff\xff"),
        (MSGPACK, b"\x81\xa2id\xdb\xff\xff\xff\xff"),
        (MSGPACK, b"\x81\xa2id\xc6\xff\xff\xff\xff"),
        (MSGPACK, b"\x81\xa2id\x81\x80\x01"),
        (MSGPACK, b"\x82\xa5event\xa4ping\xa2id\xa3\xed\xa0\x80"),
        (MSGPACK, b"\x82\xa5event\xa4ping\xa2id\xc7\x0c\xff" + b"\xff" * 12),
    ],
)
def test_hostile_bytes(codec: Codec, payload: bytes) -> None:
    """Broken, deep, huge and lying payloads are refused like any other."""
    with pytest.raises(BadFrame) as refused:
        codec.decode(payload)
    assert refused.value.code in ERRORS
    codec.error(refused.value, refused.value.frame_id)


@BOTH
def test_every_command_has_a_frame(codec: Codec) -> None:
    """Each socket command decodes under its name, and under no other."""
    assert FRAMES.keys() == SOCKET_COMMANDS.keys()
    for event, command in SOCKET_COMMANDS.items():
        required = any(field.required for field in msgspec.structs.fields(command))
        if required:
            with pytest.raises(BadFrame, match="VALIDATION_REQUIRED_FIELD"):
                codec.decode(encoded(codec, {"event": event}))
        else:
            assert type(codec.decode(encoded(codec, {"event": event})).command) is command


# --- the server's frames ---------------------------------------------------------------------

MOMENT = datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC)
MESSAGE = Message(
    id=UUID(int=2),
    chatroom_id=ROOM,
    seq=17,
    user_id=UUID(int=3),
    username="ann",
    display_name="Ann",
    avatar_url=None,
    content="hé",
    message_type="text",
    reply_to=None,
    created_at=MOMENT,
)

SERVER_FRAMES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (
        {"event": "ack", "data": Done(chatroom_id=ROOM, seq=3), "id": "c1"},
        {"event": "ack", "data": {"chatroom_id": ID, "seq": 3}, "id": "c1"},
    ),
    (
        {"event": "lagging", "data": Lagging(chatrooms={ROOM: 9})},
        {"event": "lagging", "data": {"chatrooms": {ID: 9}}},
    ),
    (
        {
            "event": "synced",
            "data": Synced(chatrooms={ROOM: SyncedRoom(from_seq=1, to_seq=2, verdict="complete")}),
            "id": "s",
        },
        {"event": "synced", "data": {"chatrooms": {ID: {"from": 1, "to": 2, "verdict": "complete"}}}, "id": "s"},
    ),
    (
        {
            "event": "typing_indicator",
            "data": TypingIndicator(chatroom_id=ROOM, user_id=ROOM, username="ann", is_typing=True),
        },
        {
            "event": "typing_indicator",
            "data": {"chatroom_id": ID, "user_id": ID, "username": "ann", "is_typing": True},
        },
    ),
    (
        {"event": "message_received", "data": MessageReceived(message=MESSAGE), "chatroom_id": ROOM, "seq": 17},
        {
            "event": "message_received",
            "data": {
                "message": {
                    "id": "00000000-0000-0000-0000-000000000002",
                    "chatroom_id": ID,
                    "seq": 17,
                    "user_id": "00000000-0000-0000-0000-000000000003",
                    "username": "ann",
                    "display_name": "Ann",
                    "avatar_url": None,
                    "content": "hé",
                    "message_type": "text",
                    "reply_to": None,
                    "created_at": "2026-01-02T03:04:05.678000Z",
                    "attachments": [],
                    "reactions": [],
                    "edited_at": None,
                    "recalled_at": None,
                }
            },
            "chatroom_id": ID,
            "seq": 17,
        },
    ),
]


@pytest.mark.parametrize(("frame", "value"), SERVER_FRAMES)
def test_server_frames_in_json(frame: dict[str, Any], value: dict[str, Any]) -> None:
    """The bytes of a server frame are the JSON that the protocol promises; empty envelope fields are left out."""
    payload = JSON.event(**frame)
    assert json.loads(payload) == value
    assert payload == json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


@pytest.mark.parametrize(("frame", "value"), SERVER_FRAMES)
def test_server_frames_in_msgpack(frame: dict[str, Any], value: dict[str, Any]) -> None:
    """MessagePack says the same: ids are text, and times are its timestamps."""
    decoded = msgspec.msgpack.decode(MSGPACK.event(**frame))
    assert json.loads(msgspec.json.encode(decoded)) == value


@pytest.mark.parametrize(
    ("codec", "payload"),
    [
        (JSON, b'{"event":"ack","data":' + b"[" * 60_000),
        (MSGPACK, b"\x81\xa4data" + b"\x91" * 60_000),
        (MSGPACK, b"\x82\xa5event\xa1\xff\xa4data\x80"),
    ],
)
def test_what_no_server_sends(codec: Codec, payload: bytes) -> None:
    """A client that meets such bytes gets the one error that it looks out for."""
    with pytest.raises(msgspec.MsgspecError):
        codec.decode_server(payload)


@BOTH
def test_an_error_frame(codec: Codec) -> None:
    """An error has its code, message and details; `retry_after` tells when to come back."""
    error = ChatError("RATE_LIMIT_EXCEEDED", "slow down", details={"limit": 5}, retry_after=1.5)
    frame = codec.decode_server(codec.error(error, "c1"))
    assert (frame.event, frame.id) == ("error", "c1")
    assert frame.data == {
        "code": "RATE_LIMIT_EXCEEDED",
        "message": "slow down",
        "details": {"limit": 5},
        "retry_after": 1.5,
    }


# --- whatever comes --------------------------------------------------------------------------

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=80)
    | st.sampled_from([ID, "owner", "direct", "image", "x" * 300, "a\0b"])
)
FIELDS = st.sampled_from(
    sorted({"event", "id", "data", *(name for c in SOCKET_COMMANDS.values() for name in c.__struct_fields__)})
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(FIELDS | st.just(ID) | st.text(max_size=5), inner),
    max_leaves=12,
)
FRAME_LIKE = st.fixed_dictionaries(
    {"event": st.sampled_from(sorted(SOCKET_COMMANDS)), "data": st.dictionaries(FIELDS, VALUES, max_size=6) | VALUES},
    optional={"id": SCALARS},
)


def decoded_or_refused(codec: Codec, payload: bytes) -> None:
    """Either a command, or a BadFrame that can be sent back."""
    try:
        request = codec.decode(payload)
    except BadFrame as error:
        codec.error(error, error.frame_id)
    else:
        assert type(request.command) is SOCKET_COMMANDS[request.event]


@BOTH
@settings(max_examples=150, deadline=None)
@given(payload=st.binary(max_size=300))
def test_arbitrary_bytes(codec: Codec, payload: bytes) -> None:
    """No bytes make the decoder fail in any other way than a BadFrame."""
    decoded_or_refused(codec, payload)


@BOTH
@settings(max_examples=200, deadline=None)
@given(value=FRAME_LIKE | VALUES)
def test_arbitrary_values(codec: Codec, value: Any) -> None:
    """Well-formed frames with wrong fields make commands or BadFrames."""
    decoded_or_refused(codec, encoded(codec, value))


ANY_COMMAND = st.one_of([st.tuples(st.just(event), strategies.struct(kind)) for event, kind in SOCKET_COMMANDS.items()])


@BOTH
@settings(max_examples=300, deadline=None)
@given(named=ANY_COMMAND, frame_id=st.none() | st.text(strategies.TEXT, max_size=MAX_ID))
def test_any_command_comes_out_as_it_went_in(codec: Codec, named: tuple[str, Command], frame_id: str | None) -> None:
    """Whatever a command's fields allow, what a client writes the server reads, in both encodings."""
    event, command = named
    assert codec.decode(codec.encode(ClientFrame(event, command, frame_id))) == Request(event, frame_id, command)


@settings(max_examples=150, deadline=None)
@given(value=FRAME_LIKE, place=st.floats(0, 1), junk=st.binary(max_size=4), drop=st.integers(0, 4))
def test_damaged_frames(value: Any, place: float, junk: bytes, drop: int) -> None:
    """A frame that was good until some bytes changed makes a command or a BadFrame."""
    for codec in CODECS.values():
        payload = encoded(codec, value)
        at = int(place * len(payload))
        decoded_or_refused(codec, payload[:at] + junk + payload[at + drop :])
