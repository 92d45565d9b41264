"""What fuzzing begins with: things that the parsers accept, the same in every run."""

from __future__ import annotations

import base64
from unittest import mock
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import Phase, given, seed, settings

from crypto.tokens import AccessTokens
from protocol.commands import SOCKET_COMMANDS, Command
from tests.protocol import strategies

# The primes of an RSA key that guards nothing; to find some takes a second.
_P = int(
    "ea8ddb9075dea05e8f3e642edf991b08f474463cb8ec227524a79226990c765e0405e054424872472ffad0e2ec53a80f438e"
    "e304e21035bfc0b2cd760b8caccff20ca8b9983a604ba0afdc55f0a68e587188aeab07606f23ac878c786175b6395b96772c"
    "2f2332fdbbda18cc8da061ef7a65df84e08d884361dab81c3f210945",
    16,
)
_Q = int(
    "c7c1bf54b4414a1d703e796a87f79c039f10035d3bb68e75eac08a6e15db9acf4ff7ff0233c394b1ddfe26c1b35caa3f19f4"
    "cae10d891c2e5730b28b476fcf4f537a08718681899529348879b03b2e14eba99d3f4d84509eb8a35e874084e5fc5507425a"
    "85fb7f5f113ae24a3b884998c8dd4e496a87ab144c6a909576174289",
    16,
)


def jwt_pem() -> str:
    """The RSA key, in PEM."""
    modulus, exponent = _P * _Q, 65_537
    private = pow(exponent, -1, (_P - 1) * (_Q - 1))
    numbers = rsa.RSAPrivateNumbers(
        _P,
        _Q,
        private,
        rsa.rsa_crt_dmp1(private, _P),
        rsa.rsa_crt_dmq1(private, _Q),
        rsa.rsa_crt_iqmp(_P, _Q),
        rsa.RSAPublicNumbers(exponent, modulus),
    )
    return numbers.private_key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def secrets() -> list[str]:
    """Master keys, JWT keys, refresh secret and Noise key, as their settings have them."""
    key = base64.b64encode(b"k" * 32).decode()
    return [f"new:{key}\nold:{key}\n", jwt_pem(), key, key]


USER, SIGN_IN = UUID(int=1), UUID(int=2)


def token(life: int) -> str:
    """An access token of the user, `life` seconds from the year 2026 on."""
    with mock.patch("crypto.tokens.time.time", return_value=1_767_225_600.0):
        return AccessTokens([jwt_pem()], "parley", life).issue(USER, SIGN_IN)[0]


def commands() -> list[tuple[str, Command]]:
    """Some commands of each kind, with the names of their events."""
    return [(event, command) for event, kind in SOCKET_COMMANDS.items() for command in _some(kind)]


def _some(kind: type[Command]) -> list[Command]:
    drawn: list[Command] = []

    @seed(1)
    @settings(max_examples=8, database=None, deadline=None, phases=[Phase.generate])
    @given(strategies.struct(kind))
    def draw(command: Command) -> None:
        drawn.append(command)

    draw()
    return drawn
