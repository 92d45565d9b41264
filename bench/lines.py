"""How a session's bytes travel: as a WebSocket, or over TCP, clear or under Noise. Sans-I/O."""

from __future__ import annotations

import base64
import os
from timeit import timeit
from typing import Protocol

from bench.target import TargetError
from crypto.noise import MAX_MESSAGE, Handshake, NoiseBroken, PrivateKey
from protocol.codec import ClientFrame, Codec
from protocol.commands import Authenticate
from protocol.framing import HEADER_BYTES, FrameReader, Preface, frame


class Line(Protocol):
    """One session's way. `ready` once frames come and go; from then on a line that is not `sealed` is left out."""

    ready: bool
    sealed: bool

    def first(self) -> bytes:
        """What the client says first."""
        ...

    def take(self, data: bytes) -> tuple[bytes, bytes]:
        """Bytes of frames, and what has to be answered. Raises TargetError."""
        ...

    def pack(self, frames: bytes) -> bytes:
        """Frames as they go out."""
        ...


class WebSocketLine:
    """The upgrade; the token, if there is one, goes where a browser has to put it."""

    sealed = False

    def __init__(self, host: str, port: int, path: str, codec: Codec, token: str | None) -> None:
        key = base64.b64encode(os.urandom(16)).decode()
        query = f"?token={token}" if token is not None else ""
        self._request = (
            f"GET {path}/ws{query} HTTP/1.1\r\nHost: {host}:{port}\r\n"
            f"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n"
            f"Sec-WebSocket-Protocol: parley.v1.{codec.name}\r\n\r\n"
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
        preface = bytes(Preface(msgpack=codec.binary, noise=True))
        self._handshake = Handshake("NK", initiator=True, prologue=preface, remote_static=server_key)
        self._opening = preface + frame(self._handshake.write())
        self._authenticate = _authenticate(codec, token)
        self._messages = FrameReader(MAX_MESSAGE)
        self.ready = False

    def first(self) -> bytes:
        """The preface and the handshake."""
        return self._opening

    def take(self, data: bytes) -> tuple[bytes, bytes]:
        """What the messages hold; after the handshake's answer the token goes out."""
        opened, answer = [], b""
        try:
            for message in self._messages.feed(data):
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
