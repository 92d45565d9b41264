"""Two sides of a Noise connection, for tests."""

from __future__ import annotations

from typing import Literal

from crypto.noise import Handshake, Opener, PrivateKey, Sealer

Pattern = Literal["NK", "IK"]
Half = tuple[Sealer, Opener]

PATTERNS: tuple[Pattern, ...] = ("NK", "IK")
SERVER = PrivateKey(b"s" * 32)
CLIENT = PrivateKey(b"c" * 32)
PROLOGUE = b"PLY1\x02"


class Replayed(Handshake):
    """A handshake whose ephemeral key is known beforehand, so that its message is."""

    ephemeral = PrivateKey(b"e" * 32)

    def _ephemeral(self) -> PrivateKey:
        return self.ephemeral


def initiator(pattern: Pattern, prologue: bytes = PROLOGUE, kind: type[Handshake] = Handshake) -> Handshake:
    """A client that knows the server's key."""
    static = CLIENT if pattern == "IK" else None
    return kind(pattern, initiator=True, prologue=prologue, static=static, remote_static=SERVER.public)


def responder(pattern: Pattern, prologue: bytes = PROLOGUE, kind: type[Handshake] = Handshake) -> Handshake:
    """A server that would agree."""
    return kind(pattern, initiator=False, prologue=prologue, static=SERVER)


def connect(pattern: Pattern = "NK") -> tuple[Half, Half]:
    """Both halves of the client, and of the server, after their handshake."""
    client, server = initiator(pattern), responder(pattern)
    server.read(client.write())
    client.read(server.write())
    return client.split(), server.split()
