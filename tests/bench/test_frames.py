"""The generator's eyes: frames that are lost, repeated or out of order are seen, whatever way the bytes are cut."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from bench.dialect import TEXT as TEXT_BEHIND
from bench.dialect import Span, Wrong
from bench.frames import (
    CLOSE,
    LAYOUTS,
    PING,
    TEXT,
    SeqCheck,
    framed,
    masked,
    scan,
    send_template,
    split,
    split_framed,
)
from bench.lines import noise_costs
from bench.load import Load, Window
from bench.parley import ParleyDialect
from bench.session import Reading, Session
from protocol.codec import CODECS
from protocol.commands import SendMessage
from protocol.events import MessageReceived, MessageSent
from protocol.models import Message

ROOM = UUID("01890a5d-ac96-774b-bcce-b302099a8057")
OTHER = UUID("01890a5d-ac96-774b-bcce-b302099a8058")
NAMES = sorted(CODECS)
SEQS = [1, 2, 127, 128, 255, 256, 65_535, 65_536, 2**32 - 1, 2**32, 2**53]


def _message(room: UUID, seq: int, text: str = "hello") -> Message:
    return Message(
        id=ROOM,
        chatroom_id=room,
        seq=seq,
        user_id=OTHER,
        username="ann",
        display_name="Ann",
        avatar_url=None,
        content=text,
        message_type="text",
        reply_to=None,
        created_at=datetime(2024, 1, 1, tzinfo=UTC),
    )


def _framed(payload: bytes, opcode: int = 1) -> bytes:
    size = len(payload)
    if size < 126:
        return bytes([0x80 | opcode, size]) + payload
    if size < 65_536:
        return bytes([0x80 | opcode, 126]) + size.to_bytes(2, "big") + payload
    return bytes([0x80 | opcode, 127]) + size.to_bytes(8, "big") + payload


def _event(codec: str, seq: int, room: UUID = ROOM, text: str = "hello") -> bytes:
    data = MessageReceived(message=_message(room, seq, text))
    return _framed(CODECS[codec].event("message_received", data, chatroom_id=room, seq=seq))


def _ack(codec: str, number: int, text: str = "hello") -> bytes:
    data = MessageSent(message=_message(ROOM, 5, text), client_id="7")
    return _framed(CODECS[codec].event("ack", data, id=f"{number:012d}"))


def _key(room: UUID) -> bytes:
    return str(room).encode()


@pytest.mark.parametrize("codec", NAMES)
@pytest.mark.parametrize("seq", SEQS)
def test_seq_is_read_from_the_tail(codec: str, seq: int) -> None:
    """The chatroom and the seq of an event are found at its end, however long the number is."""
    assert scan(_event(codec, seq), LAYOUTS[codec]).spans == [Span(_key(ROOM), seq, seq)]


@pytest.mark.parametrize("codec", NAMES)
@pytest.mark.parametrize("size", [1, 200, 70_000])
def test_lengths_of_all_three_forms_are_read(codec: str, size: int) -> None:
    """Frames with 7, 16 and 64 bit lengths follow one another without a slip."""
    data = _event(codec, 4, text="x" * size) + _framed(b"", PING) + _event(codec, 5)
    found = scan(data, LAYOUTS[codec])
    assert found == ([Span(_key(ROOM), 4, 5)], [], [(PING, b"")], len(data))


@pytest.mark.parametrize("codec", NAMES)
def test_text_that_looks_like_a_tail_is_not_taken_for_one(codec: str) -> None:
    """What a user writes cannot move the seq."""
    text = f'","chatroom_id":"{OTHER}","seq":9}}'
    assert scan(_event(codec, 3, text=text), LAYOUTS[codec]).spans == [Span(_key(ROOM), 3, 3)]


@pytest.mark.parametrize("codec", NAMES)
def test_events_acks_and_the_rest_are_told_apart(codec: str) -> None:
    """Consecutive events of a chatroom are one run; acks give their number; the rest comes out whole."""
    closing = _framed(b"\x0f\xa0bye", CLOSE)
    parts = [
        _event(codec, 1),
        _event(codec, 2),
        _ack(codec, 77),
        _event(codec, 8, OTHER),
        _event(codec, 9, OTHER),
        closing,
    ]
    found = scan(b"".join(parts), LAYOUTS[codec])
    assert found.spans == [Span(_key(ROOM), 1, 2), Span(_key(OTHER), 8, 9)]
    assert found.acks == [77]
    assert found.others == [(CLOSE, b"\x0f\xa0bye")]


@pytest.mark.parametrize("codec", NAMES)
def test_a_frame_cut_anywhere_waits_for_its_rest(codec: str) -> None:
    """Whole frames are counted, and `end` points to the first that is not whole."""
    one, two = _event(codec, 1), _event(codec, 2)
    for cut in range(len(two)):
        found = scan(one + two[:cut], LAYOUTS[codec])
        assert (found.spans, found.end) == ([Span(_key(ROOM), 1, 1)], len(one))


def _checked(codec: str, seqs: list[int]) -> SeqCheck:
    """What a receiver makes of events that come in this order, in one read."""
    check = SeqCheck(0)
    for run in scan(b"".join(_event(codec, seq) for seq in seqs), LAYOUTS[codec]).spans:
        check.take(run.first, run.last)
    return check


@pytest.mark.parametrize("codec", NAMES)
@pytest.mark.parametrize(
    ("seqs", "lost", "repeated", "reordered"),
    [
        ([1, 2, 3, 4], 0, 0, 0),
        ([1, 3, 4], 1, 0, 0),
        ([4], 3, 0, 0),
        ([1, 2, 3], 1, 0, 0),
        ([1, 2, 2, 3, 4], 0, 1, 0),
        ([1, 2, 1, 2, 3, 4], 0, 2, 0),
        ([1, 3, 2, 4], 0, 0, 1),
        ([1, 4, 2, 2], 1, 1, 1),
    ],
)
def test_what_went_wrong_is_counted(codec: str, seqs: list[int], lost: int, repeated: int, reordered: int) -> None:
    """Of four events, a dropped, a doubled and a late one each count once, as what they are."""
    check = _checked(codec, seqs)
    assert (check.lost(4), check.repeated, check.reordered) == (lost, repeated, reordered)


@pytest.mark.parametrize("codec", NAMES)
def test_a_prebuilt_frame_is_what_the_codec_would_make(codec: str) -> None:
    """The server reads what was meant: the number is the frame's id and `client_id`, the stamp begins the text."""
    frame = send_template(CODECS[codec], ROOM)(123, 456)
    unmasked = frame[:1] + bytes([frame[1] & 0x7F]) + frame[2:4] + frame[8:]  # the mask is zeros
    [(opcode, start, end)] = split(unmasked)
    request = CODECS[codec].decode(unmasked[start:end])
    assert opcode == (2 if codec == "msgpack" else 1)
    assert request.id == "000000000123"
    text = "0000000000000456" + TEXT_BEHIND
    assert len(text) == 200
    assert request.command == SendMessage(chatroom_id=ROOM, content=text, client_id="000000000123")


@pytest.mark.parametrize("codec", NAMES)
def test_stamps_are_read_from_events_alone(codec: str) -> None:
    """Each event tells when its message should have gone, in order; an ack has the message too, and does not count."""
    texts = [f"{stamp:016d}{TEXT_BEHIND}" for stamp in (7, 2**50)]
    data = _event(codec, 1, text=texts[0]) + _ack(codec, 9, texts[1]) + _event(codec, 2, text=texts[1])
    assert list(map(int, LAYOUTS[codec].stamps(data))) == [7, 2**50]


def test_a_short_masked_frame() -> None:
    """A pong carries its ping's bytes, with the mask bit that RFC 6455 asks of clients."""
    assert masked(10, b"ab") == b"\x8a\x82\0\0\0\0ab"


@pytest.mark.parametrize("codec", NAMES)
def test_frames_on_tcp(codec: str) -> None:
    """Behind its length a frame is found whole, wherever the stream is cut, and a prebuilt one has its length too."""
    event = CODECS[codec].event("pong", {"handled": 1})
    stream = framed(TEXT, event) + framed(TEXT, b"") + framed(TEXT, event)
    for cut in range(len(stream)):
        whole = [stream[start:end] for _, start, end in split_framed(stream[:cut])]
        assert whole == [event, b"", event][: len(whole)]
    assert [stream[start:end] for _, start, end in split_framed(stream)] == [event, b"", event]
    [(_, start, end)] = split_framed(send_template(CODECS[codec], ROOM, framed)(123, 1))
    assert end - start == len(send_template(CODECS[codec], ROOM, framed)(999, 2**50)) - 4


def test_what_noise_costs_is_measured() -> None:
    """One frame, sealed and opened again and again, takes some time."""
    assert all(0 < cost < 10_000 for cost in noise_costs(256, rounds=50))


class _Nowhere(asyncio.Transport):
    def write(self, data: bytes | bytearray | memoryview[int]) -> None:
        """It goes nowhere."""

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """It says that it has TLS: then nobody else reads from it."""
        return name == "sslcontext" or default


def _session(reading: Reading, *, read_fully: bool = False) -> Session:
    session = Session(reading, "token", read_fully=read_fully)
    session.connection_made(_Nowhere())
    _hand(session, reading, b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
    session.ready({_key(ROOM): 1})
    return session


def _hand(session: Session, reading: Reading, data: bytes) -> None:
    reading.inbox[: len(data)] = data
    session.buffer_updated(len(data))


def _reading() -> Reading:
    load = Load(lambda _number, _stamp: None, 0, Window(0, 0))
    return Reading(ParleyDialect("http://127.0.0.1:1", "ws"), load)


async def test_a_ping_between_events_is_no_event() -> None:
    """A session that decodes all it gets leaves control frames to the socket."""
    reading = _reading()
    session = _session(reading, read_fully=True)
    text = "0" * 16 + TEXT_BEHIND
    _hand(session, reading, _event("json", 2, text=text) + _framed(b"", PING) + _event("json", 3, text=text))
    assert (session.delivered, reading.load.fully_read, dict(reading.load.failures)) == (2, 2, {})


async def test_bytes_that_another_receiver_just_had() -> None:
    """What is remembered is used for equal bytes only: one that differs in a single seq is looked at, and checked."""
    reading = _reading()
    first, second, third = (_session(reading) for _ in range(3))
    same, other = _event("json", 2) + _event("json", 3), _event("json", 2) + _event("json", 4)
    for session, data in ((first, same), (second, same), (third, other), (third, same)):
        _hand(session, reading, data)
    checks = [session.checks[_key(ROOM)] for session in (first, second, third)]
    assert [(check.last, check.lost(4), check.repeated) for check in checks] == [(3, 1, 0), (3, 1, 0), (4, 0, 1)]
    assert reading.load.delivered == 8


async def test_remembered_bytes_behind_a_half_frame() -> None:
    """A receiver that has the beginning of a frame does not take the bytes that follow for whole ones."""
    reading = _reading()
    first, second = _session(reading), _session(reading)
    _hand(second, reading, _event("json", 2)[:10])
    _hand(first, reading, _event("json", 2))
    _hand(second, reading, _event("json", 2)[10:])
    assert [session.checks[_key(ROOM)].last for session in (first, second)] == [2, 2]


def test_what_is_skimmed_is_compared_with_what_is_decoded() -> None:
    """A text that was not sent, and a seq that the frame's end does not have, are found where frames are decoded."""
    dialect = ParleyDialect("http://127.0.0.1:1", "ws")
    data = _event("json", 2, text="0" * 16 + TEXT_BEHIND)
    assert dialect.read(data, dialect.scan(data)) == 1
    with pytest.raises(Wrong, match="last bytes"):
        dialect.read(data, dialect.scan(data)._replace(spans=[Span(_key(ROOM), 3, 3)]))
    other = _event("json", 2, text="1" * 16 + "another")
    with pytest.raises(Wrong, match="text"):
        dialect.read(other, dialect.scan(other))
