"""One target for each parser: what it is fed, and what has to be true whatever it is fed.

A check raises nothing for any bytes, unless something is wrong. Seeds are real
frames and the like, so that mutations begin where a parser goes deep.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import NamedTuple, cast

from crypto import keyfile
from crypto.noise import KEY_BYTES, Aead, NoiseBroken, Opener, PrivateKey, Sealer
from crypto.tokens import AccessTokens, TokenExpired, TokenInvalid
from gateway.front_door import FrontDoor
from gateway.wheel import Wheel
from protocol.codec import CODECS, BadFrame, ClientFrame
from protocol.commands import SOCKET_COMMANDS
from protocol.errors import ERRORS
from tests.crypto.noise_sides import Pattern, Replayed, initiator, responder
from tests.fuzz import seeds

FIELDS = {name for command in SOCKET_COMMANDS.values() for name in command.__struct_fields__}


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
    deep = b'{"event":"ping","data":' + b"[" * 3_000 if name == "json" else b"\x91" * 3_000
    return Target(check, [*frames, deep], words=("event", "id", "data", *SOCKET_COMMANDS, *sorted(FIELDS)))


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


# --- the front door --------------------------------------------------------------------------


class Taker(asyncio.Protocol):
    """Takes a connection over."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.received = b""

    def data_received(self, data: bytes) -> None:
        """Keeps what it gets."""
        self.received += data


class Socket(asyncio.Transport):
    """A socket that gives its bytes to whoever has it."""

    def __init__(self) -> None:
        super().__init__()
        self.protocol: asyncio.BaseProtocol | None = None

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Gives the connection to another."""
        assert not isinstance(self.protocol, Taker)
        self.protocol = protocol


class StillWheel:
    """A wheel that does not turn."""

    def now(self) -> float:
        """No time passes."""
        return 0.0

    def schedule(self, timed: object, when: float) -> None:
        """Nothing comes due."""


def enter(data: bytes, piece: int) -> tuple[str, bytes] | None:
    """Who got a connection and its bytes, which come in pieces; None while its head is not whole."""
    socket = Socket()
    door = FrontDoor(lambda: Taker("websocket"), lambda: Taker("http"), cast("Wheel", StillWheel()), 10.0)
    socket.protocol = door
    door.connection_made(socket)
    for start in range(0, len(data), piece):
        cast("asyncio.Protocol", socket.protocol).data_received(data[start : start + piece])
    return (socket.protocol.name, socket.protocol.received) if isinstance(socket.protocol, Taker) else None


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
    "noise_nk": lambda: noise_handshake("NK"),
    "noise_ik": lambda: noise_handshake("IK"),
    "noise_transport": noise_transport,
    "access_token": access_token,
    "keys": keys,
    "front_door": front_door,
}
"""Every target, by the name it is run by."""
