"""The route table: which command stands behind which method and path."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from msgspec import Struct

from protocol import commands, events, models
from protocol.commands import Command

MOUNTS = ("/api/v1", "")
"""Where the whole table stands: under its version, and at the root as the reference API has it."""


@dataclass(frozen=True, slots=True)
class Route:
    """One line of the table.

    `result` is what the command gives and what stands under `data`; None where the
    answer is a `message` alone. `repeated` tells from the result that nothing was made,
    in which case the answer is 200 rather than `status`. `anonymous` needs no token. `upload` is
    counted among a user's uploads as well.
    """

    method: str
    path: str
    command: type[Command]
    result: type[Struct] | None
    status: int = 200
    anonymous: bool = False
    message: str | None = None
    repeated: Callable[[Any], bool] | None = None
    upload: bool = False

    def status_of(self, result: Struct | None) -> int:
        """The HTTP status of one result."""
        return 200 if self.repeated is not None and self.repeated(result) else self.status

    @property
    def statuses(self) -> tuple[int, ...]:
        """Every status that success may have."""
        return (self.status,) if self.repeated is None else (200, self.status)


def _existed(result: events.ChatroomChanged) -> bool:
    return not result.created


def _known(result: events.MessageSent) -> bool:
    return result.duplicate


ROUTES: tuple[Route, ...] = (
    Route("POST", "/auth/register", commands.Register, events.SignedIn, 201, anonymous=True),
    Route("POST", "/auth/login", commands.Login, events.SignedIn, anonymous=True),
    Route("POST", "/auth/refresh", commands.Refresh, events.Refreshed, anonymous=True),
    Route("POST", "/auth/logout", commands.Logout, None, message="Logged out successfully"),
    Route("GET", "/users/me", commands.GetAccount, models.Account),
    Route("PUT", "/users/me", commands.UpdateAccount, models.Account),
    Route("DELETE", "/users/me/avatar", commands.RemoveAvatar, models.Account),
    Route("GET", "/users/me/keys", commands.ListDeviceKeys, events.DeviceKeysListed),
    Route("PUT", "/users/me/keys", commands.PutDeviceKey, events.DeviceKeyPut),
    Route("DELETE", "/users/me/keys", commands.DeleteDeviceKey, events.DeviceKeyDeleted),
    Route("GET", "/users/me/files", commands.ListFiles, events.FilesListed),
    Route("GET", "/users", commands.SearchUsers, events.UsersFound),
    Route("GET", "/users/{user_id}", commands.GetUser, models.UserProfile),
    Route("GET", "/users/{user_id}/keys", commands.GetUserKeys, events.DeviceKeysListed),
    Route("GET", "/bots", commands.ListBots, events.BotsListed),
    Route("POST", "/bots", commands.CreateBot, events.BotIssued, 201),
    Route("GET", "/bots/{bot_id}", commands.GetBot, models.Bot),
    Route("PUT", "/bots/{bot_id}", commands.UpdateBot, models.Bot),
    Route("DELETE", "/bots/{bot_id}", commands.RevokeBot, None, message="The bot is revoked"),
    Route("POST", "/bots/{bot_id}/rotate", commands.RotateBot, events.BotIssued),
    Route("GET", "/chatrooms", commands.ListChatrooms, events.ChatroomsListed),
    Route("POST", "/chatrooms", commands.CreateChatroom, events.ChatroomChanged, 201, repeated=_existed),
    Route("GET", "/chatrooms/{chatroom_id}", commands.GetChatroom, events.ChatroomFetched),
    Route("PUT", "/chatrooms/{chatroom_id}", commands.UpdateChatroom, events.ChatroomChanged),
    Route("DELETE", "/chatrooms/{chatroom_id}", commands.DeleteChatroom, events.Done),
    Route("DELETE", "/chatrooms/{chatroom_id}/avatar", commands.RemoveChatroomAvatar, events.ChatroomChanged),
    Route("POST", "/chatrooms/{chatroom_id}/members", commands.AddMembers, events.MembersAdded),
    Route("PUT", "/chatrooms/{chatroom_id}/members/{user_id}", commands.UpdateMember, events.Done),
    Route("DELETE", "/chatrooms/{chatroom_id}/members/{user_id}", commands.RemoveMember, events.Done),
    Route("PUT", "/chatrooms/{chatroom_id}/members/{user_id}/mute", commands.MuteMember, events.Done),
    Route("DELETE", "/chatrooms/{chatroom_id}/members/{user_id}/mute", commands.UnmuteMember, events.Done),
    Route("GET", "/chatrooms/{chatroom_id}/bans", commands.ListBans, events.BansListed),
    Route("PUT", "/chatrooms/{chatroom_id}/bans/{user_id}", commands.BanMember, events.Done),
    Route("DELETE", "/chatrooms/{chatroom_id}/bans/{user_id}", commands.UnbanMember, events.Done),
    Route("POST", "/chatrooms/{chatroom_id}/leave", commands.LeaveMembership, events.Done),
    Route("GET", "/chatrooms/{chatroom_id}/messages", commands.FetchMessages, events.MessagesFetched),
    Route("POST", "/chatrooms/{chatroom_id}/messages", commands.SendMessage, events.MessageSent, 201, repeated=_known),
    Route("DELETE", "/chatrooms/{chatroom_id}/messages/{message_id}", commands.RecallMessage, events.Done),
    Route("POST", "/chatrooms/{chatroom_id}/read", commands.MessageRead, events.ReadPosition),
    Route("GET", "/chatrooms/{chatroom_id}/keys", commands.GetChatroomKeys, events.ChatroomKeysFetched),
    Route("POST", "/chatrooms/{chatroom_id}/keys", commands.PutChatroomKeys, events.ChatroomKeysPut),
    Route("POST", "/files", commands.CreateUpload, events.UploadStarted, 201, upload=True),
    Route("POST", "/files/urls", commands.GetFileUrls, events.FileUrlsSigned),
    Route("GET", "/files/uploads/{file_id}", commands.GetUpload, events.UploadStarted),
    Route("DELETE", "/files/uploads/{file_id}", commands.AbortUpload, None, message="The upload is dropped"),
    Route("POST", "/files/uploads/{file_id}/complete", commands.CompleteUpload, models.UploadedFile),
    Route("GET", "/files/{file_id}/info", commands.GetFile, models.UploadedFile),
    Route("DELETE", "/files/{file_id}", commands.DeleteFile, None, message="The file is deleted"),
)
"""Every address that is a command. `/users/me…` stands before `/users/{user_id}…`, which would take it."""
