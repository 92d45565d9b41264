"""How a session's bytes travel: as a WebSocket, or over TCP, clear or under Noise. Sans-I/O."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterable
from timeit import timeit

from bench.frames import BINARY, CLOSE, PING, PONG, masked, split
from bench.target import TargetError
from crypto.noise import MAX_MESSAGE, Handshake, NoiseBroken, PrivateKey
from protocol.codec import ClientFrame, Codec
from protocol.commands import Authenticate
from protocol.framing import HEADER_BYTES, FrameReader, Preface, frame


class WebSocketLine:
    """The upgrade. `path` has the query, where a token stands for those who can't set headers."""

    sealed = False

    def __init__(self, host: str, port: int, path: str, subprotocol: str | None) -> None:
        key = base64.b64encode(os.urandom(16)).decode()
        offer = f"Sec-WebSocket-Protocol: {subprotocol}\r\n" if subprotocol else ""
        self._request = (
            f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\n"
            f"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n"
            f"{offer}\r\n"
        ).encode()
        self._answer = b""
        self.ready = False

    def first(self) -> bytes:
        """The request."""
        return self._request

    def take(self, data: bytes) -> tuple[bytes, bytes]:
        """What follows the answer to the request, once that is there."""
        self._answer += data
        head, end, after = self._answer.partition(b"\r\n\r\n")
        if not end:
            return b"", b""
        if not head.startswith(b"HTTP/1.1 101 "):
            raise TargetError(f"the upgrade was refused: {head.splitlines()[0].decode(errors='replace')}")
        self.ready = True
        return after, b""

    def pack(self, frames: bytes) -> bytes:
        """As they are."""
        return frames


class TcpLine:
    """The preface, and the token in the first frame."""

    sealed = False

    def __init__(self, codec: Codec, token: str) -> None:
        self._opening = bytes(Preface(msgpack=codec.binary)) + _authenticate(codec, token)
        self.ready = False

    def first(self) -> bytes:
        """Both at once."""
        return self._opening

    def take(self, data: bytes) -> tuple[bytes, bytes]:
        """There is nothing to wait for."""
        self.ready = True
        return data, b""

    def pack(self, frames: bytes) -> bytes:
        """As they are."""
        return frames


class SealedLine:
    """The same inside Noise."""

    sealed = True

    def __init__(self, codec: Codec, token: str, server_key: bytes) -> None:
        self._preface = bytes(Preface(msgpack=codec.binary, noise=True))
        self._handshake = Handshake("NK", initiator=True, prologue=self._preface, remote_static=server_key)
        self._authenticate = _authenticate(codec, token)
        self._messages = FrameReader(MAX_MESSAGE)
        self.ready = False

    def first(self) -> bytes:
        """The preface and the handshake."""
        return self._preface + frame(self._handshake.write())

    def take(self, data: bytes) -> tuple[bytes, bytes]:
        """What the messages hold; after the handshake's answer the token goes out."""
        return self._take(self._messages.feed(data))

    def _take(self, messages: Iterable[bytes]) -> tuple[bytes, bytes]:
        opened, answer = [], b""
        try:
            for message in messages:
                if self.ready:
                    opened.append(self._opener.open(message))
                else:
                    answer = self._complete(message)
        except NoiseBroken as error:
            raise TargetError(str(error)) from error
        return opened[0] if len(opened) == 1 else b"".join(opened), answer

    def _complete(self, message: bytes) -> bytes:
        self._handshake.read(message)
        self._sealer, self._opener = self._handshake.split()
        self.ready = True
        return self.pack(self._authenticate)

    def pack(self, frames: bytes) -> bytes:
        """Sealed."""
        return b"".join(map(frame, self._sealer.seal_all(frames)))


class SealedWebSocketLine(SealedLine):
    """Noise in a WebSocket's binary messages: the preface, the handshake, then the sealed ones."""

    def __init__(self, upgrade: WebSocketLine, codec: Codec, token: str, server_key: bytes) -> None:
        super().__init__(codec, token, server_key)
        self._upgrade = upgrade
        self._rest = b""

    def first(self) -> bytes:
        """The request."""
        return self._upgrade.first()

    def take(self, data: bytes) -> tuple[bytes, bytes]:
        """What the messages hold; the preface and the handshake go out after the upgrade."""
        if not self._upgrade.ready:
            data, _ = self._upgrade.take(data)
            if not self._upgrade.ready:
                return b"", b""
            hello = masked(BINARY, self._preface) + masked(BINARY, self._handshake.write())
            frames, answer = self._messages_in(data)
            return frames, hello + answer
        return self._messages_in(data)

    def _messages_in(self, data: bytes) -> tuple[bytes, bytes]:
        data, at = self._rest + data, 0
        messages, pongs = [], b""
        for opcode, start, at in split(data):
            if opcode == BINARY:
                messages.append(data[start:at])
            elif opcode == PING:
                pongs += masked(PONG, data[start:at])
            elif opcode == CLOSE:
                raise TargetError(closing(data[start:at]))
        self._rest = data[at:]
        frames, answer = self._take(messages)
        return frames, pongs + answer

    def pack(self, frames: bytes) -> bytes:
        """Sealed."""
        return b"".join(masked(BINARY, message) for message in self._sealer.seal_all(frames))


def closing(payload: bytes) -> str:
    """A close frame, in words."""
    return f"closed: {int.from_bytes(payload[:2], 'big')} {payload[2:].decode(errors='replace')}"


def _authenticate(codec: Codec, token: str) -> bytes:
    return frame(codec.encode(ClientFrame("authenticate", Authenticate(token=token))))


def noise_costs(size: int = 256, rounds: int = 20_000) -> tuple[float, float]:
    """Microseconds to seal and to open one frame, above what it costs to write and read it clear; best of five."""
    server = PrivateKey.new()
    here = Handshake("NK", initiator=True, prologue=b"", remote_static=server.public)
    there = Handshake("NK", initiator=False, prologue=b"", static=server)
    there.read(here.write())
    here.read(there.write())
    sealer, opener = here.split()[0], there.split()[1]
    payload = bytes(size)
    sealed: list[bytes] = []

    def seal() -> None:
        sealed.append(frame(sealer.seal(payload)))

    def both() -> tuple[float, float]:
        sealed.clear()
        sealing = timeit(seal, number=rounds)
        sealed_all = iter(sealed[:])
        opening = timeit(lambda: opener.open(next(sealed_all)[HEADER_BYTES:]), number=rounds)
        return sealing, opening

    clear = min(timeit(lambda: frame(payload), number=rounds) for _ in range(5))
    best = [min(times) for times in zip(*(both() for _ in range(5)), strict=True)]
    return (best[0] - clear) / rounds * 1e6, best[1] / rounds * 1e6
