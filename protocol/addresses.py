"""What an address says about who may be behind it."""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address


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
    try:
        ip = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if not isinstance(ip, IPv6Address):
        return str(ip)
    return str(ip.ipv4_mapped or f"{ip.packed[:8].hex()}/64")
