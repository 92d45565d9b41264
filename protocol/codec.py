"""Bytes to commands, events to bytes, in JSON or MessagePack.

A client frame is `{"event", "id"?, "data"}`; a server frame is
`{"event", "id"?, "chatroom_id"?, "seq"?, "data"}`. Decoding checks the whole
shape in one pass, so nothing behind it has to look again.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar
from uuid import UUID

import msgspec
from msgspec import Struct

from protocol.commands import SOCKET_COMMANDS, Command
from protocol.errors import ChatError
from protocol.events import Error, Event

C = TypeVar("C")


class ServerFrame(Struct, omit_defaults=True, frozen=True):
    """What the server sends. `chatroom_id` and `seq` stand on durable events."""

    event: str
    data: Any
    id: str | None = None
    chatroom_id: UUID | None = None
    seq: int | None = None


class ClientFrame(Struct, Generic[C], omit_defaults=True, frozen=True):
    """What a client sends; on the way in each command has a frame type of its own."""

    event: str
    data: C
    id: str | None = None


class Request(NamedTuple):
    """A decoded client frame."""

    event: str
    id: str | None
    command: Command


class BadFrame(ChatError):
    """Bytes that are no command. `frame_id` is the sender's id where it could be read."""

    def __init__(self, code: str, message: str, frame_id: str | None, details: dict[str, Any] | None = None) -> None:
        super().__init__(code, message, details=details)
        self.frame_id = frame_id


class _LooseFrame(Struct):
    """The two fields worth saving from a frame that did not decode."""

    id: Any = None
    event: Any = None


MAX_ID = 128
"""Characters in a client's frame id; longer ones are refused, since they are echoed."""


def _frame_type(event: str, command: type[Command]) -> type[Struct]:
    """The frame of one command. `data` may be left out where every field has a default."""
    data: tuple[str, Any] | tuple[str, Any, Any] = ("data", command)
    if all(not field.required for field in msgspec.structs.fields(command)):
        data = ("data", command, msgspec.field(default_factory=command))
    return msgspec.defstruct(
        f"{command.__name__}Frame",
        [data, ("id", str | None, None)],
        tag_field="event",
        tag=event,
        frozen=True,
        kw_only=True,
    )


FRAMES: dict[str, type[Struct]] = {event: _frame_type(event, command) for event, command in SOCKET_COMMANDS.items()}
_ANY_FRAME: Any = None
for _frame in FRAMES.values():
    _ANY_FRAME = _frame if _ANY_FRAME is None else _ANY_FRAME | _frame
_EVENT_OF: dict[type[Struct], str] = {frame: event for event, frame in FRAMES.items()}

_COMPLAINTS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"missing required field `event`"), "VALIDATION_REQUIRED_FIELD"),
    (re.compile(r"Invalid value .* - at `\$\.event`"), "VALIDATION_UNKNOWN_EVENT"),
    (re.compile(r"missing required field"), "VALIDATION_REQUIRED_FIELD"),
    (re.compile(r"of length <="), "VALIDATION_LENGTH_EXCEEDED"),
    (
        re.compile(r"of length >=|Invalid enum|Invalid value|`(int|float)` [<>]=|matching regex"),
        "VALIDATION_INVALID_VALUE",
    ),
)
_FIELD = re.compile(r" - at `(?:key` in `)?\$(?:\.data)?\.?([^`]*)`")
_MISSING = re.compile(r"missing required field `([^`]+)`")


def refusal(error: msgspec.MsgspecError, frame_id: str | None = None) -> BadFrame:
    """The typed error for input that did not validate: which field, and what was expected of it."""
    text = str(error)
    code = next((code for pattern, code in _COMPLAINTS if pattern.search(text)), "VALIDATION_INVALID_FORMAT")
    path = match.group(1) if (match := _FIELD.search(text)) else ""
    if missing := _MISSING.search(text):
        path = f"{path}.{missing.group(1)}" if path else missing.group(1)
    return BadFrame(code, _FIELD.sub("", text), frame_id, {"field": path} if path else None)


_UNDECODABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class Codec:
    """One encoding of frames. Stateless apart from its prepared encoders; one object serves all sessions."""

    def __init__(
        self,
        name: str,
        binary: bool,
        encode: Callable[[Any], bytes],
        decoder: Any,
        loose: Any,
        server: Any,
    ) -> None:
        self.name = name
        self.binary = binary
        self.encode = encode
        self._decoder = decoder
        self._loose = loose
        self._server = server

    def decode(self, payload: bytes | bytearray | memoryview) -> Request:
        """The command in a client frame. Raises BadFrame, which keeps the sender's `id` where possible."""
        try:
            frame = self._decoder.decode(payload)
        except _UNDECODABLE as error:
            raise self._refuse(error, payload) from None
        if frame.id is not None and len(frame.id) > MAX_ID:
            raise BadFrame(
                "VALIDATION_LENGTH_EXCEEDED", f"Expected an id of at most {MAX_ID} characters", None, {"field": "id"}
            )
        return Request(_EVENT_OF[type(frame)], frame.id, frame.data)

    def decode_server(self, payload: bytes | bytearray | memoryview) -> ServerFrame:
        """A server frame with its `data` as plain values; what a client reads. Raises msgspec.MsgspecError."""
        try:
            frame: ServerFrame = self._server.decode(payload)
        except (UnicodeDecodeError, RecursionError) as error:
            raise msgspec.DecodeError(str(error)) from None
        return frame

    def event(
        self,
        event: str,
        data: Event | dict[str, Any],
        *,
        id: str | None = None,
        chatroom_id: UUID | None = None,
        seq: int | None = None,
    ) -> bytes:
        """The bytes of one server frame."""
        return self.encode(ServerFrame(event, data, id, chatroom_id, seq))

    def error(self, error: ChatError, id: str | None = None) -> bytes:
        """The bytes of an `error` frame."""
        return self.event("error", error_data(error), id=id)

    def _refuse(self, error: Exception, payload: bytes | bytearray | memoryview) -> BadFrame:
        try:
            frame_id = self._loose.decode(payload).id
        except _UNDECODABLE:
            frame_id = None
        if not isinstance(frame_id, str) or len(frame_id) > MAX_ID:
            frame_id = None
        if isinstance(error, msgspec.ValidationError):
            return refusal(error, frame_id)
        return BadFrame("VALIDATION_INVALID_FORMAT", f"The frame is not {self.name}.", frame_id)


def error_data(error: ChatError) -> Error:
    """The `data` of an `error` frame, and the `error` of a REST answer."""
    return Error(code=error.code, message=error.message, details=error.details, retry_after=error.retry_after)


JSON = Codec(
    "json",
    False,
    msgspec.json.Encoder().encode,
    msgspec.json.Decoder(_ANY_FRAME),
    msgspec.json.Decoder(_LooseFrame),
    msgspec.json.Decoder(ServerFrame),
)
MSGPACK = Codec(
    "msgpack",
    True,
    msgspec.msgpack.Encoder(uuid_format="canonical").encode,
    msgspec.msgpack.Decoder(_ANY_FRAME),
    msgspec.msgpack.Decoder(_LooseFrame),
    msgspec.msgpack.Decoder(ServerFrame),
)
CODECS = {codec.name: codec for codec in (JSON, MSGPACK)}
"""Every codec, by the name its subprotocol ends in (`parley.v1.json`, `parley.v1.msgpack`)."""
