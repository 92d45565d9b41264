"""A chat that keeps nothing: it notes what it is asked and gives a plausible answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from msgspec import Struct

from gateway.rates import Allowance, Rates
from protocol import commands as c
from protocol import events as e
from protocol import models as m
from protocol.commands import Command
from protocol.discovery import LimitsInfo, NoiseInfo, ServerInfo
from protocol.errors import ChatError

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
ADA = m.User(id=UUID(int=1), username="ada", display_name="Ada")
BOB = m.User(id=UUID(int=2), username="bob", display_name="Bob")
ROOM_ID = UUID(int=7)
INFO = ServerInfo(
    server="parley",
    version="1.2.3",
    subprotocols=("parley.v1.json",),
    noise=NoiseInfo(public_key="key", protocols=("Noise_NK_25519_ChaChaPoly_SHA256",)),
    tcp=None,
    limits=LimitsInfo(
        frame_bytes=1,
        text_bytes=2,
        body_bytes=3,
        connections=4,
        commands_per_minute=5,
        commands_at_once=6,
        requests_per_minute=7,
    ),
)
PAGE = m.Pagination(page=1, limit=20, total=1, pages=1, has_more=False)
ACCOUNT = m.Account(
    id=ADA.id,
    username="ada",
    email="ada@example.com",
    display_name="Ada",
    avatar_url=None,
    public_key=None,
    is_verified=False,
    created_at=NOW,
    last_login=None,
)
PROFILE = m.UserProfile(id=BOB.id, username="bob", display_name="Bob", avatar_url=None, public_key=None, created_at=NOW)
BOT = m.Bot(
    id=UUID(int=3), username="robo", display_name="Robo", scopes=("read", "write"), public_key=None, created_at=NOW
)
ROOM = m.Chatroom(
    id=ROOM_ID,
    kind="group",
    name="Tea",
    description=None,
    owner_id=ADA.id,
    is_private=True,
    max_members=100,
    member_count=1,
    encryption_enabled=False,
    auto_summary_enabled=True,
    summary_threshold=50,
    seq=1,
    created_at=NOW,
    updated_at=NOW,
)
MEMBER = m.Member(
    user_id=ADA.id,
    username="ada",
    display_name="Ada",
    avatar_url=None,
    role="owner",
    joined_at=NOW,
    last_read_seq=0,
    last_read_at=None,
)
BAN = m.Ban(
    user_id=BOB.id,
    username="bob",
    display_name="Bob",
    avatar_url=None,
    banned_by=ADA.id,
    reason="spam",
    created_at=NOW,
)
MESSAGE = m.Message(
    id=UUID(int=9),
    chatroom_id=ROOM_ID,
    seq=2,
    user_id=ADA.id,
    username="ada",
    display_name="Ada",
    avatar_url=None,
    content="Hello",
    message_type="text",
    reply_to=None,
    created_at=NOW,
)
SIGNED_IN = e.SignedIn(
    user=ACCOUNT, access_token="ada-token", refresh_token="r", expires_in=1800, refresh_expires_in=604800
)
ROOM_CHANGED = e.ChatroomChanged(chatroom=ROOM, seq=1)
DEVICE_KEY = m.DeviceKey(user_id=ADA.id, device_id="laptop", name=None, public_key=f"{'A' * 43}=", created_at=NOW)
DEVICE_KEYS = e.DeviceKeysListed(user_id=ADA.id, keys=(DEVICE_KEY,))

UPLOAD = e.UploadStarted(
    fid=UUID(int=9),
    file_size=1,
    part_size=5,
    part_count=1,
    received=0,
    expires_at=NOW,
    parts=(m.UploadPart(number=1, size=1, url="/parts/1", received=False),),
    has_more=False,
)
FILE = m.UploadedFile(
    id=UUID(int=9),
    filename="a.txt",
    file_type="text/plain",
    file_size=1,
    encrypted_url=f"/files/{UUID(int=9)}",
    sha256="00",
    upload_date=NOW,
)

RESULTS: dict[type[Command], Struct | None] = {
    c.Register: SIGNED_IN,
    c.Login: SIGNED_IN,
    c.Refresh: e.Refreshed(access_token="a", refresh_token="r", expires_in=1800, refresh_expires_in=604800),
    c.Logout: None,
    c.GetAccount: ACCOUNT,
    c.UpdateAccount: ACCOUNT,
    c.RemoveAvatar: ACCOUNT,
    c.SearchUsers: e.UsersFound(users=(PROFILE,), pagination=PAGE),
    c.GetUser: PROFILE,
    c.CreateBot: e.BotIssued(bot=BOT, api_key="ply_key"),
    c.ListBots: e.BotsListed(bots=(BOT,)),
    c.GetBot: BOT,
    c.UpdateBot: BOT,
    c.RotateBot: e.BotIssued(bot=BOT, api_key="ply_key"),
    c.RevokeBot: None,
    c.ListChatrooms: e.ChatroomsListed(chatrooms=(), pagination=PAGE),
    c.CreateChatroom: ROOM_CHANGED,
    c.GetChatroom: e.ChatroomFetched(chatroom=ROOM, members=(MEMBER,), user_role="owner"),
    c.UpdateChatroom: ROOM_CHANGED,
    c.RemoveChatroomAvatar: ROOM_CHANGED,
    c.DeleteChatroom: e.Done(chatroom_id=ROOM_ID, seq=3),
    c.AddMembers: e.MembersAdded(chatroom_id=ROOM_ID, added=(MEMBER,), seq=3),
    c.UpdateMember: e.Done(chatroom_id=ROOM_ID, seq=3),
    c.RemoveMember: e.Done(chatroom_id=ROOM_ID, seq=3),
    c.MuteMember: e.Done(chatroom_id=ROOM_ID, seq=3),
    c.UnmuteMember: e.Done(chatroom_id=ROOM_ID, seq=3),
    c.BanMember: e.Done(chatroom_id=ROOM_ID, seq=3),
    c.UnbanMember: e.Done(chatroom_id=ROOM_ID),
    c.ListBans: e.BansListed(bans=(BAN,), pagination=PAGE),
    c.LeaveMembership: e.Done(chatroom_id=ROOM_ID, seq=3),
    c.FetchMessages: e.MessagesFetched(messages=(MESSAGE,), pagination=PAGE),
    c.RecallMessage: e.Done(chatroom_id=ROOM_ID, seq=3),
    c.SendMessage: e.MessageSent(message=MESSAGE, client_id="c1"),
    c.ListDeviceKeys: DEVICE_KEYS,
    c.PutDeviceKey: e.DeviceKeyPut(key=DEVICE_KEY, replaced=False),
    c.DeleteDeviceKey: e.DeviceKeyDeleted(device_id="laptop"),
    c.GetUserKeys: DEVICE_KEYS,
    c.PutChatroomKeys: e.ChatroomKeysPut(chatroom_id=ROOM_ID, key_version=2, min_key_version=1, added=1),
    c.GetChatroomKeys: e.ChatroomKeysFetched(
        chatroom_id=ROOM_ID, key_version=0, min_key_version=1, rotation_needed=False, keys=(), more=False, devices=()
    ),
    c.GetFileUrls: e.FileUrlsSigned(files=(), expires_at=NOW),
    c.CreateUpload: UPLOAD,
    c.GetUpload: UPLOAD,
    c.AbortUpload: None,
    c.CompleteUpload: FILE,
    c.GetFile: FILE,
    c.ListFiles: e.FilesListed(files=(), used=0, quota=1, pagination=PAGE),
    c.DeleteFile: None,
    c.MessageRead: e.ReadPosition(chatroom_id=ROOM_ID, last_read_seq=2, unread_count=0),
}


@dataclass(frozen=True)
class StandInActor:
    """Someone who is signed in."""

    user: m.User


@dataclass
class StandInFile:
    """A file of ten bytes, or of what `pieces` bring, which may fail; `left` is set when nobody reads it any more."""

    name: str = "notes.txt"
    file_type: str = "text/plain"
    etag: str = "abc"
    created_at: datetime = datetime(2024, 2, 29, 12, 0, 30, tzinfo=UTC)
    size: int = 10
    pieces: Callable[[], AsyncIterator[bytes]] | None = None
    allowed: Callable[[], bool] = lambda: True
    left: asyncio.Event = field(default_factory=asyncio.Event)

    async def read(self, start: int, length: int) -> AsyncGenerator[bytes]:
        """Some of it."""
        try:
            if self.pieces is None:
                yield b"0123456789"[start : start + length]
            else:
                async for piece in self.pieces():
                    yield piece
        finally:
            self.left.set()

    async def is_still_allowed(self) -> bool:
        """As the test says."""
        return self.allowed()


@dataclass
class StandInFiles:
    """Has one file, under any id."""

    file: StandInFile = field(default_factory=StandInFile)

    async def redeem(self, file_id: UUID, signature: str) -> StandInActor:
        """Bob, by the one signature that is good."""
        if signature != "bobs":
            raise ChatError("FILE_NOT_FOUND")
        return StandInActor(BOB)

    async def open(self, actor: StandInActor, file_id: UUID, variant: str) -> StandInFile:
        """The file."""
        return self.file


@dataclass
class StandInChat:
    """Knows two users by their tokens. `on` and `slowly` put another answer in the place of the usual one."""

    asked: list[tuple[StandInActor | None, Command]] = field(default_factory=list)
    on: dict[type[Command], Callable[[Any], Any]] = field(default_factory=dict)
    slowly: dict[type[Command], Callable[[Any], Awaitable[Any]]] = field(default_factory=dict)
    services: dict[str, str] = field(default_factory=lambda: {"database": "healthy"})
    ready: bool = True
    rates: Rates = field(default_factory=lambda: Rates(1000, time.monotonic))
    files: Any = field(default_factory=lambda: StandInFiles())

    async def authenticate(self, token: str) -> StandInActor:
        """The user behind `ada-token` or `bob-token`."""
        users = {"ada-token": ADA, "bob-token": BOB}
        if token == "old-token":
            raise ChatError("AUTH_TOKEN_EXPIRED")
        if token not in users:
            raise ChatError("AUTH_TOKEN_INVALID")
        return StandInActor(users[token])

    async def handle(self, actor: StandInActor | None, command: Command) -> Struct | None:
        """The usual answer, or the one of `on`."""
        self.asked.append((actor, command))
        result: Struct | None
        if type(command) in self.slowly:
            result = await self.slowly[type(command)](command)
        elif type(command) in self.on:
            result = self.on[type(command)](command)
        else:
            result = RESULTS[type(command)]
        return result

    async def take(self, key: str) -> Allowance:
        """As on one node."""
        return self.rates.take_here(key)

    async def take_upload(self, user_id: UUID) -> Allowance:
        """As on one node."""
        return self.rates.take_here(f"uploads:{user_id}")

    def jwks(self) -> dict[str, Any]:
        """A set without keys."""
        return {"keys": []}

    async def health(self) -> dict[str, str]:
        """What the test has set."""
        return self.services

    @property
    def last(self) -> Command:
        """The newest command."""
        return self.asked[-1][1]
