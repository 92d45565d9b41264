"""Addresses, as they are counted and trusted."""

from __future__ import annotations

import pytest

from protocol.addresses import is_loopback, network_of


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8::1", "2001:db8::ffff", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("fe80::1%eth0", "fe80::2%eth0", True),
        (None, "192.0.2.1", False),
        ("@a-socket", "@a-socket", True),
    ],
)
def test_addresses_are_counted_by_who_holds_them(one: str | None, other: str, same: bool) -> None:
    """An IPv4 address is one sender; of IPv6 it is the whole /64, which one host may hold."""
    assert (network_of(one) == network_of(other)) is same


@pytest.mark.parametrize(
    ("host", "is_it"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("localhost.example.com", False),
        ("0.0.0.0", False),
        ("192.0.2.1", False),
        ("", False),
    ],
)
def test_loopback(host: str, is_it: bool) -> None:
    """Only this machine's own addresses, and its one name for itself."""
    assert is_loopback(host) is is_it
