"""Socket.IO's wire: Engine.IO packets in WebSocket frames, a digit for the kind of each, JSON behind it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

import msgspec

from bench.dialect import ID_WIDTH, STAMP_WIDTH, TEXT, Line, Scan, Send, Talk, Wrong
from bench.frames import CLOSE, PING, PONG, Layout, masked, scan, split
from bench.frames import TEXT as TEXT_FRAME
from bench.lines import WebSocketLine, closing

EVENT, ACK = b'42["message_received"', b"43"
"""A message (4) that is an event (2), or an answer to one (3)."""
ENGINE_OPEN, ENGINE_PING, CONNECTED, READY = b"0", b"2", b"40", b'42["ready",'


def _tail(data: bytes, end: int) -> tuple[bytes, int]:
    """An event ends in `,"chatroom_id":"<36 characters>","seq":17}]`."""
    at = data.rindex(b'"seq":', end - 27, end)
    return data[at - 38 : at - 2], int(data[at + 6 : end - 2])


LAYOUT = Layout(EVENT, ACK, _tail, 3, b'"content":"')
"""An ack ends in `"client_id":"000000000017"}]`."""


def _packet(payload: bytes) -> bytes:
    return masked(TEXT_FRAME, payload)


class SocketIoDialect:
    """What socketio.mjs says, over the WebSocket transport without long polling before it."""

    tls = False

    def __init__(self, url: str) -> None:
        self.url = url
        parts = urlsplit(url)
        self.host, self.port = parts.hostname or "127.0.0.1", parts.port or 80

    def line(self, credential: str) -> Line:
        """The upgrade; the credential goes with the connect to the namespace."""
        return WebSocketLine(self.host, self.port, "/socket.io/?EIO=4&transport=websocket", None)

    def sender(self, room: str) -> Send:
        """Prebuilt events that ask for an ack, whose id is the message's number."""
        head = b'["send_message",{"chatroom_id":"%s","content":"' % room.encode()

        def build(number: int, stamp: int) -> bytes:
            digits = b"%0*d" % (ID_WIDTH, number)
            text = b"%0*d%s" % (STAMP_WIDTH, stamp, TEXT.encode())
            return _packet(b'42%s%s%s","client_id":"%s"}]' % (digits, head, text, digits))

        return build

    def scan(self, data: bytes) -> Scan:
        """Chatrooms and seqs from the packets' ends."""
        return scan(data, LAYOUT, split)

    def stamps(self, data: bytes, scan: Scan) -> Iterable[int]:
        """Those that the texts begin with."""
        return LAYOUT.stamps(data[: scan.end])

    def read(self, data: bytes, scan: Scan) -> int:
        """Parses every event's JSON."""
        whole = [data[start:end] for opcode, start, end in split(data[: scan.end]) if opcode < CLOSE]
        events = [msgspec.json.decode(packet[2:])[1] for packet in whole if packet.startswith(EVENT)]
        skimmed = [(span.room.decode(), seq) for span in scan.spans for seq in range(span.first, span.last + 1)]
        if [(event["chatroom_id"], event["seq"]) for event in events] != skimmed:
            raise Wrong("a packet is not what its last bytes say")
        if any(event["message"]["content"][STAMP_WIDTH:] != TEXT for event in events):
            raise Wrong("a message's text is not the one that was sent")
        return len(events)

    def other(self, session: Talk, opcode: int, payload: bytes) -> None:
        """Opens, answers pings."""
        if opcode == PING:
            session.send(masked(PONG, payload))
        elif opcode == CLOSE:
            session.failed(closing(payload))
        elif payload.startswith(ENGINE_OPEN):
            session.send(_packet(b"40" + msgspec.json.encode({"token": session.credential})))
        elif payload.startswith(READY):
            session.ready(_heads(msgspec.json.decode(payload[2:])[1]))
        elif payload == ENGINE_PING:
            session.send(_packet(b"3"))
        elif not payload.startswith(CONNECTED):
            session.failed(f"a packet that nobody asked for: {payload[:80].decode(errors='replace')}")

    def goodbye(self) -> bytes:
        """Leaves the namespace."""
        return _packet(b"41")


def _heads(ready: Any) -> dict[bytes, int]:
    return {room["id"].encode(): room["seq"] for room in ready["chatrooms"]}
