"""Input that is wrong: each kind has its code, and the node serves on; the common server's log stays clean."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import pytest
from cryptography.hazmat.primitives import serialization
from websockets.frames import Opcode

from crypto import keyfile
from crypto.tokens import AccessTokens
from tests.e2e.conftest import StartServer
from tests.e2e.lines import PACKED, Transport
from tests.e2e.packing import pack
from tests.e2e.raw import RawSocket, frame, head, raw_socket, text
from tests.e2e.server import Person, Server
from tests.e2e.socket_client import SocketClient, socket_client

MAX = 65_536
BAD, TOO_LARGE, NOT_UTF8, BROKEN, BAD_FRAME = "VALIDATION_INVALID_FORMAT", 1009, 1007, 1002, 4000


@pytest.fixture
async def server(common_server: Server, crowd: list[Person]) -> AsyncIterator[Server]:
    """The common server; two who talk before a test talk after it, on the sockets they have."""
    ann, bob = crowd[4:6]
    room = await common_server.chatroom(ann, bob)
    async with socket_client(common_server.ws) as one, socket_client(common_server.ws) as two:
        await one.authenticate(ann.token)
        await two.authenticate(bob.token)
        yield common_server
        await one.say(room, "still here")
        assert (await two.until("message_received"))["data"]["message"]["content"] == "still here"


@pytest.fixture
async def raw(server: Server, crowd: list[Person]) -> AsyncIterator[RawSocket]:
    """A session on a socket that takes any bytes."""
    async with raw_socket(server, head()) as raw:
        assert (await raw.ask(text("authenticate", {"token": crowd[0].token})))["event"] == "ready"
        yield raw


# --- frames ----------------------------------------------------------------------------------


NO_JSON = [
    (b"", BAD),
    (b"hello", BAD),
    (b"null", BAD),
    (b'{"event":"ping"', BAD),
    (b'{"event":"fly"}', "VALIDATION_UNKNOWN_EVENT"),
    (b'{"event":"send_message"}', "VALIDATION_REQUIRED_FIELD"),
    (b'{"event":"join_chatroom","data":{"chatroom_id":5}}', BAD),
    (b'{"event":"ping","data":' + b"[" * 60_000 + b"]" * 3, BAD),
    (b'{"id":' * 10_000, BAD),
    (b'{"event":"message_read","data":{"seq":' + b"9" * 60_000 + b"}}", BAD),
    (b'{"event":"ping","data":{"received":1e999}}', BAD),
    (b'{"event":"ping","id":"\\ud800"}', BAD),
    (b'{"event":"ping","data":{"received":1000000}}', "VALIDATION_INVALID_VALUE"),
]
NO_MSGPACK = [
    (b"", BAD),
    (b"\xc1", BAD),
    (b"\xc0", BAD),
    (pack({"event": "ping"})[:-1], BAD),
    (pack({"event": "ping"}) + b"\xc0", BAD),
    (pack({"event": "fly"}), "VALIDATION_UNKNOWN_EVENT"),
    (pack({"event": "send_message"}), "VALIDATION_REQUIRED_FIELD"),
    (pack({"event": "join_chatroom", "data": {"chatroom_id": 5}}), BAD),
    (b"\x91" * 60_000 + b"\xc0", BAD),
    (b"\xdd\xff\xff\xff\xff", BAD),
    (b"\xdb\xff\xff\xff\xff", BAD),
    (pack({"event": "ping", "id": "\ud800"}), BAD),
    (pack({"event": "ping", "data": {"received": 1_000_000}}), "VALIDATION_INVALID_VALUE"),
]
"""Lists and texts of 4 GiB among them, which are only announced."""


async def test_frames_that_are_no_command(server: Server, crowd: list[Person], transport: Transport) -> None:
    """Each gets its code, and the session goes on."""
    async with socket_client(server, transport) as client:
        await client.authenticate(crowd[0].token)
        for payload, code in NO_MSGPACK if transport in PACKED else NO_JSON:
            await client.line.send(payload)
            answer = await client.recv()
            assert (answer["event"], answer["data"]["code"]) == ("error", code), payload[:50]
            assert (await client.ask("ping"))["event"] == "pong"


async def test_before_there_is_a_session(server: Server, transport: Transport) -> None:
    """A stranger gets typed errors too, and can still sign in."""
    async with socket_client(server, transport) as client:
        await client.until("hello")
        await client.line.send(b"{")
        assert (await client.recv())["data"]["code"] == BAD
        asked = await client.ask("join_chatroom", {"chatroom_id": str(uuid4())}, "x")
        assert asked["data"]["code"] == "AUTH_REQUIRED"
        assert (await client.ask("ping"))["event"] == "pong"


def sized(client: SocketClient, size: int) -> bytes:
    """A ping in a payload of exactly this size."""
    least = len(client.encode({"event": "ping", "filling": ""}))
    return client.encode({"event": "ping", "filling": "x" * (size - least)})


async def test_the_largest_frame(server: Server, crowd: list[Person], transport: Transport) -> None:
    """A frame of exactly the limit is taken; one more byte ends the connection."""
    async with socket_client(server, transport) as client:
        await client.authenticate(crowd[0].token)
        await client.line.send(sized(client, MAX))
        assert (await client.recv())["event"] == "pong"
        await client.line.send(sized(client, MAX + 1))
        ends_itself = transport in ("ws-json", "ws-msgpack")  # a message too large is an error of WebSocket's own
        assert (await client.closed())[0] == (TOO_LARGE if ends_itself else BAD_FRAME)


def padded(size: int) -> bytes:
    """A ping in a payload of exactly this size."""
    return b'{"event":"ping"}'.ljust(size)


async def test_the_largest_frame_in_pieces(raw: RawSocket) -> None:
    """The limit is the same for a message in many fragments."""
    pieces = [padded(MAX)[at : at + 1_000] for at in range(0, MAX, 1_000)]
    raw.send(frame(Opcode.TEXT, pieces[0], fin=False))
    for piece in pieces[1:-1]:
        raw.send(frame(Opcode.CONT, piece, fin=False))
    assert (await raw.ask(frame(Opcode.CONT, pieces[-1])))["event"] == "pong"


async def test_fragments(raw: RawSocket) -> None:
    """A message may come in pieces, empty ones too, cut inside a character, with a ping between."""
    whole = '{"event":"ping","id":"é"}'.encode()
    raw.send(frame(Opcode.TEXT, b"", fin=False))
    for byte in whole:
        raw.send(frame(Opcode.CONT, bytes([byte]), fin=False))
    raw.send(frame(Opcode.PING, b"alive"))
    assert await raw.frame() == (Opcode.PONG, b"alive")
    assert (await raw.ask(frame(Opcode.CONT, b"")))["id"] == "é"


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(Opcode.TEXT, padded(MAX + 1)), TOO_LARGE),
        (b"\x81\xff" + (2**62).to_bytes(8, "big") + b"mask", TOO_LARGE),
        (b"\x81\xff" + (2**63).to_bytes(8, "big") + b"mask", TOO_LARGE),
        (b"\x81\xff" + (2**64 - 1).to_bytes(8, "big") + b"mask", TOO_LARGE),
        (frame(Opcode.TEXT, padded(MAX), fin=False) + frame(Opcode.CONT, b" "), TOO_LARGE),
        (frame(Opcode.TEXT, b"\xff"), NOT_UTF8),
        (frame(Opcode.TEXT, b'{"event":"ping","id":"\xed\xa0\x80"}'), NOT_UTF8),
        (frame(Opcode.TEXT, b"\xc3", fin=False) + frame(Opcode.CONT, b"("), NOT_UTF8),
        (b"\x81\x02{}", BROKEN),
        (frame(Opcode.CONT, b"{}"), BROKEN),
        (frame(Opcode.TEXT, b"{", fin=False) + frame(Opcode.TEXT, b"}"), BROKEN),
        (b"\xc1\x80mask", BROKEN),
        (b"\x83\x80mask", BROKEN),
        (b"\x09\x80mask", BROKEN),
        (b"\x89\xfe\x00\x7emask" + b"x" * 126, BROKEN),
    ],
    ids=[
        "max+1", "2^62", "2^63", "2^64-1", "fragments", "utf-8", "surrogate", "split", "unmasked", "continuation",
        "nested", "reserved bits", "reserved opcode", "split ping", "long ping",
    ],
)  # fmt: skip
async def test_broken_frames(raw: RawSocket, data: bytes, code: int) -> None:
    """What breaks RFC 6455 or the limit ends the connection with RFC 6455's code, and quickly."""
    raw.send(data)
    assert await raw.close_code() == code
    await raw.ended()


# --- upgrades --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_head", "status"),
    [
        (head(Sec_WebSocket_Key=None), 400),
        (head(Sec_WebSocket_Key="short"), 400),
        (head(Sec_WebSocket_Version="12"), 400),
        (head(Connection="close"), 426),
        (head(Sec_WebSocket_Protocol="chat"), 400),
        (head(Origin="https://evil.example"), 403),
        (head(Origin="null"), 403),
        (head(Origin="http://127.0.0.1.evil.example"), 403),
        (head(path="/socket"), 404),
        (head(path="/api/v2/ws"), 404),
        (head().replace(b"GET", b"POST", 1), 404),
        (b"GET /ws HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        (b"GARBAGE\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    ],
)
async def test_upgrades_that_are_refused(server: Server, request_head: bytes, status: int) -> None:
    """An upgrade that is wrong, or from elsewhere, is answered in HTTP."""
    async with raw_socket(server) as raw:
        raw.send(request_head)
        assert (await raw.response())[0] == status


@pytest.mark.parametrize(
    "request_head",
    [
        head(),
        head(path="/api/v1/ws"),
        head(path="/ws/"),
        head(Origin="http://127.0.0.1"),
        head(Sec_WebSocket_Protocol="chat, parley.v1.json"),
        head(Upgrade="WebSocket", Connection="keep-alive, Upgrade"),
        head(X_Long="x" * 4_000),
    ],
)
async def test_upgrades_that_are_taken(server: Server, request_head: bytes) -> None:
    """An upgrade by the book is taken, also from a page of the same host."""
    async with raw_socket(server, request_head) as raw:
        assert (await raw.ask(text("ping")))["event"] == "pong"


async def test_a_frame_behind_the_upgrade(server: Server) -> None:
    """A client that does not wait for the answer to its upgrade is heard all the same."""
    async with raw_socket(server, head() + text("ping", id="early")) as raw:
        assert (await raw.event())["id"] == "early"


async def test_an_allowed_origin(start_server: StartServer) -> None:
    """Origins on the list may connect, others may not."""
    server = await start_server(PARLEY_ORIGINS="https://chat.example, https://other.example")
    for origin, status in (("https://chat.example", 101), ("https://other.example", 101), ("http://chat.example", 403)):
        async with raw_socket(server) as raw:
            raw.send(head(Origin=origin))
            assert (await raw.response())[0] == status


async def test_pipelined_requests(server: Server) -> None:
    """Requests that come in one packet are answered in order, on the port that WebSocket shares."""
    body = b'{"username":"nobody","password":"x"}'
    login = b"POST /auth/login HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    live = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"
    last = b"GET /nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    async with raw_socket(server) as raw:
        raw.send(live + login + live + last)
        answers = await raw.ended()
    statuses = [int(part.split()[0]) for part in answers.split(b"HTTP/1.1 ")[1:]]
    assert statuses == [200, 401, 200, 404]


# --- tokens ----------------------------------------------------------------------------------


def claims_of(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The header and the claims of a token, unverified."""
    one, two = (json.loads(base64.urlsafe_b64decode(part + "==")) for part in token.split(".")[:2])
    return one, two


def encode(value: Any) -> str:
    """A part of a token."""
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def forged(server: Server, person: Person) -> dict[str, tuple[str, str]]:
    """Tokens that are no good, each with the code it should get."""
    header, claims = claims_of(person.token)
    pems = keyfile.load_keys(server.directory / "data" / "keys", None, None, None, None, production=False).jwt_pems
    ids = UUID(claims["sub"]), UUID(claims["sid"])
    bare = f"{encode({**header, 'alg': 'none'})}.{encode(claims)}."
    public = serialization.load_pem_private_key(pems[0].encode(), None).public_key()
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    hs = f"{encode({**header, 'alg': 'HS256'})}.{encode(claims)}"
    signed = f"{hs}.{encode(hmac.digest(pem, hs.encode(), hashlib.sha256))}"
    one, two, three = person.token.split(".")
    return {
        "expired": (AccessTokens(pems, "parley", -60).issue(*ids)[0], "AUTH_TOKEN_EXPIRED"),
        "issuer": (AccessTokens(pems, "someone else", 60).issue(*ids)[0], "AUTH_TOKEN_INVALID"),
        "sign-in": (AccessTokens(pems, "parley", 60).issue(ids[0], uuid4())[0], "AUTH_TOKEN_INVALID"),
        "user": (AccessTokens(pems, "parley", 60).issue(uuid4(), ids[1])[0], "AUTH_TOKEN_INVALID"),
        "none": (bare, "AUTH_TOKEN_INVALID"),
        "hs256": (signed, "AUTH_TOKEN_INVALID"),
        "unsigned": (f"{one}.{two}.", "AUTH_TOKEN_INVALID"),
        "other claims": (f"{one}.{encode({**claims, 'sub': str(uuid4())})}.{three}", "AUTH_TOKEN_INVALID"),
        "words": ("not a token", "AUTH_TOKEN_INVALID"),
        "refresh": (person.refresh_token, "AUTH_TOKEN_INVALID"),
    }


async def test_tokens_that_are_no_good(server: Server, crowd: list[Person], transport: Transport) -> None:
    """No forged, foreign or expired token opens anything, on either door and in any place."""
    for token, code in forged(server, crowd[0]).values():
        status, answer = await server.call("GET", "/users/me", token)
        assert (status, answer["error"]["code"]) == (401, code)
        async with socket_client(server, transport) as client:
            await client.until("hello")
            await client.send("authenticate", {"token": token}, id="a")
            refused = await client.recv()
            assert (refused["event"], refused["id"], refused["data"]["code"]) == ("error", "a", code)
            assert await client.closed() == (4001, code)
        async with socket_client(server.ws, additional_headers={"Authorization": f"Bearer {token}"}) as client:
            await client.until("error")
            assert (await client.closed())[0] == 4001
