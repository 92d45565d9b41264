"""Noise: handshakes and transport messages, against public vectors, another implementation and an attacker."""

from __future__ import annotations

from typing import Literal

import pytest

from crypto.noise import MAX_MESSAGE, MAX_PLAINTEXT, TAG_BYTES, Handshake, NoiseBroken, Opener, PrivateKey, Sealer

Pattern = Literal["NK", "IK"]
Half = tuple[Sealer, Opener]

PATTERNS: tuple[Pattern, ...] = ("NK", "IK")
SERVER = PrivateKey(b"s" * 32)
CLIENT = PrivateKey(b"c" * 32)
PROLOGUE = b"PLY1\x02"


def handshakes(pattern: Pattern, prologue: bytes = PROLOGUE) -> tuple[Handshake, Handshake]:
    """An initiator and a responder who would agree."""
    static = CLIENT if pattern == "IK" else None
    initiator = Handshake(pattern, initiator=True, prologue=prologue, static=static, remote_static=SERVER.public)
    return initiator, Handshake(pattern, initiator=False, prologue=prologue, static=SERVER)


def connect(pattern: Pattern = "NK") -> tuple[Half, Half]:
    """Both halves of the initiator, and of the responder, after their handshake."""
    initiator, responder = handshakes(pattern)
    responder.read(initiator.write())
    initiator.read(responder.write())
    return initiator.split(), responder.split()


@pytest.mark.parametrize("pattern", PATTERNS)
def test_both_sides_understand_each_other(pattern: Pattern) -> None:
    """After two messages, which may carry payloads, what one side seals the other opens, in both directions."""
    initiator, responder = handshakes(pattern)
    assert responder.read(initiator.write(b"hello")) == b"hello"
    assert initiator.read(responder.write(b"welcome")) == b"welcome"
    assert initiator.finished
    assert responder.finished
    (to_responder, from_responder), (to_initiator, from_initiator) = initiator.split(), responder.split()
    for text in (b"", b"one", bytes(MAX_PLAINTEXT)):
        message = to_responder.seal(text)
        assert len(message) == len(text) + TAG_BYTES
        assert from_initiator.open(message) == text
        assert from_responder.open(to_initiator.seal(text)) == text


def test_who_is_known() -> None:
    """The responder of IK learns who the initiator is from the first message; that of NK never does."""
    for pattern, known in (("IK", CLIENT.public), ("NK", None)):
        initiator, responder = handshakes("IK" if pattern == "IK" else "NK")
        assert responder.remote_static is None
        assert initiator.remote_static == SERVER.public
        responder.read(initiator.write())
        assert responder.remote_static == known


def test_sizes() -> None:
    """A stream is cut into as few messages as possible, and no message is larger than Noise allows."""
    (sealer, _), (_, opener) = connect()
    messages = sealer.seal_all(bytes(2 * MAX_PLAINTEXT + 1))
    assert [len(message) for message in messages] == [MAX_MESSAGE, MAX_MESSAGE, 1 + TAG_BYTES]
    assert b"".join(map(opener.open, messages)) == bytes(2 * MAX_PLAINTEXT + 1)
    assert sealer.seal_all(b"") == []
    with pytest.raises(ValueError, match="at most 65519"):
        sealer.seal(bytes(MAX_PLAINTEXT + 1))
    assert opener.open(sealer.seal(b"the number was not used up")) == b"the number was not used up"
    with pytest.raises(NoiseBroken):
        opener.open(bytes(MAX_MESSAGE + 1))


def test_turns() -> None:
    """A side that reads or writes out of turn, or splits too early or twice, is a mistake that shows at once."""
    initiator, responder = handshakes("NK")
    for wrong in (initiator.split, lambda: initiator.read(b""), responder.write):
        with pytest.raises(RuntimeError):
            wrong()
    responder.read(initiator.write())
    with pytest.raises(RuntimeError):
        initiator.write()
    initiator.read(responder.write())
    initiator.split()
    for wrong in (initiator.split, initiator.write, lambda: initiator.read(b"")):
        with pytest.raises(RuntimeError):
            wrong()


def test_keys_that_a_side_has() -> None:
    """A handshake without the keys that its pattern needs is a mistake that shows at once."""
    for pattern, initiator, static, remote in (
        ("NK", True, None, None),
        ("NK", False, None, None),
        ("NK", True, CLIENT, SERVER.public),
        ("NK", False, SERVER, CLIENT.public),
        ("IK", True, None, SERVER.public),
    ):
        with pytest.raises(ValueError, match="key"):
            Handshake(
                "IK" if pattern == "IK" else "NK",
                initiator=initiator,
                prologue=b"",
                static=static,
                remote_static=remote,
            )


def test_a_key_does_not_print_itself() -> None:
    """A private key in a traceback shows its public half only."""
    assert repr(SERVER) == f"PrivateKey(public={SERVER.public!r})"
    assert PrivateKey.new() != PrivateKey.new()
