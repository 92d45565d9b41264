"""The one way in, from every door: a command goes to its action, the answer comes back or a ChatError is raised."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, cast
from uuid import UUID

from msgspec import Struct

from crypto import bot_keys
from gateway.actions import (
    accounts,
    avatars,
    bots,
    downloads,
    keys,
    live,
    members,
    messages,
    moderation,
    own_files,
    part_uploads,
    recall,
    rooms,
)
from gateway.actor import Actor
from gateway.file_door import FileDoor
from gateway.rates import Allowance
from gateway.services import Services
from protocol import commands
from protocol.commands import Command, SendMessage
from protocol.errors import ChatError
from protocol.events import Event
from storage.journal import Settle, settle_future

log = logging.getLogger(__name__)

Action = Callable[[Services, Any, Any], Awaitable[Struct | None]]

ACTIONS: dict[type[Command], Action] = {
    commands.Register: accounts.register,
    commands.Login: accounts.login,
    commands.Refresh: accounts.refresh,
    commands.Logout: accounts.logout,
    commands.GetAccount: accounts.get_account,
    commands.UpdateAccount: accounts.update_account,
    commands.RemoveAvatar: avatars.remove_avatar,
    commands.GetUser: accounts.get_user,
    commands.SearchUsers: accounts.search_users,
    commands.CreateBot: bots.create_bot,
    commands.ListBots: bots.list_bots,
    commands.GetBot: bots.get_bot,
    commands.UpdateBot: bots.update_bot,
    commands.RotateBot: bots.rotate_bot,
    commands.RevokeBot: bots.revoke_bot,
    commands.CreateChatroom: rooms.create_chatroom,
    commands.ListChatrooms: rooms.list_chatrooms,
    commands.GetChatroom: rooms.get_chatroom,
    commands.UpdateChatroom: rooms.update_chatroom,
    commands.RemoveChatroomAvatar: avatars.remove_chatroom_avatar,
    commands.DeleteChatroom: rooms.delete_chatroom,
    commands.AddMembers: members.add_members,
    commands.UpdateMember: members.update_member,
    commands.RemoveMember: members.remove_member,
    commands.MuteMember: moderation.mute_member,
    commands.UnmuteMember: moderation.unmute_member,
    commands.BanMember: moderation.ban_member,
    commands.UnbanMember: moderation.unban_member,
    commands.ListBans: moderation.list_bans,
    commands.LeaveMembership: members.leave_membership,
    commands.PutDeviceKey: keys.put_device_key,
    commands.ListDeviceKeys: keys.list_device_keys,
    commands.DeleteDeviceKey: keys.delete_device_key,
    commands.GetUserKeys: keys.get_user_keys,
    commands.PutChatroomKeys: keys.put_chatroom_keys,
    commands.GetChatroomKeys: keys.get_chatroom_keys,
    commands.CreateUpload: part_uploads.create_upload,
    commands.GetUpload: part_uploads.get_upload,
    commands.CompleteUpload: part_uploads.complete_upload,
    commands.AbortUpload: part_uploads.abort_upload,
    commands.ListFiles: own_files.list_files,
    commands.DeleteFile: own_files.delete_file,
    commands.GetFile: downloads.get_file,
    commands.GetFileUrls: downloads.get_file_urls,
    commands.RecallMessage: recall.recall_message,
    commands.FetchMessages: messages.fetch_messages,
    commands.MessageRead: messages.message_read,
    commands.JoinChatroom: live.join_chatroom,
    commands.LeaveChatroom: live.leave_chatroom,
    commands.TypingStart: live.typing_start,
    commands.TypingStop: live.typing_stop,
    commands.Sync: live.sync,
}
"""What each command does. SendMessage alone goes straight to the journal."""

ANONYMOUS = (commands.Register, commands.Login, commands.Refresh)
"""Commands that need no signed-in user."""


HEALTH_SECONDS = 1.0
"""How long an answer about health is given again."""


class Chat:
    """Commands in, answers out."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._health: tuple[float, dict[str, str]] = (float("-inf"), {})
        self.ready = True
        self.files = FileDoor(services)

    async def authenticate(self, token: str) -> Actor:
        """The user of an access token, or the bot of an API key.

        Raises ChatError AUTH_TOKEN_EXPIRED, AUTH_TOKEN_INVALID, AUTH_USER_INACTIVE.
        """
        if bot_keys.is_api_key(token):
            return await bots.authenticate(self._services, token)
        return await accounts.authenticate(self._services, token)

    async def authenticate_key(self, public_key: bytes) -> Actor:
        """The bot of an X25519 public key. That the other end has the private key is for the caller to have seen.

        Raises ChatError AUTH_TOKEN_INVALID.
        """
        return await bots.authenticate_key(self._services, public_key)

    async def handle(self, actor: Actor | None, command: Command) -> Struct | None:
        """Does a command and returns its answer, for durable ones once it is on disk. Raises ChatError."""
        if actor is None and not isinstance(command, ANONYMOUS):
            raise ChatError("AUTH_REQUIRED")
        try:
            answer = await self._act(actor, command)
        except ChatError as error:
            self._services.metrics.command(type(command).__name__, error.code)
            raise
        except Exception as error:
            log.exception("a command failed", extra={"command": type(command).__name__})
            self._services.metrics.command(type(command).__name__, "INTERNAL_ERROR")
            raise ChatError("INTERNAL_ERROR") from error
        self._services.metrics.command(type(command).__name__, "ok")
        return answer

    async def _act(self, actor: Actor | None, command: Command) -> Struct | None:
        bots.check_scope(actor, command)
        if isinstance(command, SendMessage):
            return await self._send(cast("Actor", actor), command)
        return await ACTIONS[type(command)](self._services, actor, command)

    async def _send(self, actor: Actor, command: SendMessage) -> Event:
        await self.prepare(actor, command)
        sending = messages.begin_send(self._services, actor, command)
        if sending is None:
            raise ChatError("CHATROOM_NOT_FOUND")
        future: asyncio.Future[Event] = asyncio.get_running_loop().create_future()
        self._services.journal.send(sending, settle_future(future))
        return await future

    async def prepare(self, actor: Actor, command: SendMessage) -> None:
        """Loads what `begin` needs to work at once. Raises ChatError MESSAGE_TOO_LONG, CHATROOM_NOT_FOUND and others.

        Scope and length come first, whether the chatroom exists or not: what is refused first must not tell outsiders.
        """
        bots.check_scope(actor, command)
        messages.check_length(command, self._services.config.limit_text)
        await self._services.room_keys.get(command.chatroom_id)
        if command.attachments:
            await self._services.files.remember([reference.id for reference in command.attachments])

    def can_begin(self, command: SendMessage) -> bool:
        """Whether `begin` would work at once."""
        return not command.attachments and self._services.room_keys.cached(command.chatroom_id) is not None

    def begin(self, actor: Actor, command: SendMessage, settle: Settle) -> bool:
        """Puts a send into the journal in this very turn of the loop, which keeps a session's sends in order.

        `settle` gets the answer or the ChatError. False when `prepare` has to be awaited first.
        """
        metrics = self._services.metrics

        def counted(outcome: Any) -> None:
            metrics.command("SendMessage", outcome.code if isinstance(outcome, ChatError) else "ok")
            settle(outcome)

        try:
            bots.check_scope(actor, command)
            sending = messages.begin_send(self._services, actor, command)
        except ChatError as error:
            counted(error)
            return True
        if sending is None:
            return False
        self._services.journal.send(sending, counted)
        return True

    async def take(self, key: str) -> Allowance:
        """Counts one request of a user or an address, on all nodes and doors together. `key` names it."""
        return await self._services.rates.take(key)

    async def take_upload(self, user_id: UUID) -> Allowance:
        """Counts one upload of a user, on all nodes together."""
        return await self._services.uploads.take(f"uploads:{user_id}")

    def jwks(self) -> dict[str, Any]:
        """The public keys of access tokens (RFC 7517)."""
        return self._services.access_tokens.jwks()

    async def health(self) -> dict[str, str]:
        """Each service behind Parley: `healthy`, `unhealthy`, or `degraded` where Parley can do without.

        Anyone may ask, so the answer holds for a second.
        """
        now = asyncio.get_running_loop().time()
        if now - self._health[0] > HEALTH_SECONDS:
            others = self._redis_health() | self._files_health() | self._clamd_health()
            self._health = (now, {"database": await self._database_health()} | others)
        return self._health[1]

    def _redis_health(self) -> dict[str, str]:
        connected = self._services.nodes.connected
        return {} if connected is None else {"redis": "healthy" if connected else "degraded"}

    def _files_health(self) -> dict[str, str]:
        reachable = self._services.files.blobs.reachable
        return {} if reachable is None else {"files": "healthy" if reachable else "degraded"}

    def _clamd_health(self) -> dict[str, str]:
        scanner = self._services.scanner
        return {} if scanner is None else {"clamd": "degraded" if scanner.is_away else "healthy"}

    async def _database_health(self) -> str:
        try:
            async with self._services.database.acquire() as conn:
                await conn.fetchval("SELECT 1")
        except ChatError:
            return "unhealthy"
        return "healthy"
