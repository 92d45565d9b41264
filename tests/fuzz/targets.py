"""One target for each parser: what it is fed, and what has to be true whatever it is fed.

A check raises nothing for any bytes, unless something is wrong. Seeds are real
frames and the like, so that mutations begin where a parser goes deep.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable
from typing import NamedTuple
from unittest import mock

import msgspec

from crypto import keyfile
from crypto.noise import KEY_BYTES, MAX_MESSAGE, Aead, NoiseBroken, Opener, PrivateKey, Sealer
from crypto.tokens import AccessTokens, TokenExpired, TokenInvalid
from gateway import envelope
from gateway.client_address import parse_address
from protocol.addresses import is_loopback
from protocol.codec import CODECS, BadFrame, ClientFrame
from protocol.commands import SOCKET_COMMANDS
from protocol.errors import ERRORS, ChatError
from protocol.framing import HEADER_BYTES, MAGIC, PREFACE_BYTES, BadPreface, FrameReader, FrameTooLarge, Preface, frame
from rest.tus_headers import checksum, fields, number
from tests.crypto.noise_sides import Pattern, Replayed, initiator, responder
from tests.fuzz import seeds
from tests.fuzz.sockets import LIMIT_FRAME, Heard, dial, enter

FIELDS = {name for command in SOCKET_COMMANDS.values() for name in command.__struct_fields__}


DEEP = {"json": b'{"event":"ping","data":' + b"[" * 3_000, "msgpack": b"\x81\xa4data" + b"\x91" * 3_000}
"""Frames that nest deeper than any stack."""


class Target(NamedTuple):
    """A check, and what to begin with."""

    check: Callable[[bytes], None]
    seeds: list[bytes]
    longest: int = 4_096
    """Bytes in an input."""
    words: tuple[str, ...] = ()
    """What the parser knows by name; mutations put them in."""


def codec(name: str) -> Target:
    """A payload is a command, which says the same when it is written again, or a refusal that can be sent back."""
    codec = CODECS[name]

    def check(data: bytes) -> None:
        try:
            request = codec.decode(data)
        except BadFrame as error:
            told = codec.decode_server(codec.error(error, error.frame_id))
        else:
            assert type(request.command) is SOCKET_COMMANDS[request.event]
            again = codec.encode(ClientFrame(request.event, request.command, request.id))
            assert codec.decode(again) == request
            return
        assert told.data["code"] in ERRORS

    frames = [codec.encode(ClientFrame(event, command, "c1")) for event, command in seeds.commands()]
    return Target(check, [*frames, DEEP[name]], words=("event", "id", "data", *SOCKET_COMMANDS, *sorted(FIELDS)))


def server_frames(name: str) -> Target:
    """What comes from a server is a frame, or it is refused in the one way that a client expects."""
    codec = CODECS[name]

    def check(data: bytes) -> None:
        with contextlib.suppress(msgspec.MsgspecError):
            codec.decode_server(data)

    frames = [codec.event("ack", {"seq": 3}, id="c1"), codec.event("lagging", {}, chatroom_id=seeds.USER, seq=7)]
    return Target(check, [*frames, DEEP[name]], words=("event", "id", "data", "chatroom_id", "seq"))


def noise_handshake(pattern: Pattern) -> Target:
    """A first message is one that a client wrote for this server, or it is refused."""
    messages = [initiator(pattern, kind=Replayed).write(payload) for payload in (b"", b"hello", bytes(100))]

    def check(data: bytes) -> None:
        try:
            responder(pattern).read(data)
        except NoiseBroken:
            return
        assert data in messages

    return Target(check, messages, longest=256)


def noise_transport() -> Target:
    """A transport message is one that the other side wrote, or it is refused."""
    aead = Aead(bytes(KEY_BYTES))
    messages = [Sealer(aead).seal(text) for text in (b"", b"text", bytes(300))]

    def check(data: bytes) -> None:
        try:
            Opener(aead).open(data)
        except NoiseBroken:
            return
        assert data in messages

    return Target(check, messages, longest=512)


def access_token() -> Target:
    """A token says what one of ours says, or it is refused."""
    tokens = AccessTokens([seeds.jwt_pem()], "parley", 0)

    def check(data: bytes) -> None:
        try:
            claims = tokens.verify(data.decode("utf-8", "surrogateescape"))
        except (TokenInvalid, TokenExpired):
            return
        assert (claims.user_id, claims.sign_in_id) == (seeds.USER, seeds.SIGN_IN)

    return Target(check, [seeds.token(life).encode() for life in (0, 10**9)], longest=1_024)


def address() -> Target:
    """A URL is an address that can be connected to, or the refusal says what is wrong with it."""

    def check(data: bytes) -> None:
        try:
            found = parse_address(data.decode("utf-8", "surrogateescape"))
        except ValueError:
            return
        assert found.host
        assert 0 < found.port < 65_536
        assert not found.noise or found.key or found.discover
        assert found.noise or found.tls or found.transport == "ws" or is_loopback(found.host)

    urls = (
        b"ws://127.0.0.1:8000/ws?token=t",
        b"parley://chat.example.com:8001?key=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        b"parleys://[::1]:1/?key=discover&discover=https://chat.example.com",
        b"parley+clear://localhost",
    )
    return Target(check, list(urls), 256, ("key=", "discover=", "parley", "https://"))


def keys() -> Target:
    """A setting that holds secrets, chosen by the first byte, is taken or refused."""
    readers: list[Callable[[str], object]] = [
        keyfile._parse_master,
        keyfile._parse_jwt,
        keyfile._parse_refresh,
        lambda text: PrivateKey(keyfile._base64(text)),
    ]

    def check(data: bytes) -> None:
        read = readers[data[0] % len(readers) if data else 0]
        with contextlib.suppress(keyfile.BadSecret):
            keyfile._checked("SETTING", data[1:].decode("utf-8", "surrogateescape"), read, "is wrong")

    return Target(check, [bytes((which,)) + text.encode() for which, text in enumerate(seeds.secrets())])


# --- streams: the first byte of an input says in what pieces the rest comes ---------------------


def preface() -> Target:
    """Five bytes are the preface that they say, or none."""

    def check(data: bytes) -> None:
        try:
            parsed = Preface.parse(data)
        except BadPreface:
            return
        assert bytes(parsed) == data
        assert parsed.noise or not parsed.keyed

    return Target(check, [MAGIC + bytes((flags,)) for flags in range(16)], longest=8)


def unframed(data: bytes, limit: int) -> tuple[list[bytes], bool]:
    """The payloads of a stream, and whether a frame in it is too large: what a reader has to find."""
    at = 0
    payloads: list[bytes] = []
    while len(data) - at >= HEADER_BYTES:
        (size,) = struct.unpack_from(">I", data, at)
        if size > limit:
            return payloads, True
        if len(data) - at < HEADER_BYTES + size:
            break
        payloads.append(data[at + HEADER_BYTES : at + HEADER_BYTES + size])
        at += HEADER_BYTES + size
    return payloads, False


def framing() -> Target:
    """A stream has the payloads it has, however it is cut, and none above the limit."""
    limit = 64

    def check(data: bytes) -> None:
        piece, data = (data[0] or 256, data[1:]) if data else (1, b"")
        reader, too_large = FrameReader(limit), False
        payloads: list[bytes] = []
        try:
            for start in range(0, len(data), piece):
                payloads.extend(iter(reader.feed(data[start : start + piece])))  # keeps those before an exception
        except FrameTooLarge:
            too_large = True
        assert (payloads, too_large) == unframed(data, limit)

    stream = b"".join(frame(bytes(size)) for size in (0, 1, limit, 3))
    return Target(check, [bytes((piece,)) + stream for piece in (1, 5, 200)] + [b"\x07" + frame(bytes(limit + 1))])


CLEAR = {bytes(Preface(msgpack=msgpack)) for msgpack in (False, True)}
SEALED = {bytes(Preface(msgpack, noise=True, keyed=keyed)) for msgpack in (False, True) for keyed in (False, True)}
SAID = [b'{"event":"ping"}', b'{"event":"ping","id":"1"}', bytes(LIMIT_FRAME)]


def tcp() -> Target:
    """Whatever a client sends by TCP, payloads are frames of the stream, and under Noise those that a client sealed."""
    prefaces = Preface(), Preface(msgpack=True), Preface(noise=True), Preface(noise=True, keyed=True)
    streams = [stream(preface, SAID) for preface in prefaces]
    streams += [bytes(Preface()) + frame(bytes(LIMIT_FRAME + 1)), bytes(Preface(noise=True)) + b"\0\1\0\0"]

    def check(data: bytes) -> None:
        how, data = (data[0], data[1:]) if data else (1, b"")
        clear = how < 128
        heard = call(data, how % 128 or 256, clear=clear)
        if data[:PREFACE_BYTES] in SEALED:
            assert heard.payloads == SAID[: len(heard.payloads)]
            assert heard.aborted or not unframed(data[PREFACE_BYTES:], MAX_MESSAGE)[1]
        elif clear and data[:PREFACE_BYTES] in CLEAR:
            payloads, too_large = unframed(data[PREFACE_BYTES:], LIMIT_FRAME)
            assert heard == Heard(payloads, ["bad_frame"] * too_large, aborted=False)
        else:
            assert not heard.payloads

    return Target(check, [bytes((how,)) + sent for sent in streams for how in (3, 120, 200)], 2_048, ("PLY1",))


def stream(preface: Preface, payloads: list[bytes]) -> bytes:
    """What a client sends; under Noise it knows the answer beforehand."""
    frames = list(map(frame, payloads))
    if not preface.noise:
        return bytes(preface) + b"".join(frames)
    pattern: Pattern = "IK" if preface.keyed else "NK"
    client, server = (side(pattern, bytes(preface), Replayed) for side in (initiator, responder))
    first = client.write()
    server.read(first)
    client.read(server.write())
    sealer, _ = client.split()
    return bytes(preface) + b"".join(map(frame, [first, *map(sealer.seal, frames)]))


def call(data: bytes, piece: int, *, clear: bool) -> Heard:
    """What a server hears that uses the same ephemeral key every time, so that what was sealed once opens again."""
    with mock.patch.object(envelope, "Handshake", Replayed):
        return dial(data, piece, clear=clear)


def tus() -> Target:
    """The headers of an upload are what they say, or they are refused."""

    def check(data: bytes) -> None:
        text = data.decode("utf-8", "surrogateescape")  # as aiohttp gives headers
        headers = {"Upload-Length": text, "Upload-Checksum": text}
        with contextlib.suppress(ChatError):
            found = fields(text)
            assert {"filename"} <= found.keys() <= {"filename", "chatroom_id", "encrypted", "expires_in"}
            assert text.isascii()  # it goes back in an answer
        with contextlib.suppress(ChatError):
            assert 0 <= (number(headers, "Upload-Length") or 0) < 10**15
        with contextlib.suppress(ChatError):
            assert checksum(headers)

    known = (
        b"filename ZmlsbS5iaW4=,chatroom_id eA==, encrypted dHJ1ZQ==,is_confidential",
        b"name YQ==,type dmlkZW8=",
        b"sha1 Lve95gjOVATpfV8EL5X4nxwjKHE=",
        b"104857600",
    )
    return Target(check, list(known), words=("filename ", "name ", "expires_in ", "sha256 ", "md5 "))


def front_door() -> Target:
    """A connection goes to whoever speaks what its head says, with all its bytes, however they are cut."""

    def check(data: bytes) -> None:
        piece, data = (data[0] or 256, data[1:]) if data else (1, b"")
        at_once = enter(data, max(1, len(data)))
        assert enter(data, piece) == at_once
        assert (at_once is not None) == (b"\r\n\r\n" in data)
        assert at_once is None or at_once[1] == data

    heads = (
        b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        b"GET /api/v1/ws/?token=t HTTP/1.1\r\nUPGRADE: h2c, WebSocket\r\n\r\n\x81\x80abcd",
        b"POST /messages HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}",
    )
    return Target(check, [bytes((7,)) + head for head in heads], 1_024, ("\r\n\r\n", "upgrade:", "websocket"))


TARGETS: dict[str, Callable[[], Target]] = {
    "json": lambda: codec("json"),
    "msgpack": lambda: codec("msgpack"),
    "json_from_server": lambda: server_frames("json"),
    "msgpack_from_server": lambda: server_frames("msgpack"),
    "preface": preface,
    "framing": framing,
    "tcp": tcp,
    "noise_nk": lambda: noise_handshake("NK"),
    "noise_ik": lambda: noise_handshake("IK"),
    "noise_transport": noise_transport,
    "access_token": access_token,
    "keys": keys,
    "address": address,
    "tus": tus,
    "front_door": front_door,
}
"""Every target, by the name it is run by."""
