"""Access tokens (JWT, RS256) and refresh tokens (random, each the parent of the next)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import UUID

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

MIN_KEY_BITS = 2048
"""Least size of an RSA key for RS256 (RFC 7518, section 3.3)."""

REMEMBERED = 10_000
"""Tokens whose signature is not checked again, half a kilobyte each; the oldest goes when there is another."""

_REQUIRED = ["iss", "sub", "sid", "iat", "exp"]


class TokenInvalid(Exception):
    """The token is not one of ours."""


class TokenExpired(Exception):
    """The token was one of ours, and its time is over."""


class Claims(NamedTuple):
    """What an access token says: who, by which sign-in, until when."""

    user_id: UUID
    sign_in_id: UUID
    expires_at: datetime


class _Key(NamedTuple):
    kid: str
    private: rsa.RSAPrivateKey
    public: rsa.RSAPublicKey


class AccessTokens:
    """Signs with the newest of its keys, verifies with all of them.

    `pems` are RSA private keys in PEM, newest first; `life` is in seconds.
    Raises ValueError for a key that is not RSA or has less than 2048 bits.
    """

    def __init__(self, pems: Sequence[str], issuer: str, life: int) -> None:
        self._issuer = issuer
        self._life = life
        self._verified: dict[bytes, Claims] = {}
        self.replace(pems)

    def replace(self, pems: Sequence[str]) -> None:
        """Takes another set of keys; tokens stay good for as long as their key is among them."""
        self._verified.clear()
        keys = {key.kid: key for key in map(_load, pems)}
        if not keys:
            raise ValueError("there has to be a key to sign with")
        self._keys = keys
        self._signer = next(iter(keys.values()))

    def issue(self, user_id: UUID, sign_in_id: UUID) -> tuple[str, datetime]:
        """A token for a user's sign-in, and when it ends."""
        now = int(time.time())
        ends = now + self._life
        claims = {"iss": self._issuer, "sub": str(user_id), "sid": str(sign_in_id), "iat": now, "exp": ends}
        token = jwt.encode(claims, self._signer.private, algorithm="RS256", headers={"kid": self._signer.kid})
        return token, datetime.fromtimestamp(ends, UTC)

    def verify(self, token: str) -> Claims:
        """What a token of ours says. Raises TokenExpired (from its last second on, without leeway) or TokenInvalid.

        A client shows the same token with every request; its signature is checked the first time.
        """
        digest = hashlib.sha256(_bytes(token)).digest()
        claims = self._verified.get(digest)
        if claims is None:
            claims = self._check(token)
            self._remember(digest, claims)
        elif claims.expires_at.timestamp() <= time.time():
            raise TokenExpired("the token has expired")
        return claims

    def _remember(self, digest: bytes, claims: Claims) -> None:
        if len(self._verified) >= REMEMBERED:
            del self._verified[next(iter(self._verified))]
        self._verified[digest] = claims

    def _check(self, token: str) -> Claims:
        try:
            key = self._keys[_kid(token)].public
            options: Any = {
                "require": _REQUIRED,
                "verify_iat": False,
            }  # of a node whose clock is ahead of ours, perhaps
            said = jwt.decode(token, key, algorithms=["RS256"], issuer=self._issuer, options=options)
            return Claims(UUID(said["sub"]), UUID(said["sid"]), datetime.fromtimestamp(said["exp"], UTC))
        except jwt.ExpiredSignatureError:
            raise TokenExpired("the token has expired") from None
        except (jwt.PyJWTError, ValueError, LookupError, TypeError, AttributeError, RecursionError, OverflowError):
            raise TokenInvalid("the token is not one of ours") from None

    def jwks(self) -> dict[str, Any]:
        """The public keys as a JWK set (RFC 7517), for others who verify."""
        return {
            "keys": [_jwk(key.public) | {"kid": key.kid, "use": "sig", "alg": "RS256"} for key in self._keys.values()]
        }


class RefreshTokens:
    """Makes refresh tokens. Each has one successor, so a retry of a lost refresh gets the same answer.

    `secret` is what keeps others from computing a successor: at least 32 bytes.
    """

    def __init__(self, secret: bytes) -> None:
        if len(secret) < 32:
            raise ValueError("the refresh secret has at least 32 bytes")
        self._secret = secret

    def first(self) -> str:
        """A random token of 256 bits, the start of a family."""
        return secrets.token_urlsafe(32)

    def successor(self, token: str) -> str:
        """The one token that follows this one."""
        return _base64url(hmac.digest(self._secret, b"refresh token successor\0" + _bytes(token), "sha256"))

    def digest(self, token: str) -> bytes:
        """What the database keeps. A plain SHA-256 will do: there is nothing to guess in 256 random bits."""
        return hashlib.sha256(_bytes(token)).digest()


def thumbprint(key: rsa.RSAPublicKey) -> str:
    """The name of a key by RFC 7638: the hash of its required members, in order, without spaces."""
    return _base64url(hashlib.sha256(json.dumps(_jwk(key), sort_keys=True, separators=(",", ":")).encode()).digest())


def _load(pem: str) -> _Key:
    private = load_pem_private_key(pem.encode(), password=None)
    if not isinstance(private, rsa.RSAPrivateKey) or private.key_size < MIN_KEY_BITS:
        raise ValueError(f"a JWT key is an RSA key of at least {MIN_KEY_BITS} bits")
    public = private.public_key()
    return _Key(thumbprint(public), private, public)


def _jwk(key: rsa.RSAPublicKey) -> dict[str, str]:
    numbers = key.public_numbers()
    return {"kty": "RSA", "n": _base64url_int(numbers.n), "e": _base64url_int(numbers.e)}


def _kid(token: str) -> str:
    # Read by hand: PyJWT's get_unverified_header decodes the whole token, half the price of verifying it.
    head = token.partition(".")[0]
    kid: str = json.loads(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4)))["kid"]
    return kid


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _base64url_int(number: int) -> str:
    return _base64url(number.to_bytes((number.bit_length() + 7) // 8, "big"))


def _bytes(token: str) -> bytes:
    return token.encode("utf-8", "surrogatepass")
