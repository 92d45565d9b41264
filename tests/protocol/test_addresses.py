"""Addresses, as they are counted and trusted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.addresses import client_of, is_loopback, network_of, networks

PROXIES = networks(["10.0.0.0/8", "192.0.2.7", "2001:db8:1::/48"])
ADDRESSES = st.ip_addresses().map(str)


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


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        # From a trusted proxy: the rightmost that is none
        ("10.0.0.1", ["198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["1.1.1.1, 198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["198.51.100.1, 10.9.9.9,192.0.2.7"], "198.51.100.1"),
        ("10.0.0.1", ["198.51.100.1", "10.9.9.9"], "198.51.100.1"),
        ("10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        ("192.0.2.7", ["2001:DB8::1"], "2001:db8::1"),
        ("2001:db8:1::5", ["198.51.100.1"], "198.51.100.1"),
        ("::ffff:10.0.0.1", ["::ffff:198.51.100.1"], "198.51.100.1"),
        # As some proxies write it
        ("10.0.0.1", ["198.51.100.1:4711"], "198.51.100.1"),
        ("10.0.0.1", ["[2001:db8::1]:4711"], "2001:db8::1"),
        ("10.0.0.1", ["[2001:db8::1]"], "2001:db8::1"),
        ("10.0.0.1", ["fe80::1%eth0"], "fe80::1"),
        # From anyone else it is nothing
        ("198.51.100.9", ["1.1.1.1"], "198.51.100.9"),
        ("192.0.2.8", ["1.1.1.1"], "192.0.2.8"),
        ("2001:db8:2::5", ["1.1.1.1"], "2001:db8:2::5"),
        (None, ["1.1.1.1"], None),
        ("@a-socket", ["1.1.1.1"], "@a-socket"),
        # What is no address: the proxy that wrote it is all that is known
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", [""], "10.0.0.1"),
        ("10.0.0.1", [",,"], "10.0.0.1"),
        ("10.0.0.1", ["1.1.1.1, unknown"], "10.0.0.1"),
        ("10.0.0.1", ["1.1.1.1, unknown, 10.0.0.2"], "10.0.0.2"),
        ("10.0.0.1", ["1.1.1.1, 256.0.0.1"], "10.0.0.1"),
        ("10.0.0.1", ["1.1.1.1,"], "10.0.0.1"),
        ("10.0.0.1", ["[::1"], "::1"),
        ("10.0.0.1", ["[:]:1"], "10.0.0.1"),
    ],
)
def test_who_is_behind_a_proxy(peer: str | None, forwarded: list[str], client: str | None) -> None:
    """Only what trusted proxies have written counts, from the right, until somebody whom they do not know."""
    assert client_of(peer, forwarded, PROXIES) == client


@given(st.none() | st.text() | ADDRESSES, st.lists(st.text() | st.lists(ADDRESSES | st.text()).map(", ".join)))
def test_a_header_of_a_stranger_is_ignored(peer: str | None, forwarded: list[str]) -> None:
    """Whatever it says, who is no trusted proxy is who they are; nothing in it raises."""
    client = client_of(peer, forwarded, PROXIES)
    assert client_of(peer, forwarded, ()) == peer
    if network_of(peer) != network_of(client):
        assert client_of(peer, ["1.1.1.1"], PROXIES) == "1.1.1.1"


@given(st.lists(st.text().filter(lambda text: "," not in text)), ADDRESSES, st.integers(0, 5))
def test_nobody_can_be_somebody_else(claims: list[str], address: str, hops: int) -> None:
    """Whatever a client has put into the header, the address that the first proxy saw is the one that counts."""
    seen = [*claims, address, *(f"10.0.0.{hop}" for hop in range(hops))]
    client = client_of("10.0.0.99", [", ".join(seen)], networks(["10.0.0.0/8"]))
    if not network_of(address).startswith("10."):
        assert network_of(client) == network_of(address)


@pytest.mark.parametrize("text", ["10.0.0.1/8", "10.0.0.0/33", "proxy.example.com", "", "*"])
def test_what_is_no_network(text: str) -> None:
    """Names, and addresses with bits beyond the net's length, are refused."""
    with pytest.raises(ValueError, match=r"does not appear|host bits|not permitted"):
        networks([text])
