"""The frames that receivers share are those of RFC 6455."""

from __future__ import annotations

import pytest
from websockets.frames import Frame, Opcode

from gateway.websocket import websocket_wires
from protocol.codec import JSON, MSGPACK


@pytest.mark.parametrize("codec", [JSON, MSGPACK], ids=["json", "msgpack"])
@pytest.mark.parametrize("length", [0, 90, 125, 126, 127, 200, 65_400, 65_535, 65_536, 70_000])
def test_frames_are_those_of_the_library(codec: object, length: int) -> None:
    """A text or binary frame of any length is byte for byte what `websockets` would have made."""
    wire = next(wire for wire in websocket_wires().values() if wire.codec is codec)
    chunk = wire.chunk("x", "y" * length)
    payload = wire.codec.event("x", "y" * length)  # type: ignore[arg-type]  # any data will do
    opcode = Opcode.BINARY if codec is MSGPACK else Opcode.TEXT
    assert chunk.data == Frame(opcode, payload).serialize(mask=False)
    assert chunk.ends == (len(chunk.data),)
