"""Noise between two sides of ours, and what somebody between them can do: nothing but end the connection."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crypto import noise
from crypto.noise import (
    KEY_BYTES,
    MAX_MESSAGE,
    MAX_PLAINTEXT,
    REKEY_AFTER,
    TAG_BYTES,
    Aead,
    Handshake,
    NoiseBroken,
    Opener,
    PrivateKey,
    Sealer,
)
from tests.crypto.noise_sides import (
    CLIENT,
    PATTERNS,
    PROLOGUE,
    SERVER,
    Pattern,
    Replayed,
    connect,
    initiator,
    responder,
)


def flips(message: bytes) -> Iterator[bytes]:
    """The message with one bit flipped, for each of its bits."""
    for bit in range(8 * len(message)):
        flipped = bytearray(message)
        flipped[bit // 8] ^= 1 << bit % 8
        yield bytes(flipped)


def refusals(attempt: Callable[[bytes], object], messages: Iterable[bytes]) -> set[str]:
    """What is said of messages, all of which have to be refused."""
    said = set()
    for message in messages:
        with pytest.raises(NoiseBroken) as broken:
            attempt(message)
        assert broken.value.__cause__ is None
        assert broken.value.__suppress_context__ or broken.value.__context__ is None
        said.add(str(broken.value))
    return said


REFUSAL = {str(NoiseBroken())}


@pytest.mark.parametrize("pattern", PATTERNS)
def test_both_sides_understand_each_other(pattern: Pattern) -> None:
    """After two messages, which may carry payloads, what one side seals the other opens, in both directions."""
    client, server = initiator(pattern), responder(pattern)
    assert server.read(client.write(b"hello")) == b"hello"
    assert client.read(server.write(b"welcome")) == b"welcome"
    assert client.finished
    assert server.finished
    (to_server, from_server), (to_client, from_client) = client.split(), server.split()
    for text in (b"", b"one", bytes(MAX_PLAINTEXT)):
        message = to_server.seal(text)
        assert len(message) == len(text) + TAG_BYTES
        assert from_client.open(message) == text
        assert from_server.open(to_client.seal(text)) == text


@pytest.mark.parametrize("pattern", PATTERNS)
def test_who_is_known(pattern: Pattern) -> None:
    """The responder of IK learns who the initiator is from the first message; that of NK never does."""
    client, server = initiator(pattern), responder(pattern)
    assert server.remote_static is None
    assert client.remote_static == SERVER.public
    server.read(client.write())
    assert server.remote_static == (CLIENT.public if pattern == "IK" else None)


def test_nobody_is_known_by_a_message_that_fails() -> None:
    """A static key that opens in a first message whose payload does not is not the key of anyone."""
    client, server = initiator("IK"), responder("IK")
    message = bytearray(client.write(b"payload"))
    message[-1] ^= 1
    assert refusals(server.read, [bytes(message)]) == REFUSAL
    assert server.remote_static is None


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
    too_long = sealer._aead.seal(noise._nonce(sealer._sent), bytes(MAX_PLAINTEXT + 1), b"")
    assert refusals(opener.open, [too_long, sealer.seal(b"next")]) == REFUSAL


def test_sizes_in_a_handshake(monkeypatch: pytest.MonkeyPatch) -> None:
    """A handshake message may be as long as any other, and not longer."""
    room = MAX_MESSAGE - KEY_BYTES - TAG_BYTES
    assert len(initiator("NK").write(bytes(room))) == MAX_MESSAGE
    with pytest.raises(ValueError, match="at most 65535"):
        initiator("NK").write(bytes(room + 1))
    with monkeypatch.context() as patch:
        patch.setattr(noise, "MAX_MESSAGE", MAX_MESSAGE + 1)
        too_long = initiator("NK").write(bytes(room + 1))
    assert refusals(responder("NK").read, [too_long]) == REFUSAL


@given(sizes=st.lists(st.integers(0, 3 * MAX_PLAINTEXT), max_size=5))
def test_a_stream_comes_out_as_it_went_in(sizes: list[int]) -> None:
    """However a stream is handed over, the other side gets its bytes in order."""
    (sealer, _), (_, opener) = connect()
    pieces = [bytes([number]) * size for number, size in enumerate(sizes)]
    messages = [message for piece in pieces for message in sealer.seal_all(piece)]
    assert b"".join(map(opener.open, messages)) == b"".join(pieces)


def test_turns() -> None:
    """A side that reads or writes out of turn, or splits too early or twice, is a mistake that shows at once."""
    client, server = initiator("NK"), responder("NK")
    for wrong in (client.split, lambda: client.read(b""), server.write):
        with pytest.raises(RuntimeError):
            wrong()
    server.read(client.write())
    with pytest.raises(RuntimeError):
        client.write()
    client.read(server.write())
    client.split()
    for wrong in (client.split, client.write, lambda: client.read(b"")):
        with pytest.raises(RuntimeError):
            wrong()


@pytest.mark.parametrize(
    ("pattern", "first", "static", "remote"),
    [
        ("NK", True, None, None),
        ("NK", False, None, None),
        ("NK", True, CLIENT, SERVER.public),
        ("NK", False, SERVER, CLIENT.public),
        ("IK", True, None, SERVER.public),
    ],
)
def test_keys_that_a_side_has(pattern: Pattern, first: bool, static: PrivateKey | None, remote: bytes | None) -> None:
    """A handshake without the keys that its pattern needs is a mistake that shows at once."""
    with pytest.raises(ValueError, match="key"):
        Handshake(pattern, initiator=first, prologue=b"", static=static, remote_static=remote)


def test_a_key_does_not_print_itself() -> None:
    """A private key in a traceback shows its public half only."""
    assert repr(SERVER) == f"PrivateKey(public={SERVER.public!r})"
    assert PrivateKey.new() != PrivateKey.new()


@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_bit_of_the_first_message_counts(pattern: Pattern) -> None:
    """The responder refuses a first message with any one bit flipped, and says the same each time."""
    message = initiator(pattern).write(b"hello")
    assert refusals(lambda flipped: responder(pattern).read(flipped), flips(message)) == REFUSAL


@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_bit_of_the_second_message_counts(pattern: Pattern) -> None:
    """The initiator refuses an answer with any one bit flipped, and says the same each time."""
    server = responder(pattern)
    server.read(initiator(pattern, kind=Replayed).write())
    answer = server.write(b"welcome")

    def client() -> Handshake:
        started = initiator(pattern, kind=Replayed)
        started.write()
        return started

    assert client().read(answer) == b"welcome"
    assert refusals(lambda flipped: client().read(flipped), flips(answer)) == REFUSAL


@pytest.mark.parametrize("size", [0, 1, 17, 256])
def test_every_bit_of_a_transport_message_counts(size: int) -> None:
    """A transport message with any one bit flipped does not open, and says the same each time."""
    aead = Aead(bytes(KEY_BYTES))
    message = Sealer(aead).seal(bytes(size))
    assert Opener(aead).open(message) == bytes(size)
    assert refusals(lambda flipped: Opener(aead).open(flipped), flips(message)) == REFUSAL


@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_cut_counts(pattern: Pattern) -> None:
    """A message that is cut anywhere, or has a byte too many, is refused."""
    first = initiator(pattern).write()
    cuts = [first[:size] for size in range(len(first))] + [first + b"\0"]
    assert refusals(lambda cut: responder(pattern).read(cut), cuts) == REFUSAL
    aead = Aead(bytes(KEY_BYTES))
    message = Sealer(aead).seal(b"text")
    cuts = [message[:size] for size in range(len(message))] + [message + b"\0"]
    assert refusals(lambda cut: Opener(aead).open(cut), cuts) == REFUSAL


def test_replay_reflection_and_reordering_are_refused() -> None:
    """A message opens once, in its place, and only for the side that it was sealed for."""
    (sealer, _), (_, opener) = connect()
    message = sealer.seal(b"text")
    opener.open(message)
    assert refusals(opener.open, [message]) == REFUSAL  # replayed

    (sealer, own_opener), _ = connect()
    assert refusals(own_opener.open, [sealer.seal(b"text")]) == REFUSAL

    (sealer, _), (_, opener) = connect()
    _, late = sealer.seal(b"first"), sealer.seal(b"second")
    assert refusals(opener.open, [late]) == REFUSAL

    (sealer, _), (_, opener) = connect()
    _, (_, other) = connect()
    assert refusals(other.open, [sealer.seal(b"text")]) == REFUSAL  # another connection to the same server


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_recorded_connection_says_nothing_again(pattern: Pattern) -> None:
    """A first message that is sent again is taken, as Noise has it; what followed it does not open a second time."""
    client, server, again = initiator(pattern), responder(pattern), responder(pattern)
    first = client.write()
    server.read(first)
    client.read(server.write())
    recorded = client.split()[0].seal(b"text")
    assert server.split()[1].open(recorded) == b"text"
    again.read(first)
    again.write()
    assert refusals(again.split()[1].open, [recorded]) == REFUSAL


def test_nothing_opens_after_a_message_that_did_not() -> None:
    """Once a message failed, neither the right one nor anything after it opens."""
    (sealer, _), (_, opener) = connect()
    message = sealer.seal(b"text")
    assert refusals(opener.open, [bytes(20), message, sealer.seal(b"next")]) == REFUSAL


def test_a_handshake_is_over_after_a_message_that_failed() -> None:
    """Once a handshake message failed, the right one does not help, and there is nothing to split."""
    server, message = responder("NK"), initiator("NK").write()
    assert refusals(server.read, [bytes(48), message]) == REFUSAL
    assert refusals(server.write, [b""]) == REFUSAL
    assert not server.finished
    with pytest.raises(RuntimeError):
        server.split()


@pytest.mark.parametrize("prologue", [*flips(PROLOGUE), PROLOGUE[:-1], PROLOGUE + b"\0", b""])
def test_both_sides_saw_the_same_prologue(prologue: bytes) -> None:
    """A preface that was changed on the way, such as a flag of it, is found out by the first message."""
    assert refusals(responder("NK").read, [initiator("NK", prologue).write()]) == REFUSAL


def test_patterns_do_not_mix() -> None:
    """A first message of one pattern is refused by a responder of the other."""
    one, other = initiator("NK").write(bytes(48)), initiator("IK").write()
    assert len(one) == len(other)
    assert refusals(responder("IK").read, [one]) == refusals(responder("NK").read, [other]) == REFUSAL


def test_another_server_is_refused() -> None:
    """A client that knows one server's key cannot be answered by a server that has another."""
    client = initiator("NK")
    impostor = Handshake("NK", initiator=False, prologue=PROLOGUE, static=CLIENT)
    assert refusals(impostor.read, [client.write()]) == REFUSAL
    assert refusals(client.read, [PrivateKey.new().public + bytes(TAG_BYTES)]) == REFUSAL


@pytest.mark.parametrize("key", [b"", bytes(KEY_BYTES)])
def test_a_key_that_is_none_is_refused(key: bytes) -> None:
    """A server's key that is no X25519 key, or one that everybody shares a secret with, fails the handshake."""
    client = Handshake("NK", initiator=True, prologue=PROLOGUE, remote_static=key)
    assert refusals(lambda _: client.write(), [b""]) == REFUSAL


def test_no_key_and_nonce_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """In 100,000 frames, over a rekey and many connections, no key meets the same nonce again."""
    used: Counter[tuple[bytes, bytes]] = Counter()

    class Watched(Aead):
        __slots__ = ("key",)

        def __init__(self, key: bytes) -> None:
            super().__init__(key)
            self.key = key

        def seal(self, nonce: bytes, plaintext: bytes, ad: bytes) -> bytes:
            used[self.key, nonce] += 1
            return super().seal(nonce, plaintext, ad)

    monkeypatch.setattr(noise, "Aead", Watched)
    (sealer, _), _ = connect()
    for _ in range(REKEY_AFTER + 4_464):
        sealer.seal(b"")
    for pattern in PATTERNS * 50:
        (to_server, _), (to_client, _) = connect(pattern)
        for _ in range(150):
            to_server.seal(b"")
            to_client.seal(b"")
    assert used.total() > 100_000
    assert set(used.values()) == {1}
    messages = Counter(key for key, nonce in used if nonce != noise._nonce(2**64 - 1))
    assert [count for _, count in messages.most_common(2)] == [REKEY_AFTER, 4_464]


def test_both_sides_take_the_next_key_together() -> None:
    """Messages open on both sides of a rekey, and the numbers of messages go on."""
    aead = Aead(bytes(KEY_BYTES))
    sealer, opener = Sealer(aead), Opener(aead)
    for number in range(REKEY_AFTER):
        text = b"%d" % number
        assert opener.open(sealer.seal(text)) == text
    message = sealer.seal(b"next")
    assert opener.open(message) == b"next"
    assert aead.next().open(noise._nonce(REKEY_AFTER), message, b"") == b"next"


def test_numbers_end() -> None:
    """The last nonce is kept for rekeying: a message that would get it is refused by both sides."""
    aead = Aead(bytes(KEY_BYTES))
    sealer, opener = Sealer(aead), Opener(aead)
    sealer._sent = opener._opened = 2**64 - 2
    assert opener.open(sealer.seal(b"the last")) == b"the last"
    message = aead.seal(noise._nonce(2**64 - 1), b"", b"")
    assert refusals(sealer.seal, [b""]) == refusals(opener.open, [message]) == REFUSAL
