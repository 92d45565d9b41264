"""Somebody stands between client and server, and changes what passes: under Noise that only ever ends a connection."""

from __future__ import annotations

import asyncio
import base64
import logging
import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any, Literal
from uuid import uuid4

import pytest

from crypto.noise import PrivateKey
from gateway.client import connect
from tests.e2e.conftest import StartServer
from tests.e2e.cuts import Target
from tests.e2e.lines import LOST, Ended, TcpLine, Transport, WebSocketLine
from tests.e2e.middle import Flip, Middle, Passage
from tests.e2e.server import Person, Server
from tests.e2e.socket_client import SocketClient, socket_client
from tests.e2e.test_every_byte import Lane, lanes_of

log = logging.getLogger(__name__)

FLAGS = {"tcp": 4, "ws": 10}
"""Where the byte of flags stands: behind PLY1; on a WebSocket behind a header of 2 bytes and a mask of 4, too."""
TRIES = 3
SEALED: tuple[Transport, ...] = ("tcp-noise", "ws-noise")
LANES = 16
EACH = 80
"""Flips in each direction of each transport."""
SPOILT = 100


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Clients come back at once, and do not say why each time."""
    monkeypatch.setattr("gateway.client_commands.RETRY_BASE", 0.01)
    monkeypatch.setattr("gateway.client_commands.DELAY_CAP", 0.02)
    caplog.set_level(logging.ERROR, "parley.client")


def clear_text(passage: Passage) -> bytes:
    """What the client has sent, as somebody on the way can read it: the masks of WebSocket hide nothing."""
    head, body = bytes(passage.passed["up"]), passage.body("up")
    if not head.startswith(b"GET "):
        return head
    text = head
    while len(body) >= 6:
        length, at = body[1] & 127, 2
        if length == 126:
            length, at = int.from_bytes(body[2:4], "big"), 4
        mask, data = body[at : at + 4], body[at + 4 : at + 4 + length]
        text += bytes(byte ^ mask[place % 4] for place, byte in enumerate(data))
        body = body[at + 4 + length :]
    return text


def url_of(middle: Middle, transport: str, key: bytes) -> str:
    """The address of the server behind the middle, its key pinned."""
    pinned = base64.urlsafe_b64encode(key).decode()
    path = "/ws" if transport == "ws" else ""
    return f"{'ws' if transport == 'ws' else 'parley'}://127.0.0.1:{middle.port}{path}?key={pinned}"


async def stays_out(middle: Middle, url: str, tries: int = TRIES, **how: Any) -> None:
    """A client that tries again and again, and never gets in."""

    async def enter() -> None:
        async with connect(url, **how):
            pass

    entering = asyncio.create_task(enter())
    async with asyncio.timeout(20):
        while len(middle.passages) <= tries and not entering.done():
            await asyncio.sleep(0.005)
    entering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await entering


@asynccontextmanager
async def credentials(server: Server, owner: Person, *, keyed: bool) -> AsyncIterator[tuple[dict[str, Any], bytes]]:
    """What a client shows (a person's token, or a bot's key in the handshake), and the secret in it."""
    if not keyed:
        yield {"token": owner.token}, owner.token.encode()
        return
    key = PrivateKey.new()
    public = base64.b64encode(key.public).decode()
    body = {"username": f"bot-{uuid4().hex[:8]}", "scopes": ["read"], "public_key": public}
    bot = (await server.data("POST", "/bots", owner.token, body))["bot"]
    yield {"private_key": key.secret}, key.secret
    await server.data("DELETE", f"/bots/{bot['id']}", owner.token)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("codec", ["json", "msgpack"])
@pytest.mark.parametrize("keyed", [False, True], ids=["NK", "IK"])
@pytest.mark.parametrize("transport", ["tcp", "ws"])
async def test_no_flag_can_be_changed(
    common_server: Server, crowd: list[Person], transport: str, keyed: bool, codec: Literal["json", "msgpack"]
) -> None:
    """Whichever flag of the preface is flipped, the client never gets in, never falls back, and shows no secret."""
    port = common_server.tcp_port if transport == "tcp" else common_server.port
    key = await common_server.noise_key()
    async with credentials(common_server, crowd[0], keyed=keyed) as (shown, secret):
        for bit in range(8):
            async with Middle(always=Flip("up", FLAGS[transport], bit)).before(port) as middle:
                await stays_out(middle, url_of(middle, transport, key), codec=codec, **shown)
                assert all(passage.flipped for passage in middle.passages[:TRIES])
                for passage in middle.passages:
                    assert b"PLY1" in clear_text(passage) or not passage.flipped
                    assert secret not in clear_text(passage)
                    assert b"ready" not in bytes(passage.passed["down"])
        async with Middle().before(port) as middle:
            async with connect(url_of(middle, transport, key), codec=codec, **shown) as client:
                assert client.user is not None
            assert secret not in clear_text(middle.passages[0])


async def test_what_is_looked_for_can_be_found(common_server: Server, crowd: list[Person]) -> None:
    """Without Noise the token is there for anyone on the way, and the tests above would see it."""
    async with Middle().before(common_server.tcp_port) as middle:
        async with connect(f"parley+clear://127.0.0.1:{middle.port}", crowd[0].token):
            pass
        assert crowd[0].token.encode() in clear_text(middle.passages[0])
    async with Middle().before(common_server.port) as middle:
        async with connect(f"ws://127.0.0.1:{middle.port}/ws", crowd[0].token):
            pass
        assert crowd[0].token.encode() in clear_text(middle.passages[0])


NOISE = b"Sec-WebSocket-Protocol: parley.v1.noise"


def hidden(passage: Passage, direction: str, data: bytes) -> bytes:
    """The client's offer does not arrive."""
    return data.replace(NOISE, b"X" + NOISE[1:]) if direction == "up" else data


def replaced(passage: Passage, direction: str, data: bytes) -> bytes:
    """The offer is another one."""
    return data.replace(NOISE, b"Sec-WebSocket-Protocol: parley.v1.json") if direction == "up" else data


def lied_about(passage: Passage, direction: str, data: bytes) -> bytes:
    """The offer does not arrive, and the client hears that it was taken."""
    if direction == "up":
        return hidden(passage, direction, data)
    return data.replace(b"\r\n\r\n", b"\r\n" + NOISE + b"\r\n\r\n", 1) if data.startswith(b"HTTP/") else data


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("meddle", [hidden, replaced, lied_about])
async def test_the_subprotocol_cannot_be_stripped(
    common_server: Server, crowd: list[Person], meddle: Callable[..., bytes]
) -> None:
    """A WebSocket that lost its offer of Noise on the way is no line to a client that asked for Noise."""
    token = crowd[0].token
    async with Middle(meddle).before(common_server.port) as middle:
        url = url_of(middle, "ws", await common_server.noise_key())
        await stays_out(middle, url, token=token)
        for passage in middle.passages:
            assert token.encode() not in clear_text(passage)
            assert b"ready" not in bytes(passage.passed["down"])


async def test_another_key_is_another_server(common_server: Server, crowd: list[Person]) -> None:
    """Who answers without the key that was pinned gets nothing out of the client."""
    async with Middle().before(common_server.tcp_port) as middle:
        await stays_out(middle, url_of(middle, "tcp", PrivateKey.new().public), tries=1, token=crowd[0].token)
        assert crowd[0].token.encode() not in clear_text(middle.passages[0])


# --- flipped bits ----------------------------------------------------------------------------


@pytest.mark.timeout(240)
async def test_a_flipped_bit_only_ends_the_connection(start_server: StartServer) -> None:
    """Any bit, anywhere behind the upgrade, in either direction: the session resumes, nothing is lost or repeated."""
    seed = random.randrange(2**32)
    log.warning("seed %d", seed)
    dice = random.Random(seed)
    server = await start_server()
    for transport in SEALED:
        target = await Target.of(server, transport)
        async with Middle().before(target.port) as middle:
            (lane,) = await lanes_of(server, 1, prefix=transport[0])
            await lane.converse(_through(middle, target), None)
            lengths = {way: len(middle.passages[0].body(way)) for way in middle.passages[0].passed}
        assert min(lengths.values()) > 1_000
        flips = [
            Flip(way, dice.randrange(size), dice.randrange(8)) for way, size in lengths.items() for _ in range(EACH)
        ]
        shared = iter(flips)
        lanes = await lanes_of(server, LANES, prefix=transport[0] + "l")
        async with asyncio.TaskGroup() as group:
            noticed = [group.create_task(_flip_all(lane, target, shared)) for lane in lanes]
        assert sum(task.result() for task in noticed) > len(flips) // 2
    assert "Traceback" not in server.logs()


def _through(middle: Middle, target: Target) -> Target:
    return target._replace(port=middle.port)


async def _flip_all(lane: Lane, target: Target, flips: Iterator[Flip]) -> int:
    """Has a lane's conversation with each of the flips; how many of them came to pass."""
    noticed = 0
    async with Middle().before(target.port) as middle:
        for flip in flips:
            middle.flip = flip
            first = len(middle.passages)
            try:
                async with asyncio.timeout(30):
                    await lane.converse(_through(middle, target), None)
            except Exception as error:
                error.add_note(f"{target.transport}, {flip}")
                raise
            if middle.passages[first].flipped:
                assert len(middle.passages) > first + 1, flip
                noticed += 1
    return noticed


def _spoil(message: bytes, bit: int) -> bytes:
    """One bit of it flipped."""
    return message[: bit // 8] + bytes((message[bit // 8] ^ 1 << bit % 8,)) + message[bit // 8 + 1 :]


@pytest.mark.parametrize("transport", SEALED)
async def test_the_server_says_nothing_to_it(common_server: Server, crowd: list[Person], transport: Transport) -> None:
    """A Noise message with a flipped bit ends a connection without a word; it does not count; the session goes on."""
    ann = crowd[0]
    room = await common_server.chatroom(ann)
    seed = random.randrange(2**32)
    log.warning("seed %d", seed)
    dice = random.Random(seed)
    async with socket_client(common_server, transport) as client:
        ready = await client.authenticate(ann.token)
        client.cut()
    received = 0
    for turn in range(SPOILT):
        async with socket_client(common_server, transport) as client:
            await client.until("hello")
            asked = {"session_id": ready["session_id"], "resume_token": ready["resume_token"], "received": received}
            await client.send("resume", asked)
            assert (await client.until("resumed"))["data"] == {"missed": 0, "handled": turn}
            assert (await client.say(room, f"{turn}"))["event"] == "ack"
            await client.until("message_received")
            received += client.received
            await _send_spoilt(client, {"chatroom_id": str(room), "content": f"spoilt {turn}"}, dice)
            with pytest.raises(Ended) as ended:
                await client.recv()
            assert (ended.value.code, await client.line.ended()) == (LOST, b"")
    history = await common_server.history(ann, room)
    assert [message["content"] for message in history] == [f"{turn}" for turn in range(SPOILT)]


async def _send_spoilt(client: SocketClient, data: dict[str, Any], dice: random.Random) -> None:
    """A send_message in a Noise message that has been touched."""
    line = client.line
    assert isinstance(line, TcpLine | WebSocketLine)
    assert line.channel is not None
    (message,) = line.channel.seal(client.encode({"event": "send_message", "data": data}))
    spoilt = _spoil(message, dice.randrange(len(message) * 8))
    if isinstance(line, TcpLine):
        line.write(len(spoilt).to_bytes(4, "big") + spoilt)
    else:
        await line.ws.send(spoilt)
