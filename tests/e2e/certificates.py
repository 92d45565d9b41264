"""A certificate authority for tests: certificates for 127.0.0.1 and localhost, as an operator would get them."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

DAY = datetime.timedelta(days=1)

_SIGNING = x509.KeyUsage(
    key_cert_sign=True,
    crl_sign=False,
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    encipher_only=False,
    decipher_only=False,
)


class Authority:
    """Signs certificates. `file` holds its own, for those who are to trust it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._key = new_key()
        self._name = _name("Parley's test authority")
        certificate = (
            self._builder(self._name, self._key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_SIGNING, critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.file = directory / "authority.pem"
        self.file.write_bytes(certificate.public_bytes(Encoding.PEM))

    def issue(self, name: str, key: Key | None = None) -> dict[str, str]:
        """A new pair in `cert.pem` and `key.pem`, over what was there; the settings that name the two."""
        key = key or new_key()
        certificate = (
            self._builder(_name(name), key)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_here(), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        (self._directory / "cert.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
        (self._directory / "key.pem").write_bytes(pem(key))
        return {
            "PARLEY_TLS_CERT": str(self._directory / "cert.pem"),
            "PARLEY_TLS_KEY": str(self._directory / "key.pem"),
        }

    def issue_misfit(self, name: str) -> dict[str, str]:
        """The same, but the key is another one's."""
        settings = self.issue(name)
        (self._directory / "key.pem").write_bytes(pem(new_key()))
        return settings

    def trusted(self) -> ssl.SSLContext:
        """How a client trusts this authority, and no other."""
        return ssl.create_default_context(cafile=str(self.file))

    def _builder(self, subject: x509.Name, key: Key) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder(self._name, subject, key.public_key(), x509.random_serial_number())
            .not_valid_before(now - DAY)
            .not_valid_after(now + DAY)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )


def new_key() -> ec.EllipticCurvePrivateKey:
    """A key on P-256, the kind that is quickest to make."""
    return ec.generate_private_key(ec.SECP256R1())


def pem(key: Key) -> bytes:
    """A private key as it stands in a file."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _here() -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("localhost")])
