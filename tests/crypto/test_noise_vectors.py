"""Noise against public test vectors and another implementation, through the code that seals and opens for clients."""

from __future__ import annotations

import json
from collections import Counter
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
from noise.connection import Keypair, NoiseConnection

from crypto import noise
from crypto.noise import Aead, Handshake, NoiseBroken, Opener, PrivateKey, Sealer
from tests.crypto.noise_sides import CLIENT, PATTERNS, PROLOGUE, SERVER, Pattern, Replayed, initiator, responder

VECTORS = Path(__file__).parent / "vectors"


def vectors(name: str) -> list[dict[str, Any]]:
    """The tests in a file of vectors; it also names their source and licence."""
    tests: list[dict[str, Any]] = json.loads((VECTORS / f"{name}.json").read_text("utf-8"))["tests"]
    return tests


def named(vector: dict[str, Any]) -> str:
    """How pytest calls a vector."""
    return str(vector["protocol_name"])


def side(vector: dict[str, Any], which: str) -> Handshake:
    """The initiator (`init`) or the responder (`resp`) of a vector."""
    known = {key: bytes.fromhex(vector[name]) for key in KEYS if (name := f"{which}_{key}") in vector}
    handshake = Replayed(
        "NK" if "_NK_" in vector["protocol_name"] else "IK",
        initiator=which == "init",
        prologue=known["prologue"],
        static=PrivateKey(known["static"]) if "static" in known else None,
        remote_static=known.get("remote_static"),
    )
    handshake.ephemeral = PrivateKey(known["ephemeral"])
    return handshake


KEYS = ("prologue", "static", "ephemeral", "remote_static")


@pytest.mark.parametrize("vector", vectors("noise_cacophony") + vectors("noise_snow"), ids=named)
def test_noise_vectors(vector: dict[str, Any]) -> None:
    """Handshakes and transport messages are byte for byte those of cacophony and snow."""
    client, server = side(vector, "init"), side(vector, "resp")
    (first, second, *rest) = [
        (bytes.fromhex(message["payload"]), bytes.fromhex(message["ciphertext"])) for message in vector["messages"]
    ]
    for writer, reader, (payload, expected) in ((client, server, first), (server, client, second)):
        assert writer.write(payload) == expected
        assert reader.read(expected) == payload
    (to_server, from_server), (to_client, from_client) = client.split(), server.split()
    assert len(rest) >= 2
    for (sealer, opener), (payload, expected) in zip(
        cycle([(to_server, from_client), (to_client, from_server)]), rest, strict=False
    ):
        assert sealer.seal(payload) == expected
        assert opener.open(expected) == payload


@pytest.mark.parametrize(("name", "valid", "invalid"), [("rfc8439", 2, 0), ("wycheproof_chacha20_poly1305", 256, 60)])
def test_aead_vectors(name: str, valid: int, invalid: int) -> None:
    """What ChaCha20-Poly1305 has to seal it seals alike, and what it must not open it refuses."""
    results: Counter[str] = Counter()
    for vector in vectors(name):
        key, nonce, ad, text, sealed, tag = (bytes.fromhex(vector[k]) for k in ("key", "iv", "aad", "msg", "ct", "tag"))
        aead = Aead(key)
        results[vector["result"]] += 1
        if vector["result"] == "valid":
            assert aead.seal(nonce, text, ad) == sealed + tag, vector
            assert aead.open(nonce, sealed + tag, ad) == text, vector
        else:
            with pytest.raises(NoiseBroken):
                aead.open(nonce, sealed + tag, ad)
    assert results == Counter(valid=valid, invalid=invalid)


def test_x25519_vectors() -> None:
    """X25519 shares the secrets it should; a public key that would share zeros with everyone is refused."""
    zeros = 0
    for vector in vectors("wycheproof_x25519"):
        key, public = PrivateKey(bytes.fromhex(vector["private"])), bytes.fromhex(vector["public"])
        if vector["zero"]:
            zeros += 1
            with pytest.raises(NoiseBroken):
                key.exchange(public)
        else:
            assert key.exchange(public) == bytes.fromhex(vector["shared"]), vector["tcId"]
    assert zeros > 20


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_handshake_refuses_keys_that_share_zeros(pattern: Pattern) -> None:
    """Neither side goes on with a key whose shared secret anybody could compute."""
    for public in {bytes.fromhex(vector["public"]) for vector in vectors("wycheproof_x25519") if vector["zero"]}:
        with pytest.raises(NoiseBroken):
            responder(pattern).read(public + bytes(64))
        client = Handshake(
            pattern,
            initiator=True,
            prologue=b"",
            static=CLIENT if pattern == "IK" else None,
            remote_static=public,
        )
        with pytest.raises(NoiseBroken):
            client.write()
        started = initiator(pattern)
        started.write()
        with pytest.raises(NoiseBroken):
            started.read(public + bytes(16))


class Other:
    """A side of PyPI's noiseprotocol, which has nothing in common with ours but the library of ciphers."""

    def __init__(self, pattern: Pattern, *, first: bool) -> None:
        self.side = NoiseConnection.from_name(f"Noise_{pattern}_25519_ChaChaPoly_SHA256".encode())
        self.side.set_prologue(PROLOGUE)
        if first:
            self.side.set_as_initiator()
            self.side.set_keypair_from_public_bytes(Keypair.REMOTE_STATIC, SERVER.public)
        else:
            self.side.set_as_responder()
        if not first or pattern == "IK":
            self.side.set_keypair_from_private_bytes(Keypair.STATIC, (CLIENT if first else SERVER).secret)
        self.side.start_handshake()


REKEYS = 64


def talk(other: Other, sealer: Sealer, opener: Opener) -> None:
    """Two hundred messages in each direction; the other side is told to rekey where ours does so by itself."""
    for number in range(1, 201):
        text = b"%d" % number * number
        assert other.side.decrypt(sealer.seal(text)) == text
        assert opener.open(other.side.encrypt(text)) == text
        if number % REKEYS == 0:
            other.side.rekey_inbound_cipher()
            other.side.rekey_outbound_cipher()


@pytest.mark.parametrize("pattern", PATTERNS)
def test_another_implementation_as_server(pattern: Pattern, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our client and a server of noiseprotocol understand each other, also after rekeys."""
    monkeypatch.setattr(noise, "REKEY_AFTER", REKEYS)
    ours, other = initiator(pattern), Other(pattern, first=False)
    assert other.side.read_message(ours.write(b"hello")) == b"hello"
    assert ours.read(bytes(other.side.write_message(b"welcome"))) == b"welcome"
    talk(other, *ours.split())


@pytest.mark.parametrize("pattern", PATTERNS)
def test_another_implementation_as_client(pattern: Pattern, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client of noiseprotocol and our server understand each other, also after rekeys."""
    monkeypatch.setattr(noise, "REKEY_AFTER", REKEYS)
    ours, other = responder(pattern), Other(pattern, first=True)
    assert ours.read(bytes(other.side.write_message(b"hello"))) == b"hello"
    assert other.side.read_message(ours.write(b"welcome")) == b"welcome"
    assert ours.remote_static == (CLIENT.public if pattern == "IK" else None)
    talk(other, *ours.split())
