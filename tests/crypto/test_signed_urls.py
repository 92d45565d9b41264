"""Grants say what was signed, until their time, and nothing that was changed."""

from __future__ import annotations

import time
from base64 import urlsafe_b64decode, urlsafe_b64encode

import pytest

from crypto.sealing import new_key
from crypto.signed_urls import Grant, Grants

LATER = int(time.time()) + 3600


class Loan(Grant, frozen=True, array_like=True):
    """A grant with something in it."""

    book: str


OLD, NEW = ("old", new_key()), ("new", new_key())
LOANS = Grants(Loan, b"loan", [OLD])


def test_as_issued() -> None:
    """A grant can be read back as it was issued, also after its key was rotated, until that key is gone."""
    loan = Loan(expires_at=LATER, book="Emma")
    text = LOANS.issue(loan)
    assert LOANS.check(text) == loan
    assert Grants(Loan, b"loan", [NEW, OLD]).check(text) == loan
    assert Grants(Loan, b"loan", [NEW]).check(text) is None
    assert Grants(Loan, b"gift", [OLD]).check(text) is None


def test_its_time() -> None:
    """A grant whose time is over is none."""
    assert LOANS.check(LOANS.issue(Loan(expires_at=int(time.time()) - 1, book="Emma"))) is None


def test_every_bit() -> None:
    """A grant with any bit flipped, or cut anywhere, is none."""
    text = LOANS.issue(Loan(expires_at=LATER, book="Emma"))
    data = urlsafe_b64decode(text + "=" * (-len(text) % 4))
    for at in range(len(data) * 8):
        changed = bytearray(data)
        changed[at // 8] ^= 1 << at % 8
        assert LOANS.check(urlsafe_b64encode(changed).rstrip(b"=").decode()) is None
    for length in range(len(data)):
        assert LOANS.check(urlsafe_b64encode(data[:length]).rstrip(b"=").decode()) is None


@pytest.mark.parametrize("text", ["", "a", "ä", "=", "a b", "\0"])
def test_rubbish(text: str) -> None:
    """What is no grant at all is none."""
    assert LOANS.check(text) is None
