"""Noise around a stream of frames: the handshake of either end, then messages in and out. Sans-I/O.

The handshake's prologue is the preface, so whoever flips a flag on the way breaks it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from crypto.noise import MAX_MESSAGE, MAX_PLAINTEXT, Handshake, NoiseBroken, Opener, PrivateKey, Sealer
from protocol.framing import FrameReader, Preface

__all__ = ["MAX_MESSAGE", "Accepted", "Envelope", "NoiseBroken", "Offer", "PrivateKey", "accept"]

Framing = Callable[[bytes], bytes]
"""Puts a message on the transport: behind a length on TCP, in a binary frame on a WebSocket."""


class Envelope:
    """One end of an open channel. `limit` is for the frames inside."""

    __slots__ = ("_frame", "_opener", "_reader", "_sealer")

    def __init__(self, sealer: Sealer, opener: Opener, frame: Framing, limit: int) -> None:
        self._sealer = sealer
        self._opener = opener
        self._frame = frame
        self._reader = FrameReader(limit)

    @property
    def partial(self) -> bool:
        """Whether a frame has begun to arrive and is not whole."""
        return self._reader.partial

    def open(self, message: bytes) -> Iterator[bytes]:
        """The payloads that are whole with this message. Raises NoiseBroken, or FrameTooLarge."""
        return self._reader.feed(self._opener.open(message))

    def seal(self, data: bytes) -> bytes:
        """Frames, as the bytes to write: in one message where they fit, in as few as possible where not."""
        if len(data) <= MAX_PLAINTEXT:
            return self._frame(self._sealer.seal(data))
        return b"".join(map(self._frame, self.messages(data)))

    def messages(self, data: bytes) -> list[bytes]:
        """The same, message by message, for a transport that frames them itself."""
        return self._sealer.seal_all(data)


class Accepted(NamedTuple):
    """What a client's handshake came to: the channel, the answer, and the client's key if it showed one."""

    envelope: Envelope
    answer: bytes
    peer_key: bytes | None


def accept(preface: Preface, static: PrivateKey, message: bytes, frame: Framing, limit: int) -> Accepted:
    """The server's end, from the client's message. Raises NoiseBroken."""
    handshake = Handshake("IK" if preface.keyed else "NK", initiator=False, prologue=bytes(preface), static=static)
    _check_empty(handshake.read(message))
    answer = frame(handshake.write())
    return Accepted(Envelope(*handshake.split(), frame, limit), answer, handshake.remote_static)


def _check_empty(payload: bytes) -> None:
    """A handshake message carries nothing here: what it would is without the protection that comes after it."""
    if payload:
        raise NoiseBroken


class Offer:
    """The client's end: `message` goes out behind the preface, the server's answer completes it."""

    def __init__(self, preface: Preface, server_key: bytes, static: PrivateKey | None, frame: Framing) -> None:
        self._frame = frame
        self._handshake = Handshake(
            "IK" if preface.keyed else "NK",
            initiator=True,
            prologue=bytes(preface),
            static=static,
            remote_static=server_key,
        )
        self.message = frame(self._handshake.write())

    def complete(self, answer: bytes, limit: int) -> Envelope:
        """The channel. Raises NoiseBroken: the other end does not hold the server's key, or the preface was changed."""
        _check_empty(self._handshake.read(answer))
        return Envelope(*self._handshake.split(), self._frame, limit)
