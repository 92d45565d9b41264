from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

from gateway.config import Config, ConfigError
from gateway.tls import Tls
from tests.e2e.certificates import Authority, new_key


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """Who signs this test's certificates."""
    return Authority(tmp_path)


def tls(settings: dict[str, str]) -> Tls:
    """What a server with these settings has."""
    made = Tls.of(Config.from_env(settings))
    assert made is not None
    return made


def handshake(server: ssl.SSLContext, client: ssl.SSLContext, name: str | None = "localhost") -> ssl.SSLObject:
    """The client's side of a connection in memory."""
    a, b = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [client.wrap_bio(a, b, server_hostname=name), server.wrap_bio(b, a, server_side=True)]
    waiting = list(sides)
    while waiting:
        for side in list(waiting):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            waiting.remove(side)
    return sides[0]


def shown(connection: ssl.SSLObject) -> str:
    """The name in the certificate that the server showed."""
    certificate = connection.getpeercert(binary_form=True)
    assert certificate is not None
    return x509.load_der_x509_certificate(certificate).subject.rfc4514_string()


def test_none() -> None:
    """Without the settings there is no TLS."""
    assert Tls.of(Config.from_env({})) is None


def test_handshake(authority: Authority) -> None:
    """A client that trusts the authority gets TLS 1.3, and HTTP/1.1 where it asks what is spoken."""
    client = authority.trusted()
    client.set_alpn_protocols(["h2", "http/1.1"])
    connection = handshake(tls(authority.issue("one")).context, client)
    assert connection.version() == "TLSv1.3"
    assert connection.selected_alpn_protocol() == "http/1.1"


def test_other_protocols_are_no_refusal(authority: Authority) -> None:
    """A client that speaks nothing of what is offered is not refused for that: it may be a bot's."""
    client = authority.trusted()
    client.set_alpn_protocols(["parley"])
    assert handshake(tls(authority.issue("one")).context, client).selected_alpn_protocol() is None


def test_old_versions(authority: Authority) -> None:
    """TLS 1.2 is the oldest that is spoken, and only with forward secrecy and authenticated encryption."""
    server = tls(authority.issue("one")).context
    client = authority.trusted()
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    cipher = handshake(server, client).cipher()
    assert cipher is not None
    assert cipher[0].startswith("ECDHE")
    assert all("GCM" in c["name"] or "CHACHA20" in c["name"] for c in server.get_ciphers())
    client.set_ciphers("ECDHE+AES128:!AESGCM:!AESCCM:@SECLEVEL=0")
    with pytest.raises(ssl.SSLError):
        handshake(server, client)
    assert server.minimum_version is ssl.TLSVersion.TLSv1_2


@pytest.mark.parametrize("name", ["localhost", None])
def test_reload(authority: Authority, name: str | None) -> None:
    """After a reload handshakes show the new certificate, whatever kind of key the old one had, with a name or none."""
    made = tls(authority.issue("old", rsa.generate_private_key(65_537, 2_048)))
    client = authority.trusted()
    client.check_hostname = name is not None
    assert shown(handshake(made.context, client, name)) == "CN=old"
    authority.issue("new")
    assert shown(handshake(made.context, client, name)) == "CN=old"
    made.reload()
    assert shown(handshake(made.context, client, name)) == "CN=new"
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    client.set_ciphers("aRSA")
    with pytest.raises(ssl.SSLError):
        handshake(made.context, client, name)


def test_broken_reload(authority: Authority) -> None:
    """A pair that does not fit is refused as a whole, and the old one stays in use."""
    settings = authority.issue("old")
    made = tls(settings)
    authority.issue_misfit("new")
    with pytest.raises(ConfigError, match=r"PARLEY_TLS_KEY names .* which is not the key of the certificate"):
        made.reload()
    assert shown(handshake(made.context, authority.trusted())) == "CN=old"


@pytest.mark.parametrize("setting", ["PARLEY_TLS_CERT", "PARLEY_TLS_KEY"])
@pytest.mark.parametrize("damage", ["missing", "directory", "empty", "swapped"])
def test_the_file_at_fault(authority: Authority, tmp_path: Path, setting: str, damage: str) -> None:
    """A file that cannot be read, or that is something else, is named with its setting."""
    settings = authority.issue("one")
    (tmp_path / "empty").touch()
    other = {"missing": tmp_path / "none", "directory": tmp_path, "empty": tmp_path / "empty"}
    (swapped,) = (path for name, path in settings.items() if name != setting)
    settings[setting] = str(other.get(damage, swapped))
    with pytest.raises(ConfigError, match=rf"^{setting} names {settings[setting]}, which (cannot be read|holds no)"):
        tls(settings)


@pytest.mark.parametrize("setting", ["PARLEY_TLS_CERT", "PARLEY_TLS_KEY"])
def test_damaged_pem(authority: Authority, setting: str) -> None:
    """PEM with nonsense in it is a refusal, too."""
    settings = authority.issue("one")
    path = Path(settings[setting])
    path.write_bytes(path.read_bytes().replace(b"M", b"N", 1))
    with pytest.raises(ConfigError, match="PARLEY_TLS_CERT and PARLEY_TLS_KEY cannot be used: "):
        tls(settings)


def test_a_key_with_a_passphrase(authority: Authority) -> None:
    """Nobody is there to type one: it is a refusal, not a question at the terminal."""
    settings = authority.issue("one")
    sealed = new_key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    Path(settings["PARLEY_TLS_KEY"]).write_bytes(sealed)
    with pytest.raises(ConfigError, match="passphrase"):
        tls(settings)


@pytest.mark.parametrize("given", ["PARLEY_TLS_CERT", "PARLEY_TLS_KEY"])
def test_both_or_neither(authority: Authority, given: str) -> None:
    """One without the other is a refusal that names the one that is missing."""
    settings = authority.issue("one")
    (missing,) = set(settings) - {given}
    with pytest.raises(ConfigError, match=f"^{missing} is not set"):
        Config.from_env({given: settings[given]})
