"""What a client may ask. One struct per command: the `data` of its frame, or the body of its request.

`SOCKET_COMMANDS` are the ones a socket takes, by the `event` name of their frame;
the others come by REST alone.
"""

from __future__ import annotations

from typing import Annotated, Literal
from uuid import UUID

from msgspec import UNSET, Meta, Struct, UnsetType

from protocol.models import (
    NO_NUL,
    ChatroomKind,
    ClientId,
    Content,
    Description,
    DeviceId,
    FileReference,
    KeyVersion,
    KeyWrap,
    Name,
    PageLimit,
    PageNumber,
    PublicKey,
    Role,
    Scope,
)

Username = Annotated[
    str, Meta(min_length=3, max_length=50, pattern=r"^[^\s@\x00]+$", description="3 to 50 characters, no spaces, no @")
]
Email = Annotated[str, Meta(min_length=3, max_length=254, pattern=r"^[^@\s\x00]+@[^@\s\x00]+\.[^@\s\x00]+$")]
Password = Annotated[str, Meta(min_length=8, max_length=1024, description="at least 8 characters")]
Token = Annotated[str, Meta(min_length=1, max_length=8192)]
Seq = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Cursor = Annotated[str, Meta(min_length=1, max_length=64, description="a seq, a message id or an ISO 8601 time")]
MemberLimit = Annotated[int, Meta(ge=2, le=100_000)]
Threshold = Annotated[int, Meta(ge=1, le=100_000)]
UserIds = Annotated[list[UUID], Meta(max_length=500)]
FileReferences = Annotated[list[FileReference], Meta(max_length=10)]
FileName = Annotated[str, Meta(max_length=4096)]
FileSize = Annotated[int, Meta(ge=0, le=2**53)]
PartNumber = Annotated[int, Meta(ge=0, le=10_000)]
PartLimit = Annotated[int, Meta(ge=1, le=1_000)]
Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
FileLife = Annotated[int, Meta(ge=1, le=31_536_000)]
FileIds = Annotated[list[UUID], Meta(min_length=1, max_length=100)]
MuteSeconds = Annotated[int, Meta(ge=1, le=31_536_000)]
"""A year at most; who should be silent for longer is muted without an end."""
Scopes = Annotated[list[Scope], Meta(min_length=1, max_length=3)]


class Command(Struct, frozen=True, kw_only=True):
    """What every command is."""


# --- the connection itself -------------------------------------------------------------------


class Authenticate(Command, frozen=True):
    """Opens a session, or gives a live one a new token.

    Without a token the session is that of the bot whose key the Noise handshake showed.
    """

    token: Token | None = None


class Resume(Command, frozen=True):
    """Takes up a cut session: `received` counts the frames the client has had of it."""

    session_id: UUID
    resume_token: Token
    received: Seq
    token: Token | None = None


class Ping(Command, frozen=True):
    """Asks for a `pong`; `received` lets the server forget what has arrived."""

    received: Seq | None = None


class Goodbye(Command, frozen=True):
    """Ends the session; it cannot be resumed. The server closes the connection."""


class Sync(Command, frozen=True):
    """Asks for what was missed, from the last seq known of each chatroom."""

    chatrooms: Annotated[dict[UUID, Seq], Meta(min_length=1, max_length=1000)]


# --- rooms, live -----------------------------------------------------------------------------


class JoinChatroom(Command, frozen=True):
    """Opens a chatroom on this session: typing, presence and read receipts are sent from now on."""

    chatroom_id: UUID


class LeaveChatroom(Command, frozen=True):
    """Closes a chatroom on this session. The membership stays."""

    chatroom_id: UUID


class TypingStart(Command, frozen=True):
    """The user has begun to type."""

    chatroom_id: UUID


class TypingStop(Command, frozen=True):
    """The user has stopped typing."""

    chatroom_id: UUID


class MessageRead(Command, frozen=True):
    """Moves the read position up to a message, or to a seq. It never moves back."""

    chatroom_id: UUID
    message_id: UUID | None = None
    seq: Seq | None = None


# --- messages --------------------------------------------------------------------------------


class SendMessage(Command, frozen=True):
    """Writes a message. A repeated `client_id` gives the first message again."""

    chatroom_id: UUID
    content: Content
    message_type: Literal["text", "image", "file"] = "text"
    reply_to: UUID | None = None
    client_id: ClientId | None = None
    attachments: FileReferences = []


class RecallMessage(Command, frozen=True):
    """Takes a message back: what was in it is erased for everyone, and its place stays."""

    chatroom_id: UUID
    message_id: UUID


# --- files -----------------------------------------------------------------------------------


class CreateUpload(Command, frozen=True):
    """Begins to upload a file. `file_size` is in bytes, where it is known; `chatroom_id` is where it will be sent.

    A file that the client has sealed is `encrypted`: nothing is known of what is in it. `expires_in` is in seconds.
    """

    filename: FileName
    file_size: FileSize | None = None
    chatroom_id: UUID | None = None
    encrypted: bool = False
    expires_in: FileLife | None = None


class GetUpload(Command, frozen=True):
    """Tells which parts of an upload are there, and gives new addresses, of the parts behind number `after`."""

    file_id: UUID
    after: PartNumber = 0
    limit: PartLimit = 100


class CompleteUpload(Command, frozen=True):
    """Makes a file of an upload whose parts are all there. `sha256` is what they should come to, in hex."""

    file_id: UUID
    sha256: Sha256 | None = None


class AbortUpload(Command, frozen=True):
    """Drops an upload and the parts that are there."""

    file_id: UUID


class GetFile(Command, frozen=True):
    """Reads what is known of a file: its name, size, type and pictures."""

    file_id: UUID


class ListFiles(Command, frozen=True):
    """Reads the user's own files, the newest first, and how much of their quota is used."""

    page: PageNumber = 1
    limit: PageLimit = 20


class DeleteFile(Command, frozen=True):
    """Takes a file of the user's own away from everyone, also where it stands in messages."""

    file_id: UUID


class GetFileUrls(Command, frozen=True):
    """Makes addresses of files that need no token, as for a web page's pictures. Files that are not for the user are
    left out."""

    file_ids: Annotated[list[UUID], Meta(min_length=1, max_length=100)]


class FetchMessages(Command, frozen=True):
    """Reads history, newest first with `before` or without a cursor, oldest first with `after`."""

    chatroom_id: UUID
    before: Cursor | int | None = None
    after: Cursor | int | None = None
    limit: PageLimit = 50
    page: PageNumber = 1


# --- chatrooms -------------------------------------------------------------------------------


class CreateChatroom(Command, frozen=True):
    """Makes a chatroom. A `direct` one names the one other user and exists once for the two."""

    kind: ChatroomKind = "group"
    name: Name | None = None
    description: Description | None = None
    is_private: bool = True
    max_members: MemberLimit = 100
    encryption_enabled: bool = False
    auto_summary_enabled: bool = True
    summary_threshold: Threshold = 50
    user_ids: UserIds = []


class ListChatrooms(Command, frozen=True):
    """Reads the user's chatrooms, the most recently active first."""

    page: PageNumber = 1
    limit: PageLimit = 20
    search: Annotated[str, Meta(max_length=100, pattern=NO_NUL)] | None = None


class GetChatroom(Command, frozen=True):
    """Reads one chatroom with its members."""

    chatroom_id: UUID


class UpdateChatroom(Command, frozen=True):
    """Changes the settings that are given; a `description` of null clears it."""

    chatroom_id: UUID
    name: Name | UnsetType = UNSET
    description: Description | UnsetType | None = UNSET
    is_private: bool | UnsetType = UNSET
    max_members: MemberLimit | UnsetType = UNSET
    auto_summary_enabled: bool | UnsetType = UNSET
    summary_threshold: Threshold | UnsetType = UNSET


class RemoveChatroomAvatar(Command, frozen=True):
    """Takes a chatroom's picture away."""

    chatroom_id: UUID


class DeleteChatroom(Command, frozen=True):
    """Deletes a chatroom for everyone."""

    chatroom_id: UUID


class AddMembers(Command, frozen=True):
    """Adds users to a group; those who are members already stay as they are."""

    chatroom_id: UUID
    user_ids: Annotated[list[UUID], Meta(min_length=1, max_length=500)]


class UpdateMember(Command, frozen=True):
    """Gives a member another role. Making someone owner hands the chatroom over."""

    chatroom_id: UUID
    user_id: UUID
    role: Role


class RemoveMember(Command, frozen=True):
    """Removes a member from a group."""

    chatroom_id: UUID
    user_id: UUID


class MuteMember(Command, frozen=True):
    """Takes a member's right to write, for `duration_seconds` from now; null means until `unmute_member`."""

    chatroom_id: UUID
    user_id: UUID
    duration_seconds: MuteSeconds | None


class UnmuteMember(Command, frozen=True):
    """Gives a member the right to write again."""

    chatroom_id: UUID
    user_id: UUID


class BanMember(Command, frozen=True):
    """Removes a user, whether a member or not, who cannot be added again until `unban_member`."""

    chatroom_id: UUID
    user_id: UUID
    reason: Description | None = None


class UnbanMember(Command, frozen=True):
    """Ends a ban: the user can be added again."""

    chatroom_id: UUID
    user_id: UUID


class ListBans(Command, frozen=True):
    """Reads who is banned from a chatroom, the newest ban first."""

    chatroom_id: UUID
    page: PageNumber = 1
    limit: PageLimit = 20


class LeaveMembership(Command, frozen=True):
    """Ends the user's own membership. The chatroom of an owner passes to the longest-serving moderator or member."""

    chatroom_id: UUID


# --- end-to-end keys -------------------------------------------------------------------------


class PutDeviceKey(Command, frozen=True):
    """Registers the public key of one of the user's devices, or replaces it."""

    device_id: DeviceId
    public_key: PublicKey
    name: Name | None = None


class ListDeviceKeys(Command, frozen=True):
    """Reads the keys of the user's own devices."""


class DeleteDeviceKey(Command, frozen=True):
    """Removes a device: nobody wraps keys for it any more, and chatrooms whose key it has need another."""

    device_id: DeviceId


class GetUserKeys(Command, frozen=True):
    """Reads the keys of another user's devices."""

    user_id: UUID


class PutChatroomKeys(Command, frozen=True):
    """Makes a new version of a chatroom's key, or gives an existing one to devices that lack it.

    Each entry of `keys` is that key, wrapped for one device of a member.
    """

    chatroom_id: UUID
    key_version: KeyVersion
    sender_device_id: DeviceId
    sender_public_key: PublicKey
    keys: Annotated[list[KeyWrap], Meta(min_length=1, max_length=200)]
    is_new: bool = False


class GetChatroomKeys(Command, frozen=True):
    """Reads the chatroom's keys as wrapped for one of the user's devices, newest first, and who lacks the newest."""

    chatroom_id: UUID
    device_id: DeviceId
    before: KeyVersion | None = None


# --- accounts (REST) -------------------------------------------------------------------------


class Register(Command, frozen=True):
    """Makes an account and signs in."""

    username: Username
    email: Email
    password: Password
    display_name: Name | None = None
    public_key: Annotated[str, Meta(max_length=8192, pattern=NO_NUL)] | None = None
    client_type: Literal["web", "mobile"] = "web"


class Login(Command, frozen=True):
    """Signs in with a user name or an e-mail address. `client_type` sets the life of the refresh token."""

    username: Annotated[str, Meta(min_length=1, max_length=254, pattern=NO_NUL)]
    password: Annotated[str, Meta(min_length=1, max_length=1024)]
    client_type: Literal["web", "mobile"] = "web"


class Refresh(Command, frozen=True):
    """Changes a refresh token for a new pair."""

    refresh_token: Token


class Logout(Command, frozen=True):
    """Ends the sign-in that the access token belongs to: its refresh tokens and its sockets."""


class GetAccount(Command, frozen=True):
    """Reads the user's own account."""


class UpdateAccount(Command, frozen=True):
    """Changes the fields that are given; null clears an optional one."""

    display_name: Name | UnsetType = UNSET
    avatar_url: Annotated[str, Meta(max_length=2048, pattern=NO_NUL)] | UnsetType | None = UNSET
    public_key: Annotated[str, Meta(max_length=8192, pattern=NO_NUL)] | UnsetType | None = UNSET


class RemoveAvatar(Command, frozen=True):
    """Takes the user's picture away."""


class GetUser(Command, frozen=True):
    """Reads another user's profile."""

    user_id: UUID


class SearchUsers(Command, frozen=True):
    """Finds users whose user name or display name begins with the words given."""

    search: Annotated[str, Meta(min_length=1, max_length=100, pattern=NO_NUL)]
    page: PageNumber = 1
    limit: PageLimit = 20


# --- bots (REST) -----------------------------------------------------------------------------


class CreateBot(Command, frozen=True):
    """Makes a bot of the user's, and its API key."""

    username: Username
    scopes: Scopes
    display_name: Name | None = None
    public_key: PublicKey | None = None


class ListBots(Command, frozen=True):
    """Reads the user's bots."""


class GetBot(Command, frozen=True):
    """Reads one of the user's bots."""

    bot_id: UUID


class UpdateBot(Command, frozen=True):
    """Changes what is given; a `public_key` of null takes it away. Other scopes or another key end live sessions."""

    bot_id: UUID
    display_name: Name | UnsetType = UNSET
    scopes: Scopes | UnsetType = UNSET
    public_key: PublicKey | UnsetType | None = UNSET


class RotateBot(Command, frozen=True):
    """Gives a bot a new API key; the old one ends at once."""

    bot_id: UUID


class RevokeBot(Command, frozen=True):
    """Ends a bot for good. Its messages stay."""

    bot_id: UUID


SOCKET_COMMANDS: dict[str, type[Command]] = {
    "authenticate": Authenticate,
    "resume": Resume,
    "ping": Ping,
    "goodbye": Goodbye,
    "sync": Sync,
    "join_chatroom": JoinChatroom,
    "leave_chatroom": LeaveChatroom,
    "typing_start": TypingStart,
    "typing_stop": TypingStop,
    "message_read": MessageRead,
    "send_message": SendMessage,
    "recall_message": RecallMessage,
    "fetch_messages": FetchMessages,
    "create_chatroom": CreateChatroom,
    "list_chatrooms": ListChatrooms,
    "get_chatroom": GetChatroom,
    "update_chatroom": UpdateChatroom,
    "delete_chatroom": DeleteChatroom,
    "add_members": AddMembers,
    "update_member": UpdateMember,
    "remove_member": RemoveMember,
    "mute_member": MuteMember,
    "unmute_member": UnmuteMember,
    "ban_member": BanMember,
    "unban_member": UnbanMember,
    "list_bans": ListBans,
    "leave_membership": LeaveMembership,
    "put_device_key": PutDeviceKey,
    "list_device_keys": ListDeviceKeys,
    "delete_device_key": DeleteDeviceKey,
    "get_user_keys": GetUserKeys,
    "put_chatroom_keys": PutChatroomKeys,
    "get_chatroom_keys": GetChatroomKeys,
    "get_file_urls": GetFileUrls,
}
"""Every command a socket takes, by the `event` of its frame."""

UNCOUNTED_COMMANDS = frozenset({"authenticate", "resume", "ping", "goodbye"})
"""Client frames that resume-by-counting leaves out."""
