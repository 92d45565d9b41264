"""Where the secrets come from: the settings, or a directory that a development install makes for itself.

The directory (mode 0700) holds four files (mode 0600), each in the form that
its setting takes: `master.keys`, a line `id:base64` for each key, newest first;
`jwt.pem`, RSA private keys in PEM, newest first; `refresh.secret`, base64;
`noise.key`, base64.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from crypto.noise import PrivateKey
from crypto.sealing import MasterKeys, new_key
from crypto.tokens import MIN_KEY_BITS, AccessTokens, RefreshTokens

T = TypeVar("T")

MASTER, JWT, REFRESH = "PARLEY_MASTER_KEYS", "PARLEY_JWT_KEYS", "PARLEY_REFRESH_SECRET"
NOISE = "PARLEY_NOISE_KEY"
FILES = {MASTER: "master.keys", JWT: "jwt.pem", REFRESH: "refresh.secret", NOISE: "noise.key"}
"""Which file of the key directory stands for which setting."""

JWT_KEYS_KEPT = 3
"""JWT keys that a rotation leaves: the new one and two before it, so that two rotations within the
life of an access token sign nobody out."""

_PEM = re.compile(r"-----BEGIN [A-Z ]+-----.+?-----END [A-Z ]+-----", re.DOTALL)


class SecretError(Exception):
    """A secret cannot be had; `setting` names it."""

    def __init__(self, setting: str, reason: str) -> None:
        self.setting = setting
        super().__init__(f"{setting} {reason}")


class MissingSecret(SecretError):
    """A secret is not there, and may not be made up."""


class BadSecret(SecretError):
    """A secret is there and has the wrong form. The message never shows it."""


@dataclass(frozen=True, slots=True, repr=False)
class Keys:
    """Every secret of an install. Master and JWT keys stand newest first."""

    master: tuple[tuple[str, bytes], ...]
    jwt_pems: tuple[str, ...]
    refresh_secret: bytes
    noise: PrivateKey
    """The server's static key, which clients know beforehand."""


def load_keys(
    directory: Path | None,
    master: str | None,
    jwt: str | None,
    refresh: str | None,
    noise: str | None,
    production: bool,
) -> Keys:
    """The secrets from the settings; in development the directory fills the gaps, and is made at first start.

    Raises MissingSecret in production, or without a directory; BadSecret for a wrong form.
    """
    texts = {MASTER: master, JWT: jwt, REFRESH: refresh, NOISE: noise}
    missing = [setting for setting, text in texts.items() if not text]
    if missing and (production or directory is None):
        raise MissingSecret(missing[0], f"is not set (nor {missing[0]}_FILE)")
    if missing and directory is not None:
        ensure(directory)
        texts |= {setting: _read(directory, setting) for setting in missing}
    return _parse(texts)


def ensure(directory: Path) -> None:
    """Makes the key directory with fresh keys, all at once or not at all; to one that is there it adds a Noise key."""
    if directory.exists() and any(directory.iterdir()):
        _add_noise(directory)
        return
    directory.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))  # mkdtemp: mode 0700
    try:
        for setting, text in _fresh().items():
            _write(draft / FILES[setting], text)
        draft.rename(directory)
        _sync(directory.parent)
    except OSError:
        shutil.rmtree(draft, ignore_errors=True)
        if not (directory / FILES[MASTER]).exists():  # else another process was first, and its keys count
            raise


def _add_noise(directory: Path) -> None:
    """Makes a Noise key where there is none: directories of earlier versions have none, and it opens no stored data."""
    path = directory / FILES[NOISE]
    if not path.exists():
        with _draft(path, _noise_text()) as draft, contextlib.suppress(FileExistsError):
            path.hardlink_to(draft)  # unlike a replace it fails where another process was first, and its key counts


def load(directory: Path) -> Keys:
    """The keys in the directory. Raises MissingSecret or BadSecret."""
    return _parse({setting: _read(directory, setting) for setting in FILES})


def rotate(directory: Path) -> Keys:
    """Puts a new master key and a new JWT key in front. Raises MissingSecret or BadSecret.

    Old master keys stay for ever, since data keys are wrapped by them; of the JWT
    keys JWT_KEYS_KEPT stay, to verify the tokens they signed. The Noise key stays, since clients know it.
    """
    keys = load(directory)
    jwt_pems = (_new_pem(), *keys.jwt_pems)[:JWT_KEYS_KEPT]
    rotated = replace(keys, master=(_new_master(), *keys.master), jwt_pems=jwt_pems)
    _write(directory / FILES[MASTER], _master_text(rotated.master))
    _write(directory / FILES[JWT], "".join(rotated.jwt_pems))
    return rotated


def _parse(texts: Mapping[str, str | None]) -> Keys:
    return Keys(
        _checked(MASTER, texts[MASTER], _parse_master, "is not `id:base64 of 32 bytes`, each id once"),
        _checked(JWT, texts[JWT], _parse_jwt, "is not a list of RSA private keys in PEM, of 2048 bits or more"),
        _checked(REFRESH, texts[REFRESH], _parse_refresh, "is not base64 of at least 32 bytes"),
        _checked(NOISE, texts[NOISE], lambda text: PrivateKey(_base64(text)), "is not base64 of 32 bytes"),
    )


def _checked(setting: str, text: str | None, parse: Callable[[str], T], complaint: str) -> T:
    try:
        return parse(text or "")
    except (ValueError, TypeError, binascii.Error, UnsupportedAlgorithm):
        raise BadSecret(setting, complaint) from None  # the cause might quote the secret


def _parse_master(text: str) -> tuple[tuple[str, bytes], ...]:
    """Keys as `id:base64`, separated by commas or ends of line. Raises ValueError."""
    lines = [line.strip() for line in re.split(r"[,\n]", text) if line.strip()]
    keys = tuple((name.strip(), _base64(key)) for name, _, key in (line.partition(":") for line in lines))
    if not all(name for name, _ in keys):
        raise ValueError("a master key has an id")
    MasterKeys(keys)
    return keys


def _parse_jwt(text: str) -> tuple[str, ...]:
    """The PEM blocks in a text. Raises ValueError or TypeError."""
    pems = tuple(f"{pem}\n" for pem in _PEM.findall(text.replace("\\n", "\n")))
    AccessTokens(pems, "", 0)
    return pems


def _parse_refresh(text: str) -> bytes:
    """The bytes of a refresh secret. Raises ValueError."""
    secret = _base64(text)
    RefreshTokens(secret)
    return secret


def _base64(text: str) -> bytes:
    return base64.b64decode(text.strip(), validate=True)


def _fresh() -> dict[str, str]:
    refresh = base64.b64encode(secrets.token_bytes(32)).decode()
    return {MASTER: _master_text([_new_master()]), JWT: _new_pem(), REFRESH: f"{refresh}\n", NOISE: _noise_text()}


def _new_master() -> tuple[str, bytes]:
    """A master key, named by its day and four random bytes."""
    return f"{datetime.now(UTC):%Y%m%d}-{secrets.token_hex(4)}", new_key()


def _master_text(keys: Iterable[tuple[str, bytes]]) -> str:
    return "".join(f"{name}:{base64.b64encode(key).decode()}\n" for name, key in keys)


def _noise_text() -> str:
    return base64.b64encode(PrivateKey.new().secret).decode() + "\n"


def _new_pem() -> str:
    key = rsa.generate_private_key(public_exponent=65537, key_size=MIN_KEY_BITS)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def _read(directory: Path, setting: str) -> str:
    path = directory / FILES[setting]
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        # Never made anew: a new master key beside old data would lose the data.
        raise MissingSecret(setting, f"is not set, and {path} cannot be read") from None


def _write(path: Path, text: str) -> None:
    """Replaces a file as a whole."""
    with _draft(path, text) as draft:
        draft.replace(path)


@contextlib.contextmanager
def _draft(path: Path, text: str) -> Iterator[Path]:
    """A file that is on disk before it has its name; mode 0600. It is gone afterwards, unless it got another name."""
    descriptor, draft = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)  # mkstemp: mode 0600
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        yield Path(draft)
        _sync(path.parent)
    finally:
        Path(draft).unlink(missing_ok=True)


def _sync(directory: Path) -> None:
    """Puts the names in a directory on disk."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
