"""A chatroom that is written to end to end: makes, hands out, takes and rotates its key as the protocol page says."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple
from uuid import UUID, uuid4

import msgspec

from crypto.end_to_end import DeviceName, FilePlace, KeyInvalid, Place, Wrap
from crypto.sealing import SealBroken, new_key
from gateway.client_device import PublicKey
from gateway.client_effects import ClientEvent
from gateway.client_files import Files, Progress
from gateway.client_keys import CannotOpen, DeviceRevoked, KeyChanged, Keys, KeysWentBack
from gateway.client_sealing import FileInfo, OpeningTarget, SealedFile, destination, message_type_of
from protocol import commands, events
from protocol.errors import ChatError
from protocol.models import Attachment, EncryptedContent, FileReference, KeyWrap, MemberDevice, Message, WrappedKey

ATTEMPTS = 8
"""Times that a message is sealed again because its key went out of use in that moment."""

ROUNDS = 100
"""Times that keys are looked at anew in a row: one for each command of a large chatroom, and for each race."""

WRAPS = 150
"""Wrapped keys in one command: fewer than it may have, so that they fit into a frame whatever devices are called."""

CHECK_EVERY = 60.0
"""Seconds after which a sender looks again for devices that lack the key: a new device is no event."""

LAST_VERSION = 2**31 - 1
"""The highest version that there can be, and that nobody will reach."""

MOVES = frozenset(
    {"user_joined", "user_left", "key_rotation_needed", "history_gap", "chatroom_gained", "chatroom_lost"}
)
"""Events after which the key may be another, or others may need it."""

_RACES = ("RESOURCE_ALREADY_EXISTS", "RESOURCE_NOT_FOUND")
"""Refusals of wrapped keys that mean: somebody was faster, look again."""


SEALED_NAME = "file"
"""What the server is told as a sealed file's name."""


class SealedUpload(NamedTuple):
    """A sealed file that is on the server, by its id there."""

    id: UUID
    info: FileInfo


def _reference(place: FilePlace, room_key: bytes, info: FileInfo) -> FileReference:
    data, iv = place.seal(room_key, msgspec.json.encode(info))
    version = place.message.key_version
    return FileReference(id=place.file_id, encrypted=EncryptedContent(encrypted_data=data, iv=iv, key_version=version))


def _restless() -> ChatError:
    return ChatError("SERVICE_UNAVAILABLE", "Others change the keys of this chatroom without end; try again later.")


class _Held(NamedTuple):
    """A version of the room's key that is here, and the device that gave it."""

    key: bytes
    giver: PublicKey


class EncryptedRoom:
    """One chatroom, made by `Client.room`."""

    def __init__(self, keys: Keys, chatroom_id: UUID, files: Files) -> None:
        self.id = chatroom_id
        self._keys = keys
        self._files = files
        self._held: dict[int, _Held] = {}
        self._preparing = asyncio.Lock()
        self._version = 0
        self._checked_at: float | None = None

    # --- writing -------------------------------------------------------------------------------

    async def send_encrypted(
        self,
        text: str,
        reply_to: UUID | str | None = None,
        message_type: Literal["text", "image", "file"] = "text",
        client_id: str | None = None,
        files: Sequence[SealedUpload] = (),
    ) -> events.MessageSent:
        """Writes a message that only members can open; returns when it is on disk.

        `files` are those of `upload_file`. Raises KeyChanged while a member has a key that nobody has vouched for,
        DeviceRevoked, KeysWentBack, and ChatError as `send_message` does.
        """
        answers = UUID(reply_to) if isinstance(reply_to, str) else reply_to
        client_id = client_id or str(uuid4())
        for _ in range(ATTEMPTS):
            place = Place(self.id, self._keys.me, await self._prepare(), message_type, answers)
            try:
                sent: events.MessageSent = await self._keys.ask(
                    self._sealed(place, text, message_type, files, client_id)
                )
                return sent
            except ChatError as error:
                if error.code != "MESSAGE_KEY_OUTDATED":
                    raise
                self._checked_at = None
        raise _restless()

    def _sealed(
        self,
        place: Place,
        text: str,
        message_type: Literal["text", "image", "file"],
        files: Sequence[SealedUpload],
        client_id: str,
    ) -> commands.SendMessage:
        key = self._held[place.key_version].key
        data, iv = place.seal(key, text)
        return commands.SendMessage(
            chatroom_id=self.id,
            content=EncryptedContent(encrypted_data=data, iv=iv, key_version=place.key_version),
            message_type=message_type,
            reply_to=place.reply_to,
            client_id=client_id,
            attachments=[_reference(place.file(iv, file.id), key, file.info) for file in files],
        )

    def heard(self, event: ClientEvent) -> None:
        """An event has come."""
        if event.event in MOVES:
            self._checked_at = None

    async def upload_file(
        self, path: str | Path, *, name: str | None = None, progress: Progress | None = None
    ) -> SealedUpload:
        """Seals a file under a key of its own, and uploads it, to be sent with a message of this chatroom.

        The server learns its size, and neither its name nor its type. Raises ChatError, OSError where it cannot be
        read, and FileChanged.
        """
        source = await asyncio.to_thread(SealedFile, Path(path), name or Path(path).name)
        fields = {"chatroom_id": str(self.id), "encrypted": "true"}
        file = await self._files.upload(source, SEALED_NAME, fields, progress)
        return SealedUpload(file.id, source.info())

    async def send_file(
        self,
        path: str | Path,
        text: str = "",
        *,
        name: str | None = None,
        reply_to: UUID | str | None = None,
        client_id: str | None = None,
        progress: Progress | None = None,
    ) -> events.MessageSent:
        """Uploads a file and sends it, with words or without, for members alone.

        Raises what `upload_file` and `send_encrypted` do.
        """
        await self._prepare()  # what cannot be sent is not uploaded
        file = await self.upload_file(path, name=name, progress=progress)
        return await self.send_encrypted(text, reply_to, message_type_of(file.info.file_type), client_id, [file])

    async def _prepare(self) -> int:
        """The version to write under, which every device that should has been given."""
        async with self._preparing:
            if self._checked_at is None or time.monotonic() - self._checked_at > CHECK_EVERY:
                started = time.monotonic()
                self._checked_at = started
                try:
                    self._version = await self._agree()
                except BaseException:
                    self._checked_at = None
                    raise
            return self._version

    async def _agree(self) -> int:
        """Makes a new version if one is due, and hands the newest to who lacks it, until there is nothing to do."""
        for _ in range(ROUNDS):
            state = await self._fetch()
            devices = self._usable(state)
            self._note(state)
            if self._is_new_due(state, devices):
                await self._put(state.key_version + 1, new_key(), list(devices.values()), is_new=True)
            elif lacking := [device for device in devices.values() if not device.has_key]:
                await self._put(state.key_version, self._held[state.key_version].key, lacking, is_new=False)
            else:
                return state.key_version
        raise _restless()

    def _note(self, state: events.ChatroomKeysFetched) -> None:
        """Remembers what a member has vouched for: the newest key that is here, and that it is out of use."""
        newest = max(self._held, default=0)
        self._keys.device.saw(self.id, newest + 1 if state.min_key_version > newest > 0 else newest)

    def _usable(self, state: events.ChatroomKeysFetched) -> dict[PublicKey, MemberDevice]:
        listed = {PublicKey(one.user_id, one.device_id, one.public_key): one for one in state.devices}
        if self._keys.own not in listed:
            raise DeviceRevoked("this device is no longer among those of the chatroom's members")
        return {key: listed[key] for key in self._keys.usable(listed)}

    def _is_new_due(self, state: events.ChatroomKeysFetched, devices: Mapping[PublicKey, MemberDevice]) -> bool:
        """After a removal, for newcomers, and where no present member's device gave the newest to this one."""
        newest = state.key_version
        held = self._held.get(newest)
        if newest < state.min_key_version or held is None or held.giver not in devices:
            return True
        if newest < self._keys.device.newest(self.id):
            raise KeysWentBack(f"version {newest}, after {self._keys.device.newest(self.id)}")
        return any(device.is_newcomer and not device.has_key for device in devices.values())

    async def _put(self, version: int, key: bytes, devices: list[MemberDevice], *, is_new: bool) -> None:
        """Wraps a version for these devices, this one first; others may have been faster."""
        if is_new and version < self._keys.device.newest(self.id):
            raise KeysWentBack(f"version {version} would be new, after {self._keys.device.newest(self.id)}")
        own = self._keys.own
        devices = sorted(devices, key=lambda one: one.public_key != own.key)
        command = commands.PutChatroomKeys(
            chatroom_id=self.id,
            key_version=version,
            sender_device_id=own.device_id,
            sender_public_key=own.key,
            keys=[self._wrap(version, key, device) for device in devices[:WRAPS]],
            is_new=is_new,
        )
        try:
            await self._keys.ask(command)
        except ChatError as error:
            if error.code not in _RACES:
                raise
            return
        self._held[version] = _Held(key, self._keys.own)

    def _wrap(self, version: int, key: bytes, device: MemberDevice) -> KeyWrap:
        name = DeviceName(device.user_id, device.device_id)
        wrap = Wrap(self.id, version, self._keys.device.name(self._keys.me), name)
        closed = wrap.close(key, self._keys.device.key, base64.b64decode(device.public_key))
        return KeyWrap(
            user_id=device.user_id, device_id=device.device_id, public_key=device.public_key, wrapped_key=closed
        )

    # --- reading -------------------------------------------------------------------------------

    async def open(self, message: Message) -> str:
        """The text of an encrypted message of this chatroom.

        Raises CannotOpen, which says why; and KeyChanged where its key came from a device that nobody has vouched for.
        """
        content = message.content
        if isinstance(content, str):
            raise CannotOpen("not_encrypted")
        key = await self._key(content.key_version)
        place = Place(self.id, message.user_id, content.key_version, message.message_type, message.reply_to)
        try:
            return place.open(key, content.encrypted_data, content.iv)
        except SealBroken:
            raise CannotOpen("broken") from None

    async def open_attachment(self, message: Message, attachment: Attachment) -> FileInfo:
        """What a sealed file of a message is. Raises CannotOpen and KeyChanged, as `open` does."""
        sealed, content = attachment.encrypted, message.content
        if sealed is None or isinstance(content, str):
            raise CannotOpen("not_encrypted")
        key = await self._key(sealed.key_version)
        place = Place(self.id, message.user_id, sealed.key_version, message.message_type, message.reply_to)
        try:
            info = place.file(content.iv, attachment.id).open(key, sealed.encrypted_data, sealed.iv)
            return msgspec.json.decode(info, type=FileInfo)
        except (SealBroken, msgspec.MsgspecError):
            raise CannotOpen("broken") from None

    async def download_file(
        self, message: Message, attachment: Attachment, path: str | Path, *, progress: Progress | None = None
    ) -> Path:
        """Opens and saves a sealed file, under its own name where `path` is a folder, and says where it is.

        It is there when all of it was found to be what the sender has sealed. Raises what `open_attachment` does,
        ChatError, OSError, and FileExistsError in a folder.
        """
        info = await self.open_attachment(message, attachment)
        place = await asyncio.to_thread(destination, path, info.filename)
        target = await asyncio.to_thread(OpeningTarget, place, info)
        try:
            await self._files.download(attachment.id, attachment.file_size, target, progress)
        except SealBroken:
            raise CannotOpen("broken") from None
        return place.path

    async def _key(self, version: int) -> bytes:
        if version not in self._held:
            fetched = await self._fetch(before=min(version + 1, LAST_VERSION))
            wrapped = next((key for key in fetched.keys if key.key_version == version), None)
            if wrapped is None:
                raise CannotOpen("no_key")
            if version not in self._held:
                self._take(wrapped)
        return self._held[version].key

    async def _fetch(self, before: int | None = None) -> events.ChatroomKeysFetched:
        """What the server has for this device; all of it that opens, and comes from whom it should, is kept."""
        command = commands.GetChatroomKeys(chatroom_id=self.id, device_id=self._keys.device.id, before=before)
        try:
            fetched: events.ChatroomKeysFetched = await self._keys.ask(command)
        except ChatError as error:
            if error.code == "RESOURCE_NOT_FOUND":
                raise DeviceRevoked("the server knows no such device any more") from None
            raise
        self._keys.meet(PublicKey(one.user_id, one.device_id, one.public_key) for one in fetched.devices)
        for wrapped in fetched.keys:
            if wrapped.key_version not in self._held:
                # `_key` says what is wrong when the version is needed, and `_agree` makes another one.
                with contextlib.suppress(CannotOpen, KeyChanged):
                    self._take(wrapped)
        return fetched

    def _take(self, wrapped: WrappedKey) -> None:
        """Opens a wrapped key that a trusted device made. Raises CannotOpen, KeyChanged."""
        sender = PublicKey(wrapped.sender_id, wrapped.sender_device_id, wrapped.sender_public_key)
        wrap = Wrap(
            self.id,
            wrapped.key_version,
            DeviceName(sender.user_id, sender.device_id),
            self._keys.device.name(self._keys.me),
        )
        try:
            self._keys.check_sender(sender)
            key = wrap.open(wrapped.wrapped_key, self._keys.device.key, base64.b64decode(sender.key))
        except (SealBroken, KeyInvalid, OverflowError):  # the last for a version that is none
            raise CannotOpen("no_key") from None
        self._held[wrapped.key_version] = _Held(key, sender)
