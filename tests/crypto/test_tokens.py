"""Tokens: what is taken as ours, and everything that is not."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from crypto.tokens import AccessTokens, Claims, RefreshTokens, TokenExpired, TokenInvalid, thumbprint

USER, SIGN_IN = uuid4(), uuid4()


def make_key(bits: int = 2048) -> rsa.RSAPrivateKey:
    """A fresh RSA key."""
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


def pem_of(key: rsa.RSAPrivateKey) -> str:
    """A private key as text."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


KEY, OTHER_KEY = make_key(), make_key()
PEM, OTHER_PEM = pem_of(KEY), pem_of(OTHER_KEY)
PUBLIC_PEM = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
KID = thumbprint(KEY.public_key())
TOKENS = AccessTokens([PEM], "parley", 1800)


def claims(**changes: Any) -> dict[str, Any]:
    """Good claims with some of them changed; None leaves one out."""
    now = int(time.time())
    said = {"iss": "parley", "sub": str(USER), "sid": str(SIGN_IN), "iat": now, "exp": now + 60} | changes
    return {name: value for name, value in said.items() if value is not None}


def signed(said: dict[str, Any], key: rsa.RSAPrivateKey = KEY, **header: Any) -> str:
    """A token, signed by us if nothing else is said."""
    return jwt.encode(said, key, algorithm="RS256", headers={"kid": KID} | header)


def part(value: Any) -> str:
    """One part of a token."""
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(text).rstrip(b"=").decode()


def unsigned(algorithm: str) -> str:
    """A token without a signature."""
    return f"{part({'alg': algorithm, 'typ': 'JWT', 'kid': KID})}.{part(claims())}."


def signed_with_the_public_key(secret: bytes) -> str:
    """The classic: HS256 with the RSA public key as its secret."""
    text = f"{part({'alg': 'HS256', 'typ': 'JWT', 'kid': KID})}.{part(claims())}"
    return f"{text}.{part(hmac.digest(secret, text.encode(), 'sha256'))}"


def tampered() -> str:
    """A token of ours with another user put into it."""
    head, _, signature = signed(claims()).split(".")
    return f"{head}.{part(claims(sub=str(uuid4())))}.{signature}"


ATTACKS: dict[str, Callable[[], str]] = {
    "alg none": lambda: unsigned("none"),
    "alg None": lambda: unsigned("None"),
    "alg empty": lambda: unsigned(""),
    "HS256 with the public key": lambda: signed_with_the_public_key(PUBLIC_PEM),
    "HS256 with the public key, stripped": lambda: signed_with_the_public_key(PUBLIC_PEM.strip()),
    "RS512": lambda: jwt.encode(claims(), KEY, algorithm="RS512", headers={"kid": KID}),
    "PS256": lambda: jwt.encode(claims(), KEY, algorithm="PS256", headers={"kid": KID}),
    "foreign key under our kid": lambda: signed(claims(), OTHER_KEY),
    "foreign key, its own kid": lambda: signed(claims(), OTHER_KEY, kid=thumbprint(OTHER_KEY.public_key())),
    "unknown kid": lambda: signed(claims(), kid="unknown"),
    "no kid": lambda: jwt.encode(claims(), KEY, algorithm="RS256"),
    "kid is a list": lambda: f"{part({'alg': 'RS256', 'kid': [KID]})}.{part(claims())}.AAAA",
    "kid is a path": lambda: signed(claims(), kid="../../../../dev/null"),
    "key in the header": lambda: signed(claims(), OTHER_KEY, jwk={"kty": "RSA"}, jku="http://localhost/"),
    "crit": lambda: signed(claims(), crit=["who-knows"]),
    "foreign issuer": lambda: signed(claims(iss="elsewhere")),
    "issuer is a list": lambda: jwt.PyJWS().encode(
        json.dumps(claims(iss=["parley"])).encode(), KEY, algorithm="RS256", headers={"kid": KID}
    ),
    "no issuer": lambda: signed(claims(iss=None)),
    "no exp": lambda: signed(claims(exp=None)),
    "no sub": lambda: signed(claims(sub=None)),
    "no sid": lambda: signed(claims(sid=None)),
    "no iat": lambda: signed(claims(iat=None)),
    "sub is no uuid": lambda: signed(claims(sub="admin")),
    "sid is a number": lambda: signed(claims(sid=7)),
    "exp is a word": lambda: signed(claims(exp="tomorrow")),
    "exp beyond all time": lambda: signed(claims(exp=10**30)),
    "not yet": lambda: signed(claims(nbf=int(time.time()) + 600)),
    "for someone else": lambda: signed(claims(aud="elsewhere")),
    "tampered payload": tampered,
    "signature cut off": lambda: signed(claims()).rpartition(".")[0] + ".",
    "another signature": lambda: signed(claims()).rpartition(".")[0] + "." + part(b"\0" * 256),
    "two parts": lambda: signed(claims()).rpartition(".")[0],
    "four parts": lambda: signed(claims()) + ".AAAA",
    "header no object": lambda: f"{part([1])}.{part(claims())}.AAAA",
    "header no JSON": lambda: f"{part(b'{')}.{part(claims())}.AAAA",
    "header nested": lambda: f"{part(b'[' * 5000 + b']' * 5000)}.{part(claims())}.AAAA",
    "header no UTF-8": lambda: f"{part(bytes([255, 254, 253]))}.{part(claims())}.AAAA",
    "payload no object": lambda: jwt.PyJWS().encode(b"[]", KEY, algorithm="RS256", headers={"kid": KID}),
    "empty": lambda: "",
    "dots": lambda: "..",
    "no text": lambda: "\0\ud800",
    "bearer": lambda: "Bearer " + signed(claims()),
}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS.keys())
def test_a_token_that_is_not_ours_is_invalid(attack: Callable[[], str]) -> None:
    """Whatever is wrong with a token, the answer is the same."""
    with pytest.raises(TokenInvalid):
        TOKENS.verify(attack())


@given(st.text(max_size=200))
def test_any_text_gets_an_answer(text: str) -> None:
    """Text that is no token is invalid, and nothing else happens."""
    with pytest.raises(TokenInvalid):
        TOKENS.verify(text)


def test_a_token_of_ours_says_who_by_which_sign_in_until_when() -> None:
    """What was issued is what is read, and the life is the one that was set."""
    token, ends = TOKENS.issue(USER, SIGN_IN)
    assert TOKENS.verify(token) == Claims(USER, SIGN_IN, ends)
    assert abs((ends - datetime.now(UTC)).total_seconds() - 1800) < 5


def test_a_hand_made_token_with_every_claim_is_taken() -> None:
    """The attacks above fail for what is wrong with them, not for how they are made."""
    assert TOKENS.verify(signed(claims())).user_id == USER


def test_a_token_ends_without_leeway() -> None:
    """From the second of `exp` on a token has expired."""
    with pytest.raises(TokenExpired):
        TOKENS.verify(signed(claims(exp=int(time.time()))))


def test_a_token_that_was_good_ends_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A token whose signature was checked before is good until the second of `exp`, and not longer."""
    tokens = AccessTokens([PEM], "parley", 60)
    token, ends = tokens.issue(USER, SIGN_IN)
    assert tokens.verify(token) == Claims(USER, SIGN_IN, ends)
    monkeypatch.setattr(time, "time", lambda: ends.timestamp() - 0.1)
    assert tokens.verify(token) == Claims(USER, SIGN_IN, ends)
    monkeypatch.setattr(time, "time", lambda: ends.timestamp())
    with pytest.raises(TokenExpired):
        tokens.verify(token)


def test_no_more_tokens_are_remembered_than_have_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many come, all of them are taken, and memory stays bounded."""
    monkeypatch.setattr("crypto.tokens.REMEMBERED", 2)
    tokens = AccessTokens([PEM], "parley", 60)
    several = [tokens.issue(uuid4(), SIGN_IN)[0] for _ in range(4)]
    assert all(tokens.verify(token) == tokens.verify(token) for token in several)
    assert len(tokens._verified) == 2


def test_an_expired_token_with_a_wrong_signature_is_invalid() -> None:
    """Nobody learns about expiry with a forged token."""
    with pytest.raises(TokenInvalid):
        TOKENS.verify(signed(claims(exp=1), OTHER_KEY))


def test_keys_rotate_with_overlap() -> None:
    """The newest key signs; tokens of an older one are good until it is dropped."""
    tokens = AccessTokens([PEM], "parley", 60)
    old, _ = tokens.issue(USER, SIGN_IN)
    tokens.replace([OTHER_PEM, PEM])
    new, _ = tokens.issue(USER, SIGN_IN)
    assert jwt.get_unverified_header(new)["kid"] == thumbprint(OTHER_KEY.public_key())
    assert tokens.verify(old) == tokens.verify(new)._replace(expires_at=tokens.verify(old).expires_at)
    tokens.replace([OTHER_PEM])
    assert tokens.verify(new)
    with pytest.raises(TokenInvalid):
        tokens.verify(old)


def test_others_can_verify_with_the_key_set() -> None:
    """The JWK set holds every key, public parts only, and a foreign library verifies a token with it."""
    tokens = AccessTokens([OTHER_PEM, PEM], "parley", 60)
    token, _ = tokens.issue(USER, SIGN_IN)
    published = tokens.jwks()
    assert {frozenset(key) for key in published["keys"]} == {frozenset({"kty", "n", "e", "kid", "use", "alg"})}
    key = jwt.PyJWKSet.from_dict(published)[jwt.get_unverified_header(token)["kid"]]
    assert UUID(jwt.decode(token, key, algorithms=["RS256"], issuer="parley")["sub"]) == USER
    assert len(published["keys"]) == 2


def test_kid_is_the_thumbprint_of_the_standard() -> None:
    """RFC 7638, section 3.1: the example key has the published thumbprint."""
    n = (
        "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3okn"
        "jhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qM"
        "QvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJz"
        "KnqDKgw"
    )
    number = int.from_bytes(base64.urlsafe_b64decode(n + "=" * (-len(n) % 4)), "big")
    key = rsa.RSAPublicNumbers(65537, number).public_key()
    assert thumbprint(key) == "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"


@pytest.mark.parametrize("pems", [[], ["rubbish"], [pem_of(make_key(1024))]], ids=["none", "rubbish", "1024 bits"])
def test_unusable_keys_are_refused(pems: list[str]) -> None:
    """No key, no PEM, or an RSA key below 2048 bits is a ValueError at once, not at the first token."""
    with pytest.raises(ValueError, match=r"."):
        AccessTokens(pems, "parley", 60)


class TestRefreshTokens:
    """Refresh tokens descend from one another."""

    tokens = RefreshTokens(bytes(32))

    def test_a_token_has_one_successor(self) -> None:
        """A retry gets the same successor; each generation differs from the one before."""
        first = self.tokens.first()
        second = self.tokens.successor(first)
        third = self.tokens.successor(second)
        assert second == RefreshTokens(bytes(32)).successor(first)
        assert len({first, second, third}) == 3

    def test_the_successor_needs_the_secret(self) -> None:
        """Who has a token but not the secret cannot compute what follows it."""
        first = self.tokens.first()
        assert RefreshTokens(b"x" * 32).successor(first) != self.tokens.successor(first)

    def test_tokens_are_random_and_long_enough(self) -> None:
        """256 random bits, in characters that need no escaping."""
        made = {self.tokens.first() for _ in range(100)}
        assert len(made) == 100
        assert all(len(base64.urlsafe_b64decode(token + "=")) == 32 for token in made)

    def test_the_digest_is_not_the_token(self) -> None:
        """The database keeps a SHA-256, from which no token can be had."""
        first = self.tokens.first()
        assert self.tokens.digest(first) == hashlib.sha256(first.encode()).digest()

    def test_any_text_gets_a_digest(self) -> None:
        """What a client sends as a token may be any text."""
        assert len(self.tokens.digest("\0\ud800")) == 32

    def test_a_short_secret_is_refused(self) -> None:
        """Less than 32 bytes are no secret."""
        with pytest.raises(ValueError, match="32"):
            RefreshTokens(bytes(31))


def test_a_node_whose_clock_is_ahead_makes_good_tokens() -> None:
    """When a token was made proves nothing; when it ends is looked at."""
    now = int(time.time())
    assert TOKENS.verify(signed(claims(iat=now + 86_400, exp=now + 90_000))).user_id == USER
