"""The Python client: for bots, for tests and for the bench.

    async with connect("ws://127.0.0.1:8000/ws", token) as client:
        await client.send_message(chatroom_id, "hello")
        async for event in client:
            print(event.event, event.data)

A broken connection is the client's business, not the user's. It reconnects with
jittered backoff (at once where the server asks for that), resumes or catches up
by `sync`, and sends again what was not answered. When its node stops and another
is there, it moves over before the connection breaks. A chatroom's durable events
come once and in order, without a hole, unless an event says otherwise:

- `history_gap {chatroom_id, from_seq, to_seq}`: too much was missed, fetch history;
- `chatroom_gained {chatroom_id, seq}` and `chatroom_lost {chatroom_id}`: the user's
  membership changed while events could not reach this client.

These three are made by the client and have no seq of their own. An `error`
event is an error of the server that belongs to no command.

**Answers.** A call returns when the server has answered, and waits through
reconnects; put `asyncio.timeout` around it to wait less. A command whose error
is retryable is sent up to 6 times with growing delays: any command over the rate
limit (after `retry_after`), and otherwise only those that may be handled twice
without harm. Messages may be, since each gets a `client_id`; something like
`create_chatroom` may not, so if its session is lost before the answer came it
fails with SERVICE_UNAVAILABLE and "the outcome is unknown".

**Reading.** Events wait in memory for `async for`. With 1,024 waiting the client
stops reading from the socket, and the server's limits for slow readers apply;
it reads on while a call waits for its answer. Who has not begun to read, as a bot
that only sends, is kept the first 256 events; if reading begins later, what
is missing comes as `history_gap`. The state (`client.chatrooms`) is followed
in any case.

**End to end.** With a `device`, `client.room(chatroom_id)` writes and opens messages that only
members can read; gateway/client_keys.py says how, and which events and errors belong to it.

**Files** go by HTTP, to the URL's host (gateway/client_address.py says where else): streamed, and
going on after a cut. `send_file`, `upload_file` and `download_file`; in a `room` they seal and open.
They need a token, which a function is asked for once more with each attempt; a bot that uploads needs
the scopes `write` and, since it is told what became of the file, `read`.

**Errors.** A refused command raises ChatError. When the server says not to come
back (close codes 4000-4099), waiting calls and the `async for` raise ClientClosed.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal
from uuid import UUID, uuid4

from msgspec.structs import replace

from gateway.client_address import parse_address
from gateway.client_commands import RESULTS
from gateway.client_device import Device, DeviceError
from gateway.client_effects import ChatroomGained, ChatroomLost, ClientClosed, ClientEvent, HistoryGap
from gateway.client_encrypted_room import EncryptedRoom
from gateway.client_files import Files, Progress
from gateway.client_io import ClientIO, Token
from gateway.client_keys import CannotOpen, DeviceRevoked, EndToEndError, KeyChanged, Keys, KeysWentBack
from gateway.client_sealing import FileChanged, FileInfo, PlainFile, Target, destination, message_type_of
from gateway.client_way import Way
from protocol import commands, events
from protocol.codec import CODECS
from protocol.commands import Command
from protocol.errors import ChatError
from protocol.models import Attachment, ChatroomState, Content, FileReference, UploadedFile, User

__all__ = [
    "CannotOpen",
    "ChatError",
    "ChatroomGained",
    "ChatroomLost",
    "Client",
    "ClientClosed",
    "ClientEvent",
    "Device",
    "DeviceError",
    "DeviceRevoked",
    "EncryptedRoom",
    "EndToEndError",
    "FileChanged",
    "FileInfo",
    "HistoryGap",
    "KeyChanged",
    "Keys",
    "KeysWentBack",
    "connect",
]

CLOSED_BY_USER = 1000


@asynccontextmanager
async def connect(
    url: str,
    token: Token | None = None,
    *,
    codec: Literal["json", "msgpack"] = "json",
    private_key: bytes | None = None,
    tls: ssl.SSLContext | None = None,
    device: Device | None = None,
) -> AsyncIterator[Client]:
    """A client with an open session; leaving the block closes it.

    `url` chooses the transport: `ws://host:8000/ws`, `parley://host:8001` and the others
    of gateway/client_address.py. `token` is an access token or an API key, or a function
    (plain or async) that returns a fresh one: it is called for each connection, and when
    the token of a live session runs out. OSError, TimeoutError and retryable ChatErrors
    from it mean "try again later"; any other exception ends the client.

    `private_key`, 32 bytes of X25519, is a bot's own: the handshake shows it, and no
    token is needed. `tls` replaces the default context, for a certificate authority of one's own.
    `device` is what `client.room` writes and reads end-to-end encrypted messages with
    (gateway/client_keys.py); its public key is published. Raises DeviceRevoked where that
    was removed, ChatError where it is refused.

    While the server cannot be reached, entering waits (a warning is logged for each
    attempt). Raises ClientClosed if the server refuses the token or the client, ValueError
    for a wrong URL.
    """
    if (token is None) == (private_key is None):
        raise ValueError("a client needs either a token or, under Noise, a private key")
    way = Way(parse_address(url), CODECS[codec], private_key, tls)
    io = ClientIO(way.name, way.open, token, CODECS[codec])
    files = Files(way.http, way.tls, io.fresh_token)
    try:
        await io.open()
        client = Client(io, files, device)
        if device is not None:
            await client.keys.publish()
        yield client
    finally:
        await files.close()
        await io.close()


class Client:
    """An open client, made by `connect`. `async for event in client` yields ClientEvents."""

    def __init__(self, io: ClientIO, files: Files, device: Device | None = None) -> None:
        self._io = io
        self._files = files
        self._device = device
        self._rooms: dict[UUID, EncryptedRoom] = {}
        io.inbox.watch = self._heard

    # --- what is known -------------------------------------------------------------------------

    @property
    def user(self) -> User:
        """Who is signed in."""
        user = self._io.state.user
        if user is None:
            raise RuntimeError("there has been no session yet")
        return user

    @property
    def session_id(self) -> UUID | None:
        """The session's public id; None while a lost session is being replaced."""
        return self._io.state.session_id

    @property
    def chatrooms(self) -> Mapping[UUID, ChatroomState]:
        """The user's chatrooms by id. Each `seq` is that of its newest event that this client has had."""
        return MappingProxyType(self._io.state.chatrooms)

    # --- end to end ----------------------------------------------------------------------------

    @cached_property
    def keys(self) -> Keys:
        """The keys of users, for fingerprints and trust; `connect` needs a `device` for it."""
        if self._device is None:
            raise RuntimeError("end-to-end encryption needs a device: connect(…, device=Device.load(path))")
        return Keys(self.call, self.user.id, self._device, self._io.inbox.put)

    def room(self, chatroom_id: UUID | str) -> EncryptedRoom:
        """A chatroom to write and read end-to-end encrypted messages in."""
        room_id = _uuid(chatroom_id)
        if room_id not in self._rooms:
            self._rooms[room_id] = EncryptedRoom(self.keys, room_id, self._files)
        return self._rooms[room_id]

    def _heard(self, event: ClientEvent) -> None:
        if event.chatroom_id in self._rooms:
            self._rooms[event.chatroom_id].heard(event)

    # --- events --------------------------------------------------------------------------------

    def __aiter__(self) -> Client:
        return self

    async def __anext__(self) -> ClientEvent:
        try:
            event = await self._io.inbox.get()
        except ClientClosed as closed:
            if closed.code == CLOSED_BY_USER:
                raise StopAsyncIteration from None
            raise
        self._io.may_read()
        return event

    # --- commands ------------------------------------------------------------------------------

    async def call(self, command: Command) -> Any:
        """Sends any command that a user may send on a socket; returns the struct of its answer, None where it is empty.

        Raises ChatError if the server refuses it, ClientClosed if the client has ended, and
        TypeError for a command that is not for sockets.
        """
        if type(command) not in RESULTS:
            raise TypeError(f"{type(command).__name__} is not a command for a client's socket")
        if isinstance(command, commands.SendMessage) and command.client_id is None:
            command = replace(command, client_id=str(uuid4()))
        return await self._io.ask(command)

    async def send_message(
        self,
        chatroom_id: UUID | str,
        content: Content,
        reply_to: UUID | str | None = None,
        message_type: Literal["text", "image", "file"] = "text",
        client_id: str | None = None,
        attachments: Sequence[FileReference] = (),
    ) -> events.MessageSent:
        """Writes a message; returns when it is on disk. The same `client_id` again gives the same message."""
        sent: events.MessageSent = await self.call(
            commands.SendMessage(
                chatroom_id=_uuid(chatroom_id),
                content=content,
                reply_to=None if reply_to is None else _uuid(reply_to),
                message_type=message_type,
                client_id=client_id,
                attachments=list(attachments),
            )
        )
        return sent

    async def recall_message(self, chatroom_id: UUID | str, message_id: UUID | str) -> None:
        """Takes a message back: everyone gets `message_recalled`, and history shows it empty."""
        await self.call(commands.RecallMessage(chatroom_id=_uuid(chatroom_id), message_id=_uuid(message_id)))

    async def fetch_messages(
        self,
        chatroom_id: UUID | str,
        before: str | int | None = None,
        after: str | int | None = None,
        limit: int = 50,
        page: int = 1,
    ) -> events.MessagesFetched:
        """Reads history: newest first, or oldest first with `after`.

        A cursor is a seq, a message id or an ISO 8601 time.
        """
        fetched: events.MessagesFetched = await self.call(
            commands.FetchMessages(chatroom_id=_uuid(chatroom_id), before=before, after=after, limit=limit, page=page)
        )
        return fetched

    async def join_chatroom(self, chatroom_id: UUID | str) -> events.ChatroomOpened:
        """Opens a chatroom: typing, presence and read receipts come from now on, also after a reconnect."""
        opened: events.ChatroomOpened = await self.call(commands.JoinChatroom(chatroom_id=_uuid(chatroom_id)))
        return opened

    async def leave_chatroom(self, chatroom_id: UUID | str) -> None:
        """Closes a chatroom that was opened. The membership stays."""
        await self.call(commands.LeaveChatroom(chatroom_id=_uuid(chatroom_id)))

    async def typing_start(self, chatroom_id: UUID | str) -> None:
        """Tells those who have the chatroom open that the user has begun to type."""
        await self.call(commands.TypingStart(chatroom_id=_uuid(chatroom_id)))

    async def typing_stop(self, chatroom_id: UUID | str) -> None:
        """Tells those who have the chatroom open that the user has stopped typing."""
        await self.call(commands.TypingStop(chatroom_id=_uuid(chatroom_id)))

    async def message_read(
        self, chatroom_id: UUID | str, message_id: UUID | str | None = None, seq: int | None = None
    ) -> events.ReadPosition:
        """Moves the read position up to a message, or to a seq. It never moves back."""
        position: events.ReadPosition = await self.call(
            commands.MessageRead(
                chatroom_id=_uuid(chatroom_id),
                message_id=None if message_id is None else _uuid(message_id),
                seq=seq,
            )
        )
        return position

    # --- files ---------------------------------------------------------------------------------

    async def upload_file(
        self,
        path: str | Path,
        *,
        name: str | None = None,
        chatroom_id: UUID | str | None = None,
        expires_in: int | None = None,
        progress: Progress | None = None,
    ) -> UploadedFile:
        """Uploads a file, to be named in messages later; `chatroom_id` is where it will be.

        Raises ChatError, OSError where it cannot be read, and FileChanged.
        """
        source = await asyncio.to_thread(PlainFile, Path(path))
        fields = {} if chatroom_id is None else {"chatroom_id": str(chatroom_id)}
        if expires_in is not None:
            fields["expires_in"] = str(expires_in)
        return await self._files.upload(source, name or Path(path).name, fields, progress)

    async def send_file(
        self,
        chatroom_id: UUID | str,
        path: str | Path,
        content: str = "",
        *,
        name: str | None = None,
        reply_to: UUID | str | None = None,
        client_id: str | None = None,
        progress: Progress | None = None,
    ) -> events.MessageSent:
        """Uploads a file and sends it, with words or without. Where members encrypt, it is sealed first (`room`).

        Raises ChatError, OSError where it cannot be read, and FileChanged.
        """
        fetched = await self.call(commands.GetChatroom(chatroom_id=_uuid(chatroom_id)))
        if fetched.chatroom.encryption_enabled:
            if self._device is None:
                raise ChatError("MESSAGE_ENCRYPTION_FAILED", "Files are sealed here, which takes a device.")
            room = self.room(chatroom_id)
            return await room.send_file(
                path, content, name=name, reply_to=reply_to, client_id=client_id, progress=progress
            )
        file = await self.upload_file(path, name=name, chatroom_id=chatroom_id, progress=progress)
        kind = message_type_of(file.file_type)
        return await self.send_message(chatroom_id, content, reply_to, kind, client_id, [FileReference(id=file.id)])

    async def download_file(
        self, attachment: Attachment, path: str | Path, *, progress: Progress | None = None
    ) -> Path:
        """Saves a file, under its own name where `path` is a folder, and says where it is.

        Raises ChatError, OSError, FileExistsError in a folder; and CannotOpen for a file that its sender has sealed:
        `room(…).download_file` opens those.
        """
        if attachment.encrypted is not None:
            raise CannotOpen("sealed")
        place = await asyncio.to_thread(destination, path, attachment.filename)
        target = await asyncio.to_thread(Target, place)
        await self._files.download(attachment.id, attachment.file_size, target, progress)
        return place.path

    async def close(self) -> None:
        """Closes the session. Waiting calls raise ClientClosed, and the `async for` ends."""
        await self._io.close()


def _uuid(value: UUID | str) -> UUID:
    return value if isinstance(value, UUID) else UUID(value)
