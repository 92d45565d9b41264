"""How a client reads the URL it is given."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from gateway.client_address import Address, parse_address
from gateway.config import Config
from gateway.welcome import server_info, welcome

KEY = bytes(range(32))
TEXT = base64.urlsafe_b64encode(KEY).decode().rstrip("=")


@pytest.mark.parametrize(
    ("url", "opened"),
    [
        ("ws://h:1/ws", "ws://h:1/ws"),
        ("ws://h:1", "ws://h:1/ws"),
        ("http://h:1/", "ws://h:1/ws"),
        ("https://h/chat/ws", "wss://h/chat/ws"),
        ("wss://h/ws?tenant=a+b", "wss://h/ws?tenant=a+b"),
    ],
)
def test_websocket(url: str, opened: str) -> None:
    """http stands for ws, a missing path for /ws; other queries are left alone."""
    address = parse_address(url)
    assert (address.transport, address.url, address.noise) == ("ws", opened, False)


@pytest.mark.parametrize(
    ("url", "host", "port", "tls", "noise"),
    [
        (f"parley://h?key={TEXT}", "h", 8001, False, True),
        (f"parley://[::1]:9?key={TEXT}", "::1", 9, False, True),
        ("parleys://h:9", "h", 9, True, False),
        (f"parleys://h:9?key={TEXT}", "h", 9, True, True),
        ("parley+clear://127.0.0.1:9", "127.0.0.1", 9, False, False),
        ("parley+clear://localhost", "localhost", 8001, False, False),
    ],
)
def test_tcp(url: str, host: str, port: int, tls: bool, noise: bool) -> None:
    """Scheme and key say what protects the stream."""
    address = parse_address(url)
    assert (address.transport, address.host, address.port) == ("tcp", host, port)
    assert (address.tls, address.noise) == (tls, noise)
    assert address.key == (KEY if noise else None)


@pytest.mark.parametrize(
    ("url", "http"),
    [
        ("ws://h:1/ws", "http://h:1"),
        ("wss://h/ws", "https://h"),
        (f"wss://h:1/ws?key={TEXT}", "https://h:1"),
        (f"ws://127.0.0.1:1/ws?key={TEXT}", "http://127.0.0.1:1"),
        (f"ws://h:1/ws?key={TEXT}", ""),
        (f"ws://h:1/ws?key={TEXT}&discover=https://h", "https://h"),
        (f"parley://h?key={TEXT}", "https://h"),
        (f"parley://[::1]:9?key={TEXT}", "http://[::1]:8000"),
        (f"parley://h?key={TEXT}&discover=http://h", ""),
        ("parleys://h", "https://h"),
        ("parleys://h?discover=https://files.h/chat/", "https://files.h/chat"),
        ("parley+clear://localhost", "http://localhost:8000"),
    ],
)
def test_where_files_go(url: str, http: str) -> None:
    """By HTTP to the same place, or to another that is named; nowhere, where a token would be less safe than here."""
    assert parse_address(url).http == http


def test_a_key_makes_a_websocket_sealed() -> None:
    """It is taken out of what is sent to the server."""
    address = parse_address(f"ws://h:1/ws?key={TEXT}&tenant=a")
    assert address == Address(
        transport="ws", tls=False, noise=True, host="h", port=1, url="ws://h:1/ws?tenant=a", name="ws://h:1/ws", key=KEY
    )


@pytest.mark.parametrize(
    ("url", "at"),
    [
        ("parley://127.0.0.1:9", "http://127.0.0.1:8000"),
        ("parley://[::1]:9", "http://[::1]:8000"),
        ("parley://chat.example.com", "https://chat.example.com"),
        ("parley://h?discover=https://chat.example.com:1/", "https://chat.example.com:1"),
        ("wss://h:1/ws?key=discover", "https://h:1"),
        ("ws://localhost:1/ws?key=discover", "http://localhost:1"),
    ],
)
def test_where_a_key_is_found(url: str, at: str) -> None:
    """At the server itself, by HTTPS, or on loopback."""
    address = parse_address(url)
    assert (address.key, address.noise, address.discover) == (None, True, f"{at}/.well-known/parley")


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("h:1", "not an address"),
        ("ftp://h", "not an address"),
        ("ws://", "not an address"),
        ("parley+clear://chat.example.com", "only loopback"),
        (f"parley+clear://127.0.0.1?key={TEXT}", "only loopback"),
        ("parley://h?key=short", "not a key"),
        ("parley://h?key=***", "not a key"),
        ("parley://h?key=é", "not a key"),
        ("ws://h:port/ws", "not an address"),
        ("ws://[::1/ws", "not an address"),
        ("ws://ann@h/ws", "in front of the @"),
        ("ws://chat.example.com/ws?key=discover", "only believed from https"),
        ("parley://h?discover=http://h", "only believed from https"),
        ("parley://h?discover=file:///etc/passwd", "only believed from https"),
        ("parley://h?discover=https://", "only believed from https"),
        ("parley://h?discover=https://h:99999", "not an address"),
        ("parley://h?discover=https://ann@h", "in front of the @"),
    ],
)
def test_what_is_refused(url: str, complaint: str) -> None:
    """A mistake in the address is told at once, not retried; what is not safe is not done."""
    with pytest.raises(ValueError, match=complaint):
        parse_address(url)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://h/?token=secret",
        "ws:ann:secret@h/ws",
        "ws://h:port/ws?token=secret",
        "ws://ann:secret@h/ws?token=secret",
        "ws://ann:secret\u2100@h/ws",
        "parley+clear://h?token=secret",
        "parley://h?key=secret",
        "parley://h?discover=http://h/?key=secret",
        "parley://h?discover=https://ann:secret@h",
    ],
)
def test_refusals_show_no_secrets(url: str) -> None:
    """What is told of a wrong URL may stand in a log: no password, no token and no key is in it."""
    with pytest.raises(ValueError, match=r"not a|believed|in front|loopback") as refusal:
        parse_address(url)
    assert "secret" not in str(refusal.value)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_what_a_server_prints_can_be_used(host: str) -> None:
    """The URLs that `parley serve` shows lead back to where it listens, also by IPv6."""
    config = Config(http=f"[{host}]:8000", tcp=f"[{host}]:0", data=Path("data"))
    said = welcome(config, (host, 7), server_info(config, KEY, 9, ()))
    printed = {words[0]: words[1] for line in said.splitlines() if len(words := line.split()) > 1}
    websocket, tcp = (parse_address(printed[name]) for name in ("WebSocket", "TCP"))
    http = parse_address(printed["HTTP"])
    assert [(at.host, at.port) for at in (http, websocket, tcp)] == [(host, 7), (host, 7), (host, 9)]
    assert tcp.key == KEY
