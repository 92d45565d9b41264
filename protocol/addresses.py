"""What an address says about who may be behind it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


def is_loopback(host: str) -> bool:
    """Whether nobody else can listen on the way: an address of this machine, or its name for itself."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def network_of(address: str | None) -> str:
    """The key under which an address is counted. IPv6 counts by /64, since one host may take any address in its net."""
    if address is None:
        return "unknown"
    ip = _parse(address)
    if ip is None:
        return address
    return str(ip) if isinstance(ip, IPv4Address) else f"{ip.packed[:8].hex()}/64"


def client_of(peer: str | None, forwarded: Iterable[str], proxies: Sequence[Network]) -> str | None:
    """Who is at the other end of a request that may have come through proxies. Raises nothing.

    `forwarded` are the values of its X-Forwarded-For headers, in their order. Each proxy
    adds at the right whom it heard, so entries are believed from there, and only while a
    trusted proxy has written them: the first that is none of the `proxies` is the client.
    What is no address ends that too; then the client is the last proxy that was believed.
    """
    client = peer
    entries = ",".join(forwarded).split(",")
    while entries and (ip := _parse(client)) is not None and any(ip in network for network in proxies):
        entry = _parse(_without_port(entries.pop().strip()))
        if entry is None:
            break
        client = str(entry)
    return client


def networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """Addresses and networks as they are written: 192.0.2.1, 10.0.0.0/8, 2001:db8::/32. Raises ValueError."""
    return tuple(ip_network(text) for text in texts)


def _parse(text: str | None) -> Address | None:
    """IPv6 that stands for IPv4 is IPv4; a zone says nothing outside its machine."""
    try:
        ip = ip_address((text or "").partition("%")[0])
    except ValueError:
        return None
    return (ip.ipv4_mapped or ip) if isinstance(ip, IPv6Address) else ip


def _without_port(entry: str) -> str:
    """Some proxies write 192.0.2.1:4711 or [2001:db8::1]:4711."""
    if entry.startswith("["):
        return entry[1:].partition("]")[0]
    return entry.partition(":")[0] if entry.count(":") == 1 else entry
