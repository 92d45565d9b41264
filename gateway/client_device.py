"""A device of the Python client: its private key, and which keys of others it has seen and trusts. One file holds it.

Keys are trusted on first use: the first ones that are seen of a user are taken,
any further one is *changed* until the user of this client has said what it is.
"""

from __future__ import annotations

import base64
import contextlib
import os
import secrets
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, NamedTuple
from uuid import UUID

import msgspec
from msgspec import Struct

from crypto.end_to_end import DeviceName, DevicePrivateKey, KeyInvalid

Trust = Literal["first_use", "trusted", "changed", "refused"]
"""`first_use` and `trusted` keys are used, a `changed` one waits for a decision, a `refused` one is passed over."""


class DeviceError(Exception):
    """The device's file cannot be used; the message says why and what to do."""


class PublicKey(NamedTuple):
    """A device as the server lists it; the key is base64."""

    user_id: UUID
    device_id: str
    key: str


class _Seen(Struct):
    device_id: str
    trust: Trust


class _State(Struct):
    """What is in the file. `newest` has the highest key version seen of each chatroom."""

    device_id: str
    private_key: bytes
    user_id: UUID | None = None
    seen: dict[UUID, dict[str, _Seen]] = {}
    newest: dict[UUID, int] = {}


_decode = msgspec.json.Decoder(_State).decode
_encode = msgspec.json.Encoder().encode


class Device:
    """This end of every conversation. A file belongs to one process at a time."""

    def __init__(self, path: Path, state: _State) -> None:
        self._path = path
        self._state = state
        self.key = DevicePrivateKey(state.private_key)

    @classmethod
    def load(cls, path: str | Path) -> Device:
        """The device in this file; a new one, with a file of mode 0600, where there is none. Raises DeviceError."""
        path = Path(path)
        try:
            if not path.exists():
                _create(path, _State(secrets.token_hex(8), DevicePrivateKey.generate().private_bytes()))
            if stat.S_IMODE(path.stat().st_mode) & 0o077:
                raise DeviceError(f"{path} holds a private key and can be read by others: chmod 600 {path}")
            return cls(path, _decode(path.read_bytes()))
        except OSError as error:
            raise DeviceError(f"{path} cannot be used: {error.strerror}.") from error
        except (msgspec.MsgspecError, KeyInvalid):
            raise DeviceError(f"{path} is no device's file.") from None

    # --- this device ---------------------------------------------------------------------------

    @property
    def id(self) -> str:
        """Its own id, chosen when it was made."""
        return self._state.device_id

    @property
    def public_key(self) -> str:
        """Its public key, in base64."""
        return base64.b64encode(self.key.public).decode()

    @property
    def user_id(self) -> UUID | None:
        """Whose device it is; None before its key was published."""
        return self._state.user_id

    def name(self, user_id: UUID) -> DeviceName:
        """As wraps name it."""
        return DeviceName(user_id, self.id)

    def published(self, user_id: UUID) -> None:
        """Its key is known to others from now on, as this user's."""
        self._state.user_id = user_id
        self._state.seen.setdefault(user_id, {})[self.public_key] = _Seen(self.id, "trusted")
        self._save()

    # --- keys of others ------------------------------------------------------------------------

    def meet(self, keys: Iterable[PublicKey]) -> list[tuple[PublicKey, Trust]]:
        """Takes note of keys that the server lists, and returns the ones never seen before."""
        known = set(self._state.seen)
        news: list[tuple[PublicKey, Trust]] = []
        for key in keys:
            seen = self._state.seen.setdefault(key.user_id, {})
            if key.key not in seen:
                trust: Trust = "changed" if key.user_id in known else "first_use"
                seen[key.key] = _Seen(key.device_id, trust)
                news.append((key, trust))
        if news:
            self._save()
        return news

    def trust_of(self, user_id: UUID, key: str) -> Trust | None:
        """What is thought of a key; None for one that was never seen."""
        seen = self._state.seen.get(user_id, {}).get(key)
        return None if seen is None else seen.trust

    def keys_of(self, user_id: UUID) -> dict[str, Trust]:
        """Every key that was ever seen of a user."""
        return {key: seen.trust for key, seen in self._state.seen.get(user_id, {}).items()}

    def decide(self, user_id: UUID, keys: Iterable[str], trust: Trust) -> None:
        """The user of this client says what these keys are."""
        for key in keys:
            self._state.seen[user_id][key].trust = trust
        self._save()

    # --- chatrooms -----------------------------------------------------------------------------

    def newest(self, chatroom_id: UUID) -> int:
        """The highest key version that this device has ever seen of a chatroom."""
        return self._state.newest.get(chatroom_id, 0)

    def saw(self, chatroom_id: UUID, version: int) -> None:
        """There is this version, or there has to be."""
        if version > self.newest(chatroom_id):
            self._state.newest[chatroom_id] = version
            self._save()

    def _save(self) -> None:
        """Puts the new file in the old one's place at once, so that no crash leaves half of one."""
        temporary = _write_beside(self._path, self._state)
        temporary.replace(self._path)


def _create(path: Path, state: _State) -> None:
    """Makes the file, unless another process has just done so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _write_beside(path, state)
    with contextlib.suppress(FileExistsError):
        path.hardlink_to(temporary)
    temporary.unlink()


def _write_beside(path: Path, state: _State) -> Path:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(_encode(state))
        file.flush()
        os.fsync(file.fileno())
    return temporary
