"""Noise on the wire: the NK and IK handshakes, and what both sides say afterwards. Sans-I/O.

The Noise Protocol Framework, revision 34 (noiseprotocol.org), with 25519, ChaChaPoly
and SHA256. In NK the client knows the server's static key and stays anonymous; in IK
it also shows a static key of its own. Sections named below are the framework's.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from dataclasses import dataclass, field
from struct import Struct
from typing import Literal

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

KEY_BYTES = 32
TAG_BYTES = 16
MAX_MESSAGE = 65_535
"""Bytes of any Noise message (section 3)."""
MAX_PLAINTEXT = MAX_MESSAGE - TAG_BYTES
"""Bytes that one transport message carries."""
REKEY_AFTER = 1 << 16
"""Transport messages under one key; then both sides take the next one (section 11.3)."""

PATTERNS: dict[str, tuple[tuple[str, ...], ...]] = {
    "NK": (("e", "es"), ("e", "ee")),
    "IK": (("e", "es", "s", "ss"), ("e", "ee", "se")),
}
"""What each handshake message holds in front of its payload (sections 7.4 and 7.5)."""

_LAST_NONCE = 2**64 - 1
"""Kept for REKEY; no message may have it (section 5.1)."""
_nonce = Struct("<4xQ").pack
"""ChaChaPoly's nonce: four zero bytes, and the number of the message, little-endian (section 12.3)."""


class NoiseBroken(Exception):
    """A message does not open, or a handshake fails. It says the same whatever the reason: the peer may hear it."""

    def __init__(self) -> None:
        super().__init__("the Noise message does not open")


@dataclass(frozen=True, slots=True)
class PrivateKey:
    """An X25519 key pair (RFC 7748), made from its 32 secret bytes. Raises ValueError for another number of bytes."""

    secret: bytes = field(repr=False)
    public: bytes = field(init=False, compare=False)
    _key: X25519PrivateKey = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_key", X25519PrivateKey.from_private_bytes(self.secret))
        object.__setattr__(self, "public", self._key.public_key().public_bytes_raw())

    @classmethod
    def new(cls) -> PrivateKey:
        """A fresh key."""
        return cls(os.urandom(KEY_BYTES))

    def exchange(self, public: bytes) -> bytes:
        """The secret shared with the holder of a public key. Raises NoiseBroken when it is zero, or the key is none."""
        try:
            return self._key.exchange(X25519PublicKey.from_public_bytes(public))
        except ValueError:
            raise NoiseBroken from None


class Aead:
    """ChaCha20-Poly1305 (RFC 8439) under one key. Everything that Noise seals or opens goes through here."""

    __slots__ = ("_cipher",)

    def __init__(self, key: bytes) -> None:
        self._cipher = ChaCha20Poly1305(key)

    def seal(self, nonce: bytes, plaintext: bytes, ad: bytes) -> bytes:
        """The sealed bytes, TAG_BYTES longer. The nonce must not have been used with this key before."""
        return self._cipher.encrypt(nonce, plaintext, ad or None)  # None is quicker than no bytes

    def open(self, nonce: bytes, sealed: bytes, ad: bytes) -> bytes:
        """The plaintext. Raises NoiseBroken."""
        try:
            return self._cipher.decrypt(nonce, sealed, ad or None)
        except InvalidTag:  # also for what is shorter than a tag
            raise NoiseBroken from None

    def next(self) -> Aead:
        """The key after this one: REKEY (section 4.2)."""
        return Aead(self.seal(_nonce(_LAST_NONCE), bytes(KEY_BYTES), b"")[:KEY_BYTES])


class Sealer:
    """The sending half of a connection: seals transport messages, numbered from zero."""

    __slots__ = ("_aead", "_sent")

    def __init__(self, aead: Aead) -> None:
        self._aead = aead
        self._sent = 0

    def seal(self, plaintext: bytes) -> bytes:
        """One transport message. Raises ValueError above MAX_PLAINTEXT, NoiseBroken when all numbers are used."""
        number = self._sent
        if len(plaintext) > MAX_PLAINTEXT:
            raise ValueError(f"a transport message carries at most {MAX_PLAINTEXT} bytes")
        if number == _LAST_NONCE:
            raise NoiseBroken
        message = self._aead.seal(_nonce(number), plaintext, b"")
        self._sent = number = number + 1
        if not number % REKEY_AFTER:
            self._aead = self._aead.next()
        return message

    def seal_all(self, data: bytes) -> list[bytes]:
        """Transport messages that carry a stretch of a stream, as few as can be; none for no bytes."""
        return [self.seal(data[start : start + MAX_PLAINTEXT]) for start in range(0, len(data), MAX_PLAINTEXT)]


class Opener:
    """The receiving half of a connection: opens transport messages in the order in which they were sealed."""

    __slots__ = ("_aead", "_opened")

    def __init__(self, aead: Aead) -> None:
        self._aead: Aead | None = aead
        self._opened = 0

    def open(self, message: bytes) -> bytes:
        """What the next message carries. Raises NoiseBroken; then nothing opens any more."""
        aead, number = self._aead, self._opened
        if aead is None or number == _LAST_NONCE or len(message) > MAX_MESSAGE:
            self._aead = None
            raise NoiseBroken
        try:
            plaintext = aead.open(_nonce(number), message, b"")
        except NoiseBroken:
            self._aead = None
            raise
        self._opened = number = number + 1
        if not number % REKEY_AFTER:
            self._aead = aead.next()
        return plaintext


class Handshake:
    """One side of a handshake. The initiator knows the responder's static key beforehand.

    `prologue` is what both sides already saw in clear: if they saw different bytes,
    the handshake fails. `static` is this side's key, which the initiator of NK has not.
    """

    def __init__(
        self,
        pattern: Literal["NK", "IK"],
        *,
        initiator: bool,
        prologue: bytes,
        static: PrivateKey | None = None,
        remote_static: bytes | None = None,
    ) -> None:
        if initiator != (remote_static is not None):
            raise ValueError("the initiator, and only the initiator, knows the other side's key beforehand")
        if (static is None) != (initiator and pattern == "NK"):
            raise ValueError("each side has a static key, but for the initiator of NK")
        self._initiator = initiator
        self._mine = {} if static is None else {"s": static}
        self._theirs = {} if remote_static is None else {"s": remote_static}
        self._to_come = list(PATTERNS[pattern])
        self._to_write = initiator
        self._broken = False
        self._state: _Symmetric | None = _Symmetric(f"Noise_{pattern}_25519_ChaChaPoly_SHA256".encode())
        self._state.mix_hash(prologue)
        self._state.mix_hash(self._mine["s"].public if remote_static is None else remote_static)

    @property
    def finished(self) -> bool:
        """Whether both messages went well, so that `split` may be called."""
        return not self._to_come

    @property
    def remote_static(self) -> bytes | None:
        """The other side's static key; the responder of IK knows it once it has read the first message."""
        return None if self._broken else self._theirs.get("s")

    def write(self, payload: bytes = b"") -> bytes:
        """This side's message. Raises NoiseBroken for a remote key that is none, ValueError above MAX_MESSAGE bytes."""
        state = self._begin(writing=True)
        message = b"".join(self._write(token, state) for token in self._to_come[0]) + state.seal(payload)
        if len(message) > MAX_MESSAGE:
            raise ValueError(f"a handshake message has at most {MAX_MESSAGE} bytes")
        self._end()
        return message

    def read(self, message: bytes) -> bytes:
        """The payload of the other side's message. Raises NoiseBroken; then the handshake is over.

        The first message may be a copy of an old one, payload and static key included
        (section 7.7): that its sender is there is known once a transport message opens.
        """
        state = self._begin(writing=False)
        if len(message) > MAX_MESSAGE:
            raise NoiseBroken
        for token in self._to_come[0]:
            message = self._read(token, message, state)
        payload = state.open(message)
        self._end()
        return payload

    def split(self) -> tuple[Sealer, Opener]:
        """This side's sending and receiving halves, once: a second pair would use the same nonces again."""
        if not self.finished or self._state is None:
            raise RuntimeError("a handshake is split once, after its last message")
        first, second = self._state.split()
        self._state = None
        return (Sealer(first), Opener(second)) if self._initiator else (Sealer(second), Opener(first))

    def _begin(self, writing: bool) -> _Symmetric:
        if self._broken:
            raise NoiseBroken
        if self.finished or writing != self._to_write or self._state is None:
            raise RuntimeError("it is not this side's turn to " + ("write" if writing else "read"))
        self._broken = True  # until the whole message went well
        return self._state

    def _end(self) -> None:
        self._broken = False
        self._to_write = not self._to_write
        del self._to_come[0]

    def _write(self, token: str, state: _Symmetric) -> bytes:
        if token == "s":
            return state.seal(self._mine["s"].public)
        if token != "e":
            self._mix_shared(token, state)
            return b""
        self._mine["e"] = self._ephemeral()
        state.mix_hash(self._mine["e"].public)
        return self._mine["e"].public

    def _read(self, token: str, message: bytes, state: _Symmetric) -> bytes:
        """Takes what a token stands for off the front of a message."""
        if token not in ("e", "s"):
            self._mix_shared(token, state)
            return message
        size = KEY_BYTES if token == "e" else KEY_BYTES + TAG_BYTES
        key = message[:size]
        if token == "e":
            state.mix_hash(key)
        else:
            key = state.open(key)
        self._theirs[token] = key
        return message[size:]

    def _mix_shared(self, token: str, state: _Symmetric) -> None:
        """A token such as `es` names the initiator's key first, and then the responder's."""
        pair = token if self._initiator else token[::-1]
        state.mix_key(self._mine[pair[0]].exchange(self._theirs[pair[1]]))

    def _ephemeral(self) -> PrivateKey:
        return PrivateKey.new()


class _Symmetric:
    """Keys and hash of a handshake under way (section 5.2). Each key seals or opens once, so its nonce is zero."""

    def __init__(self, name: bytes) -> None:
        # A name as long as a hash stands for itself; those of both patterns are.
        self._chain = self._hash = name
        self._aead: Aead | None = None

    def mix_hash(self, data: bytes) -> None:
        self._hash = hashlib.sha256(self._hash + data).digest()

    def mix_key(self, secret: bytes) -> None:
        self._chain, key = _hkdf(self._chain, secret)
        self._aead = Aead(key)

    def seal(self, plaintext: bytes) -> bytes:
        sealed = self._take().seal(_nonce(0), plaintext, self._hash)
        self.mix_hash(sealed)
        return sealed

    def open(self, sealed: bytes) -> bytes:
        plaintext = self._take().open(_nonce(0), sealed, self._hash)
        self.mix_hash(sealed)
        return plaintext

    def split(self) -> tuple[Aead, Aead]:
        """What seals from initiator to responder, and from responder to initiator."""
        first, second = _hkdf(self._chain, b"")
        return Aead(first), Aead(second)

    def _take(self) -> Aead:
        aead, self._aead = self._aead, None
        assert aead is not None, "the pattern exchanges keys before it seals, and anew before it seals again"
        return aead


def _hkdf(chain: bytes, secret: bytes) -> tuple[bytes, bytes]:
    """Two keys (section 4.3; RFC 5869 with no info)."""
    temporary = hmac.digest(chain, secret, "sha256")
    first = hmac.digest(temporary, b"\x01", "sha256")
    return first, hmac.digest(temporary, first + b"\x02", "sha256")
