"""Shapes that commands and events share. Field names are those of the reference API."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from msgspec import Meta, Struct

Role = Literal["owner", "moderator", "member"]
ChatroomKind = Literal["group", "direct"]
MessageType = Literal["text", "image", "file", "system"]
RotationReason = Literal["user_left", "user_removed", "device_deleted", "device_replaced"]
Verdict = Literal["complete", "too_long", "not_member"]
Scope = Literal["read", "write", "manage"]
FileStatus = Literal["scanning", "ready", "rejected"]

FOREVER = datetime(9999, 1, 1, tzinfo=UTC)
"""`muted_until` of a member who is muted until somebody unmutes them."""

NO_NUL = r"^[^\x00]*$"
"""PostgreSQL's text holds every character but this one."""

Name = Annotated[str, Meta(min_length=1, max_length=100, pattern=NO_NUL, description="1 to 100 characters")]
Description = Annotated[str, Meta(max_length=500, pattern=NO_NUL, description="at most 500 characters")]
ClientId = Annotated[
    str, Meta(min_length=1, max_length=64, pattern=NO_NUL, description="1 to 64 characters, chosen by the sender")
]
PageNumber = Annotated[int, Meta(ge=1, le=1_000_000)]
PageLimit = Annotated[int, Meta(ge=1, le=100)]


DeviceId = Annotated[
    str, Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._-]+$", description="1 to 64 of A-Z a-z 0-9 . _ -")
]
PublicKey = Annotated[
    str, Meta(min_length=44, max_length=44, pattern=r"^[A-Za-z0-9+/]{43}=$", description="base64 of 32 bytes, X25519")
]
KeyVersion = Annotated[int, Meta(ge=1, le=2**31 - 1)]


class EncryptedContent(Struct, frozen=True, kw_only=True):
    """Content that only the members can open; Parley stores and forwards it unopened."""

    encrypted_data: Annotated[str, Meta(min_length=1)]
    iv: Annotated[str, Meta(min_length=1, max_length=128)]
    key_version: KeyVersion


Content = str | EncryptedContent


class User(Struct, frozen=True, kw_only=True):
    """What members of a chatroom see of one another."""

    id: UUID
    username: str
    display_name: str
    avatar_url: str | None = None


class UserProfile(Struct, frozen=True, kw_only=True):
    """What any signed-in user may see of another."""

    id: UUID
    username: str
    display_name: str
    avatar_url: str | None
    public_key: str | None
    created_at: datetime
    is_bot: bool = False


class Account(Struct, frozen=True, kw_only=True):
    """What a user sees of their own account. A bot has no `email`."""

    id: UUID
    username: str
    email: str | None
    display_name: str
    avatar_url: str | None
    public_key: str | None
    is_verified: bool
    created_at: datetime
    last_login: datetime | None
    is_bot: bool = False


class Bot(Struct, frozen=True, kw_only=True):
    """A bot as its owner sees it. `public_key` is the X25519 key, in base64, by which it may prove itself."""

    id: UUID
    username: str
    display_name: str
    scopes: tuple[Scope, ...]
    public_key: str | None
    created_at: datetime


class Attachment(Struct, frozen=True, kw_only=True):
    """A file in a message. Its URLs are relative to where the server is, and need a token or a signature.

    `width` and `height` are those of a picture, in pixels, as it is meant to be looked at; `blurhash` is a placeholder
    for it (blurha.sh). The pictures at `thumbnail_url` and `preview_url` have at most 320 and 1,280 pixels on their
    longer side; `preview_refused` is the error code for which there are none. `encrypted` is what members need to open
    a file that the sender has sealed; Parley cannot read it.
    """

    id: UUID
    filename: str
    file_type: str
    file_size: int
    encrypted_url: str
    thumbnail_url: str | None = None
    preview_url: str | None = None
    width: int | None = None
    height: int | None = None
    blurhash: str | None = None
    preview_refused: str | None = None
    status: FileStatus = "ready"
    encrypted: EncryptedContent | None = None


class UploadedFile(Attachment, frozen=True, kw_only=True):
    """A file as its uploader sees it. `sha256` is that of its bytes, in hex."""

    sha256: str
    upload_date: datetime
    expires_at: datetime | None = None


class FileUrls(Struct, frozen=True, kw_only=True):
    """The signed addresses of a file and of its pictures, relative to where the server is.

    They are good as long as the user who asked for them may have the file and is signed in as they were then.
    """

    id: UUID
    url: str
    thumbnail_url: str | None
    preview_url: str | None


class UploadPart(Struct, frozen=True, kw_only=True):
    """A part of an upload: its bytes go to `url` with PUT, and need no token there. `received` says that it is there.

    The address is relative to where the server is, unless it names another.
    """

    number: int
    size: int
    url: str
    received: bool


class FileReference(Struct, frozen=True, kw_only=True):
    """A file to be sent with a message, by its id."""

    id: UUID
    encrypted: EncryptedContent | None = None


class Message(Struct, frozen=True, kw_only=True):
    """A message as everyone in its chatroom sees it. `seq` is its place in the chatroom's one order.

    Since `recalled_at` it is empty: `content` is an empty text, and there are no attachments.
    """

    id: UUID
    chatroom_id: UUID
    seq: int
    user_id: UUID
    username: str
    display_name: str
    avatar_url: str | None
    content: Content
    message_type: MessageType
    reply_to: UUID | None
    created_at: datetime
    attachments: tuple[Attachment, ...] = ()
    reactions: tuple[dict[str, Any], ...] = ()
    edited_at: datetime | None = None
    recalled_at: datetime | None = None


class Member(Struct, frozen=True, kw_only=True):
    """One member of a chatroom, who may not write before `muted_until`."""

    user_id: UUID
    username: str
    display_name: str
    avatar_url: str | None
    role: Role
    joined_at: datetime
    last_read_seq: int
    last_read_at: datetime | None
    is_online: bool = False
    is_bot: bool = False
    muted_until: datetime | None = None


class Ban(Struct, frozen=True, kw_only=True):
    """A user who may not be a member of a chatroom, and who of its moderators said so."""

    user_id: UUID
    username: str
    display_name: str
    avatar_url: str | None
    banned_by: UUID
    reason: str | None
    created_at: datetime


class Chatroom(Struct, frozen=True, kw_only=True):
    """A chatroom and its settings. `seq` is the number of its newest durable event.

    `avatar_url` is that of its picture; to the two of a direct chatroom, that of the other one.
    """

    id: UUID
    kind: ChatroomKind
    name: str
    description: str | None
    owner_id: UUID | None
    is_private: bool
    max_members: int
    member_count: int
    encryption_enabled: bool
    auto_summary_enabled: bool
    summary_threshold: int
    seq: int
    created_at: datetime
    updated_at: datetime
    avatar_url: str | None = None


class ChatroomSummary(Struct, frozen=True, kw_only=True):
    """A row of a user's chatroom list."""

    id: UUID
    kind: ChatroomKind
    name: str
    description: str | None
    is_private: bool
    member_count: int
    encryption_enabled: bool
    last_message: Message | None
    unread_count: int
    role: Role
    joined_at: datetime
    last_read_seq: int
    seq: int
    avatar_url: str | None = None


class ChatroomState(Struct, frozen=True, kw_only=True):
    """Where a chatroom stands when a session opens: live events go on from `seq` plus one."""

    id: UUID
    kind: ChatroomKind
    name: str
    role: Role
    seq: int
    last_read_seq: int
    avatar_url: str | None = None


class DeviceKey(Struct, frozen=True, kw_only=True):
    """The public key of one device, by which others wrap keys for it."""

    user_id: UUID
    device_id: str
    name: str | None
    public_key: str
    created_at: datetime


class MemberDevice(Struct, frozen=True, kw_only=True):
    """A device of a member. `has_key`: it has the chatroom's newest key. `is_newcomer`: its user came after that."""

    user_id: UUID
    device_id: str
    public_key: str
    has_key: bool
    is_newcomer: bool


class KeyWrap(Struct, frozen=True, kw_only=True):
    """A chatroom's key, wrapped by a client for one device; `public_key` is the one it was wrapped for."""

    user_id: UUID
    device_id: DeviceId
    public_key: PublicKey
    wrapped_key: Annotated[
        str, Meta(min_length=1, max_length=512, pattern=r"^[A-Za-z0-9+/=]+$", description="base64, opaque to Parley")
    ]


class WrappedKey(Struct, frozen=True, kw_only=True):
    """A version of a chatroom's key as one device gets it, and who wrapped it with which key."""

    key_version: int
    sender_id: UUID
    sender_device_id: str
    sender_public_key: str
    wrapped_key: str
    created_at: datetime


class Pagination(Struct, frozen=True, kw_only=True):
    """Which page of how many."""

    page: int
    limit: int
    total: int
    pages: int
    has_more: bool


class SyncedRoom(Struct, frozen=True, kw_only=True, rename={"from_seq": "from", "to_seq": "to"}):
    """How the sync of one chatroom ended.

    `complete`: every event after `from` up to `to` was sent. `too_long`: none was
    sent, load history up to `to`. `not_member`: nothing to have. In the first two
    cases live events go on from `to` plus one.
    """

    from_seq: int
    to_seq: int
    verdict: Verdict
