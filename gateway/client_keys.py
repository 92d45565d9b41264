"""End-to-end encryption for the Python client: publishes its device's key, and knows the keys of others.

    async with connect(url, token, device=Device.load("ann.device")) as client:
        room = client.room(chatroom_id)
        await room.send_encrypted("only members can read this")
        async for event in client:
            if event.event == "message_received":
                print(await room.open(event.data.message))

The first keys that are seen of a user are trusted, and told as an event
`device_key_first_seen`. Any further key is told as `device_key_changed`: a new
device, or somebody in between. Nothing is wrapped for it, and no sending
succeeds in its chatrooms (KeyChanged), until `keys.trust` or `keys.refuse` has
said which it is; `keys.safety_number` is what two users compare to find out.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

from crypto.end_to_end import KeyInvalid, decode_public_key, fingerprint, safety_number
from gateway.client_device import Device, PublicKey, Trust
from gateway.client_effects import ClientEvent
from protocol import commands, events
from protocol.commands import Command
from protocol.events import Event

Ask = Callable[[Command], Awaitable[Any]]
"""Sends a command and returns its answer."""

USED: tuple[Trust, ...] = ("first_use", "trusted")
"""Keys that something is wrapped for, and wraps of which are opened."""


class EndToEndError(Exception):
    """Something is not as end-to-end encryption needs it to be."""


class CannotOpen(EndToEndError):
    """A message or a file that does not open; `why` is one of the table below."""

    def __init__(self, why: Literal["not_encrypted", "sealed", "no_key", "broken"]) -> None:
        self.why = why
        super().__init__(_WHY[why])


_WHY = {
    "not_encrypted": "the message is text that was not encrypted, or the file one that was not sealed",
    "sealed": "the sender has sealed the file for members: client.room(…).download_file opens it",
    "no_key": "this device has not been given the key: it came later, or was left out",
    "broken": "it was changed, moved here from elsewhere, or sealed by other means",
}


class KeysWentBack(EndToEndError):
    """The server offers an older key than it did before, which former members may have. Nothing is written with it.

    It hides a removal, or was restored from a backup; after a backup, a new device's file begins anew.
    """


class DeviceRevoked(EndToEndError):
    """The device's key was removed or replaced: it gets no more keys. Delete its file, and it becomes a new device."""


@dataclass(frozen=True, slots=True)
class DeviceFingerprint:
    """A device's key, for people."""

    user_id: UUID
    device_id: str
    fingerprint: str
    trust: Trust


class KeyChanged(EndToEndError):
    """Users have devices or keys that were not there before; `changed` are those that `keys` was told nothing about."""

    def __init__(self, changed: Iterable[DeviceFingerprint]) -> None:
        self.changed = tuple(changed)
        shown = "; ".join(f"{one.device_id} of user {one.user_id}: {one.fingerprint}" for one in self.changed)
        super().__init__(f"not verified: {shown}. Compare with their user, then trust or refuse.")


# --- events that the client makes ------------------------------------------------------------


class DeviceKeyFirstSeen(Event, frozen=True, kw_only=True):
    """A user's first keys were seen: they are trusted from now on."""

    user_id: UUID
    device_id: str
    fingerprint: str


class DeviceKeyChanged(Event, frozen=True, kw_only=True):
    """A known user has another key: a new device, a replaced one, or somebody in between. It is not used."""

    user_id: UUID
    device_id: str
    fingerprint: str


# --- keys ------------------------------------------------------------------------------------


class Keys:
    """The keys of users, as this device sees them. `tell` takes the events that come of it."""

    def __init__(self, ask: Ask, me: UUID, device: Device, tell: Callable[[ClientEvent], None]) -> None:
        self.ask = ask
        self._tell = tell
        self._publishing = asyncio.Lock()
        self.me = me
        self.device = device

    @property
    def own(self) -> PublicKey:
        """This device, as the server lists it."""
        return PublicKey(self.me, self.device.id, self.device.public_key)

    @property
    def fingerprint(self) -> str:
        """That of this device."""
        return fingerprint(self.me, self.device.key.public)

    async def publish(self) -> None:
        """Publishes this device's key, once and for all. Raises DeviceRevoked."""
        async with self._publishing:
            if self.device.user_id not in (None, self.me):
                raise DeviceRevoked("this file is the device of another user")
            listed = await self._listed(self.me)
            present = next((key for key in listed if key.device_id == self.device.id), None)
            if present is None and self.device.user_id is None:
                await self.ask(commands.PutDeviceKey(device_id=self.device.id, public_key=self.device.public_key))
            elif present is None or present.key != self.device.public_key:
                raise DeviceRevoked(f"the server has no such key of device {self.device.id} any more")
            if self.device.user_id is None:
                self.meet(key for key in listed if key.device_id != self.device.id)
                self.device.published(self.me)

    async def _listed(self, user_id: UUID) -> list[PublicKey]:
        listed: events.DeviceKeysListed = await self.ask(commands.GetUserKeys(user_id=user_id))
        return [PublicKey(user_id, key.device_id, key.public_key) for key in listed.keys]

    def meet(self, keys: Iterable[PublicKey]) -> None:
        """Takes note of keys that the server lists. What is no key at all is passed over."""
        seen = self.device.trust_of
        for key, trust in self.device.meet(key for key in keys if seen(key.user_id, key.key) or _is_key(key.key)):
            kind = DeviceKeyFirstSeen if trust == "first_use" else DeviceKeyChanged
            name = "device_key_first_seen" if trust == "first_use" else "device_key_changed"
            shown = self.shown(key)
            data = kind(user_id=key.user_id, device_id=key.device_id, fingerprint=shown.fingerprint)
            self._tell(ClientEvent(name, data))

    def usable(self, keys: Iterable[PublicKey]) -> list[PublicKey]:
        """Those of the keys that something may be wrapped for. Raises KeyChanged for one that waits for a decision."""
        listed = list(keys)
        self.meet(listed)
        if changed := [key for key in listed if self.device.trust_of(key.user_id, key.key) == "changed"]:
            raise KeyChanged(self.shown(key) for key in changed)
        return [key for key in listed if self.device.trust_of(key.user_id, key.key) in USED]

    def check_sender(self, sender: PublicKey) -> None:
        """Raises KeyChanged unless this key was seen as the user's, and is trusted; KeyInvalid for what is none."""
        decode_public_key(sender.key)
        if self.device.trust_of(sender.user_id, sender.key) not in USED:
            raise KeyChanged([self.shown(sender)])

    def shown(self, key: PublicKey) -> DeviceFingerprint:
        """A key for people. One that was never seen counts as changed."""
        trust = self.device.trust_of(key.user_id, key.key) or "changed"
        shown = fingerprint(key.user_id, base64.b64decode(key.key))
        return DeviceFingerprint(key.user_id, key.device_id, shown, trust)

    # --- what people decide --------------------------------------------------------------------

    async def fingerprints(self, user_id: UUID | str) -> list[DeviceFingerprint]:
        """The present keys of a user, as the server lists them."""
        listed = await self._listed(_uuid(user_id))
        self.meet(listed)
        return [self.shown(key) for key in listed if _is_key(key.key)]

    async def safety_number(self, user_id: UUID | str) -> str:
        """60 digits for two users to compare: the same at both ends if the server shows each the other's real keys."""
        ours, theirs = await self._present(self.me), await self._present(_uuid(user_id))
        return await asyncio.to_thread(safety_number, (self.me, ours), (_uuid(user_id), theirs))

    async def _present(self, user_id: UUID) -> list[bytes]:
        listed = await self._listed(user_id)
        self.meet(listed)
        keys = [key.key for key in listed if _is_key(key.key)]
        return [base64.b64decode(key) for key in keys if self.device.trust_of(user_id, key) != "refused"]

    def trust(self, user_id: UUID | str, fingerprint: str | None = None) -> None:
        """These keys are the user's: all that were seen, or the one with this fingerprint. They are used."""
        self._decide(_uuid(user_id), fingerprint, ("first_use", "changed"), "trusted")

    def refuse(self, user_id: UUID | str, fingerprint: str | None = None) -> None:
        """The user's changed keys are not theirs: all, or the one with this fingerprint. Sending passes them over."""
        self._decide(_uuid(user_id), fingerprint, ("changed",), "refused")

    def _decide(self, user_id: UUID, wanted: str | None, undecided: tuple[Trust, ...], trust: Trust) -> None:
        known = self.device.keys_of(user_id)
        if wanted is None:
            chosen = [key for key, old in known.items() if old in undecided]
        else:
            chosen = [key for key in known if fingerprint(user_id, base64.b64decode(key)) == wanted]
            if not chosen:
                raise ValueError(f"no key that was seen of user {user_id} has the fingerprint {wanted}")
        self.device.decide(user_id, chosen, trust)


def _is_key(text: str) -> bool:
    try:
        decode_public_key(text)
    except KeyInvalid:
        return False
    return True


def _uuid(value: UUID | str) -> UUID:
    return value if isinstance(value, UUID) else UUID(value)
