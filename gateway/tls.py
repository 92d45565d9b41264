"""TLS for the listeners: one context for them all, whose certificate can be replaced while sockets stay open."""

from __future__ import annotations

import ssl
from pathlib import Path

from gateway.config import Config, ConfigError

CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""For TLS 1.2: forward secrecy and authenticated encryption only (RFC 9325, 4.2). Those of TLS 1.3 all have both."""

ALPN = ("http/1.1",)
"""What browsers and proxies may choose from (RFC 7301). A client that offers nothing of it is served all the same."""

SHUTDOWN_TIMEOUT = 2.0
"""Seconds in which a client may answer that it, too, has finished, before the socket is closed anyway."""


class Tls:
    """The listeners' TLS context, with the certificate and key that PARLEY_TLS_CERT and PARLEY_TLS_KEY name.

    Raises ConfigError where the two cannot be used, naming the setting.
    """

    def __init__(self, certificate: Path, key: Path) -> None:
        self._certificate = certificate
        self._key = key
        self._newest = self.context = _context(certificate, key)
        self.context.sni_callback = self._choose

    @classmethod
    def of(cls, config: Config) -> Tls | None:
        """What the settings ask for; None where Parley speaks without TLS."""
        if config.tls_cert is None or config.tls_key is None:
            return None
        return cls(config.tls_cert, config.tls_key)

    def reload(self) -> None:
        """Reads both files again, for handshakes to come. Raises ConfigError; then the old pair stays in use."""
        self._newest = _context(self._certificate, self._key)

    def _choose(self, connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        # Every handshake comes by here, with a server name or without one. A fresh context is chosen, rather than
        # the old one changed: that would keep a certificate of another kind of key beside the new one.
        connection.context = self._newest


def _context(certificate: Path, key: Path) -> ssl.SSLContext:
    _look_at("PARLEY_TLS_CERT", certificate, b"-----BEGIN CERTIFICATE-----", "no certificate")
    _look_at("PARLEY_TLS_KEY", key, b" PRIVATE KEY-----", "no private key")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_ciphers(CIPHERS)
    context.set_alpn_protocols(list(ALPN))
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except ssl.SSLError as error:
        raise ConfigError(_why(certificate, key, error)) from None
    return context


def _look_at(setting: str, path: Path, mark: bytes, without: str) -> None:
    """Finds the file that is at fault, which OpenSSL does not tell."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{setting} names {path}, which cannot be read: {error.strerror}") from None
    if mark not in content:
        raise ConfigError(f"{setting} names {path}, which holds {without} in PEM")


def _no_password() -> str:
    # Without this, OpenSSL would ask at the terminal, and a service would hang.
    raise ConfigError("PARLEY_TLS_KEY names a key with a passphrase, which Parley cannot ask for; give it one without")


def _why(certificate: Path, key: Path, error: ssl.SSLError) -> str:
    if error.reason == "KEY_VALUES_MISMATCH":
        return f"PARLEY_TLS_KEY names {key}, which is not the key of the certificate in PARLEY_TLS_CERT, {certificate}"
    return f"PARLEY_TLS_CERT and PARLEY_TLS_KEY cannot be used: {error.reason or error}"
