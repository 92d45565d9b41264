"""What the server may tell. One struct per event: the `data` of its frame.

`DURABLE` events are stored, numbered by chatroom and replayed by `sync`;
`EPHEMERAL` ones are told once, to those who have the room open; `CONTROL` ones
belong to the connection.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from msgspec import Struct

from protocol.models import (
    Account,
    Ban,
    Bot,
    Chatroom,
    ChatroomState,
    ChatroomSummary,
    DeviceKey,
    FileStatus,
    FileUrls,
    Member,
    MemberDevice,
    Message,
    Pagination,
    Role,
    RotationReason,
    SyncedRoom,
    UploadedFile,
    UploadPart,
    User,
    UserProfile,
    WrappedKey,
)


class Event(Struct, frozen=True, kw_only=True):
    """What every event is."""


# --- durable ---------------------------------------------------------------------------------


class MessageReceived(Event, frozen=True):
    """A new message."""

    message: Message


class MessageRecalled(Event, frozen=True):
    """A message was taken back: forget what was in it."""

    chatroom_id: UUID
    message_id: UUID
    recalled_by: UUID
    recalled_at: datetime


class AttachmentUpdated(Event, frozen=True):
    """A file that stands in a message was scanned: its attachment has this status now."""

    chatroom_id: UUID
    message_id: UUID
    file_id: UUID
    status: FileStatus


class ChatroomCreated(Event, frozen=True):
    """A chatroom came to be; always seq 1."""

    chatroom: Chatroom
    members: tuple[Member, ...]


class ChatroomUpdated(Event, frozen=True):
    """The chatroom's settings changed; `chatroom` is the whole of them."""

    chatroom: Chatroom


class ChatroomDeleted(Event, frozen=True):
    """The chatroom is gone; no event follows."""

    chatroom_id: UUID
    user_id: UUID


class UserJoined(Event, frozen=True):
    """A user became a member. `chatroom` tells the newcomer what they came into."""

    chatroom_id: UUID
    user: User
    member: Member
    chatroom: Chatroom


class UserLeft(Event, frozen=True):
    """A member left, or was removed by `removed_by`. To that member it is the chatroom's last event."""

    chatroom_id: UUID
    user_id: UUID
    removed_by: UUID | None


class MemberUpdated(Event, frozen=True):
    """A member has another role."""

    chatroom_id: UUID
    user_id: UUID
    role: Role


class MemberMuted(Event, frozen=True):
    """A member may not write until `muted_until`, or may again, where that is null."""

    chatroom_id: UUID
    user_id: UUID
    muted_until: datetime | None
    muted_by: UUID


class KeyRotationNeeded(Event, frozen=True):
    """Somebody who has the chatroom's key should have it no more: `key_version` and older ones may not be used."""

    chatroom_id: UUID
    key_version: int
    reason: RotationReason


# --- ephemeral -------------------------------------------------------------------------------


class TypingIndicator(Event, frozen=True):
    """Someone began or stopped typing."""

    chatroom_id: UUID
    user_id: UUID
    username: str
    is_typing: bool


class ReadReceipt(Event, frozen=True):
    """Someone has read up to `seq`."""

    chatroom_id: UUID
    user_id: UUID
    seq: int
    read_at: datetime


class UserOnline(Event, frozen=True):
    """The first session of a user began."""

    user_id: UUID
    username: str


class UserOffline(Event, frozen=True):
    """The last session of a user ended, and none came back within the grace."""

    user_id: UUID
    username: str


class PresenceCount(Event, frozen=True):
    """How many members of a large chatroom are online."""

    chatroom_id: UUID
    online_count: int


# --- the connection itself -------------------------------------------------------------------


class Hello(Event, frozen=True):
    """The server's first frame: what it is and what it allows."""

    server: str
    heartbeat_interval: float
    auth_deadline: float
    max_frame_bytes: int
    resume_window: float


class Ready(Event, frozen=True):
    """A session is open. Live events of each chatroom go on from the `seq` listed, plus one.

    `token_expires_at` is null for a bot, whose key does not expire.
    """

    session_id: UUID
    resume_token: str
    user: User
    chatrooms: tuple[ChatroomState, ...]
    token_expires_at: datetime | None


class Resumed(Event, frozen=True):
    """A cut session goes on: the next `missed` frames are the lost ones; re-send commands after the `handled`-th."""

    missed: int
    handled: int


class SessionReset(Event, frozen=True, omit_defaults=True):
    """The old session can't go on. `handled` is given when its count is still known."""

    reason: str
    handled: int | None = None


class Pong(Event, frozen=True):
    """Answer to `ping`: how many of the client's frames the session has taken."""

    handled: int


class Heartbeat(Event, frozen=True):
    """Asks for a sign of life, on a transport without pings of its own. Any frame is one; `ping` is made for it."""


class Lagging(Event, frozen=True):
    """Events of these chatrooms up to `seq` were not sent, because the client read too slowly: sync."""

    chatrooms: dict[UUID, int]


class Migrate(Event, frozen=True):
    """The node is stopping: take the session to another, `after_ms` milliseconds from now.

    Until a resume elsewhere is answered this connection goes on as before, for `overlap_ms`
    beyond that moment at least; then it is closed with `draining`. `resume_token` is the session's.
    """

    after_ms: int
    resume_token: str
    overlap_ms: int


class Closing(Event, frozen=True):
    """The server is about to close a connection on TCP, or one under Noise."""

    code: int
    reason: str


class TokenExpiring(Event, frozen=True):
    """The access token runs out at `expires_at`; `authenticate` with a new one keeps the session."""

    expires_at: datetime


class Authenticated(Event, frozen=True):
    """The answer to `authenticate` on a live session."""

    token_expires_at: datetime | None


class Synced(Event, frozen=True):
    """How a `sync` ended, by chatroom."""

    chatrooms: dict[UUID, SyncedRoom]


class Error(Event, frozen=True, omit_defaults=True):
    """A command was refused; `code` is one of the table, `retry_after` is in seconds."""

    code: str
    message: str
    details: dict[str, Any]
    retry_after: float | None = None


# --- answers: the `data` of an ack, and of a REST answer -----------------------------------------


class MessageSent(Event, frozen=True):
    """The message is on disk. `duplicate` says that it was there before this command."""

    message: Message
    client_id: str | None = None
    duplicate: bool = False


class UploadStarted(Event, frozen=True):
    """An upload has begun, and goes on; `fid` will be the file's id.

    It has `part_count` parts of `part_size` bytes, the last one of what is left; `received` bytes of them are there.
    `parts` are some of them, and `has_more` says that more follow. Their addresses are good until `expires_at`.
    """

    fid: UUID
    file_size: int
    part_size: int
    part_count: int
    received: int
    expires_at: datetime
    parts: tuple[UploadPart, ...]
    has_more: bool


class FilesListed(Event, frozen=True):
    """A page of the user's files. All of them, with uploads under way, take `used` of `quota` bytes."""

    files: tuple[UploadedFile, ...]
    used: int
    quota: int
    pagination: Pagination


class FileUrlsSigned(Event, frozen=True):
    """Addresses of files that need no token until `expires_at`, in the order in which they were asked for."""

    files: tuple[FileUrls, ...]
    expires_at: datetime


class MessagesFetched(Event, frozen=True):
    """A page of history."""

    messages: tuple[Message, ...]
    pagination: Pagination


class ChatroomOpened(Event, frozen=True):
    """The room is open on this session. Above 200 members `online` is left out and only counted."""

    chatroom_id: UUID
    seq: int
    online_count: int
    online: tuple[UUID, ...] | None = None


class ReadPosition(Event, frozen=True):
    """Where the user's read position stands now."""

    chatroom_id: UUID
    last_read_seq: int
    unread_count: int


class ChatroomChanged(Event, frozen=True):
    """A chatroom as it is after the command. `created` is false when a direct chatroom was there before."""

    chatroom: Chatroom
    seq: int
    created: bool = True


class ChatroomsListed(Event, frozen=True):
    """A page of the user's chatrooms."""

    chatrooms: tuple[ChatroomSummary, ...]
    pagination: Pagination


class ChatroomFetched(Event, frozen=True):
    """A chatroom, its members, and the user's own role in it."""

    chatroom: Chatroom
    members: tuple[Member, ...]
    user_role: Role


class MembersAdded(Event, frozen=True):
    """Who became a member by this command."""

    chatroom_id: UUID
    added: tuple[Member, ...]
    seq: int


class BansListed(Event, frozen=True):
    """A page of those who are banned from a chatroom."""

    bans: tuple[Ban, ...]
    pagination: Pagination


class Done(Event, frozen=True):
    """The change is on disk as event `seq` of the chatroom; zero where there was nothing to tell its members."""

    chatroom_id: UUID
    seq: int = 0


class DeviceKeyPut(Event, frozen=True):
    """The device's key is registered; `replaced` says that it had another one before."""

    key: DeviceKey
    replaced: bool


class DeviceKeysListed(Event, frozen=True):
    """The keys of a user's devices, oldest first."""

    user_id: UUID
    keys: tuple[DeviceKey, ...]


class DeviceKeyDeleted(Event, frozen=True):
    """The device has no key any more."""

    device_id: str


class ChatroomKeysPut(Event, frozen=True):
    """The wrapped keys are stored: `added` is how many of them the devices did not have yet."""

    chatroom_id: UUID
    key_version: int
    min_key_version: int
    added: int


class ChatroomKeysFetched(Event, frozen=True):
    """A chatroom's end-to-end keys as one device may have them.

    `key_version` is the newest, 0 for none; content below `min_key_version` is
    refused, and `rotation_needed` says that this goes for the newest one as well.
    `more`: older versions than the last of `keys` exist. `devices` are those of all members, one's own first, then
    the ones that lack the newest key, at most 2,000.
    """

    chatroom_id: UUID
    key_version: int
    min_key_version: int
    rotation_needed: bool
    keys: tuple[WrappedKey, ...]
    more: bool
    devices: tuple[MemberDevice, ...]


class SignedIn(Event, frozen=True):
    """An account and its tokens. `expires_in` is the access token's life in seconds."""

    user: Account
    access_token: str
    refresh_token: str
    expires_in: int
    refresh_expires_in: int
    token_type: Literal["Bearer"] = "Bearer"


class Refreshed(Event, frozen=True):
    """A new pair of tokens."""

    access_token: str
    refresh_token: str
    expires_in: int
    refresh_expires_in: int
    token_type: Literal["Bearer"] = "Bearer"


class UsersFound(Event, frozen=True):
    """A page of users."""

    users: tuple[UserProfile, ...]
    pagination: Pagination


class BotIssued(Event, frozen=True):
    """A bot and its new API key, which is never shown again."""

    bot: Bot
    api_key: str


class BotsListed(Event, frozen=True):
    """The user's bots, in the order in which they were made."""

    bots: tuple[Bot, ...]


DURABLE: dict[str, type[Event]] = {
    "message_received": MessageReceived,
    "message_recalled": MessageRecalled,
    "attachment_updated": AttachmentUpdated,
    "chatroom_created": ChatroomCreated,
    "chatroom_updated": ChatroomUpdated,
    "chatroom_deleted": ChatroomDeleted,
    "user_joined": UserJoined,
    "user_left": UserLeft,
    "member_updated": MemberUpdated,
    "member_muted": MemberMuted,
    "key_rotation_needed": KeyRotationNeeded,
}

EPHEMERAL: dict[str, type[Event]] = {
    "typing_indicator": TypingIndicator,
    "read_receipt": ReadReceipt,
    "user_online": UserOnline,
    "user_offline": UserOffline,
    "presence_count": PresenceCount,
}

CONTROL: dict[str, type[Event]] = {
    "hello": Hello,
    "ready": Ready,
    "resumed": Resumed,
    "session_reset": SessionReset,
    "pong": Pong,
    "ping": Heartbeat,
    "lagging": Lagging,
    "migrate": Migrate,
    "closing": Closing,
    "token_expiring": TokenExpiring,
    "authenticated": Authenticated,
    "synced": Synced,
    "error": Error,
}

UNCOUNTED_EVENTS = frozenset(
    {"hello", "ready", "resumed", "session_reset", "pong", "ping", "lagging", "migrate", "closing"}
)
"""Server frames that resume-by-counting leaves out."""
