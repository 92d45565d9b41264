"""Frames without a socket: prebuilt ones to send, and the little that is read of those that come.

The generator must cost less than the server. Of most frames only the length, the
chatroom and the seq are read, and these stand at a frame's end, where they are
found without parsing it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cache
from typing import NamedTuple
from uuid import UUID

from bench.dialect import ID_WIDTH, STAMP_WIDTH, Scan, Send, Span
from bench.dialect import TEXT as TEXT_BEHIND
from protocol.codec import ClientFrame, Codec
from protocol.commands import SendMessage
from protocol.framing import HEADER_BYTES, frame

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
"""Opcodes (RFC 6455, 5.2)."""

_NUMBER = "#" * ID_WIDTH
_STAMP = "@" * STAMP_WIDTH
_MASK = bytes(4)  # of zeros: the server unmasks as ever, and the payload can be put together beforehand


class Layout(NamedTuple):
    """Where a codec's server frames have what is looked for.

    `event` and `ack` are how such frames begin; `tail` finds chatroom and seq in the
    frame that ends at an offset; `id_tail` is the number of bytes behind an ack's id;
    `content` stands before a text.
    """

    event: bytes
    ack: bytes
    tail: Callable[[bytes, int], tuple[bytes, int]]
    id_tail: int
    content: bytes

    def stamps(self, data: bytes) -> Iterator[int]:
        """When the messages in these events should have gone."""
        return map(int, _stamps(self.event, self.content).findall(data))


@cache
def _stamps(event: bytes, content: bytes) -> re.Pattern[bytes]:
    return re.compile(rb"%s.*?%s(\d{%d})" % (re.escape(event), re.escape(content), STAMP_WIDTH), re.DOTALL)


def _json_tail(data: bytes, end: int) -> tuple[bytes, int]:
    """A frame ends in `,"chatroom_id":"<36 characters>","seq":17}`."""
    at = data.rindex(b'"seq":', end - 26, end)
    return data[at - 38 : at - 2], int(data[at + 6 : end - 1])


def _msgpack_tail(data: bytes, end: int) -> tuple[bytes, int]:
    """The same in MessagePack: a number below 128 is one byte, others have a byte of type before them."""
    at = data.rindex(b"\xa3seq", end - 13, end)
    number = data[at + 4 : end]
    return data[at - 36 : at], int.from_bytes(number[1:] if len(number) > 1 else number, "big")


LAYOUTS = {
    "json": Layout(b'{"event":"message_received"', b'{"event":"ack"', _json_tail, 2, b'"content":"'),
    "msgpack": Layout(
        b"\x84\xa5event\xb0message_received", b"\x83\xa5event\xa3ack", _msgpack_tail, 0, b"\xa7content\xd9\xc8"
    ),
}


Pack = Callable[[int, bytes], bytes]
"""Makes a frame of an opcode and a payload."""
Split = Callable[[bytes], Iterator[tuple[int, int, int]]]
"""Finds (opcode, start, end) of the payload of each whole frame."""


def masked(opcode: int, payload: bytes) -> bytes:
    """A client's frame. Payloads have less than 64 KiB here."""
    size = len(payload)
    length = bytes([0x80 | size]) if size < 126 else b"\xfe" + size.to_bytes(2, "big")
    return bytes([0x80 | opcode]) + length + _MASK + payload


def send_template(codec: Codec, room: UUID, pack: Pack = masked) -> Send:
    """Makes `send_message` frames; a message's number is the frame's id and `client_id`, its stamp begins the text."""
    command = SendMessage(chatroom_id=room, content=_STAMP + TEXT_BEHIND, client_id=_NUMBER)
    sent = pack(BINARY if codec.binary else TEXT, codec.encode(ClientFrame("send_message", command, _NUMBER)))
    template = sent.replace(b"%", b"%%").replace(_NUMBER.encode(), b"%%(number)0%dd" % ID_WIDTH)
    template = template.replace(_STAMP.encode(), b"%%(stamp)0%dd" % STAMP_WIDTH)

    def build(number: int, stamp: int) -> bytes:
        return template % {b"number": number, b"stamp": stamp}

    return build


def split(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(opcode, start, end) of the payload of each whole frame. The server never masks and never fragments."""
    at, size = 0, len(data)
    while size - at >= 2:
        length, start = data[at + 1], at + 2
        if length == 126:
            length, start = int.from_bytes(data[at + 2 : at + 4], "big"), at + 4
        elif length == 127:
            length, start = int.from_bytes(data[at + 2 : at + 10], "big"), at + 10
        if start + length > size:
            return
        yield data[at] & 0x0F, start, start + length
        at = start + length


def framed(_opcode: int, payload: bytes) -> bytes:
    """A frame on TCP: the payload behind its length."""
    return frame(payload)


def split_framed(data: bytes) -> Iterator[tuple[int, int, int]]:
    """The same as `split` on TCP, where frames have no opcode."""
    at, size = 0, len(data)
    while size - at >= HEADER_BYTES:
        start = at + HEADER_BYTES
        end = start + int.from_bytes(data[at:start], "big")
        if end > size:
            return
        yield TEXT, start, end
        at = end


def scan(data: bytes, layout: Layout, split: Split = split) -> Scan:
    """Reads lengths, chatrooms and seqs; anything but durable events and acks is handed on as it is."""
    spans: list[Span] = []
    acks: list[int] = []
    others: list[tuple[int, bytes]] = []
    room, first, last, at = b"", 0, -1, 0
    for opcode, start, at in split(data):
        if data.startswith(layout.event, start):
            here, seq = layout.tail(data, at)
            if seq != last + 1 or here != room:
                if room:
                    spans.append(Span(room, first, last))
                room, first = here, seq
            last = seq
        elif data.startswith(layout.ack, start):
            acks.append(int(data[at - layout.id_tail - ID_WIDTH : at - layout.id_tail]))
        else:
            others.append((opcode, data[start:at]))
    if room:
        spans.append(Span(room, first, last))
    return Scan(spans, acks, others, at)


class SeqCheck:
    """The seqs that one receiver had of one chatroom, against 1, 2, 3, …"""

    __slots__ = ("last", "missing", "reordered", "repeated")

    def __init__(self, last: int) -> None:
        self.last = last
        self.missing: set[int] = set()
        self.reordered = 0
        self.repeated = 0

    def take(self, first: int, last: int) -> None:
        """Events `first` … `last` have come. The usual case is that they follow what was there."""
        if first == self.last + 1:
            self.last = last
            return
        for seq in range(first, last + 1):
            self._one(seq)

    def _one(self, seq: int) -> None:
        if seq > self.last:
            self.missing.update(range(self.last + 1, seq))
            self.last = seq
        elif seq in self.missing:
            self.missing.discard(seq)
            self.reordered += 1
        else:
            self.repeated += 1

    def lost(self, head: int) -> int:
        """How many of the events up to `head` have not come."""
        return len(self.missing) + max(0, head - self.last)
