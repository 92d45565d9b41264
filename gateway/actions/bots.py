"""Bots: what they may do, how they prove who they are, and how their owners manage them."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Literal, TypeVar
from uuid import UUID

from msgspec import UNSET
from uuid_utils.compat import uuid7

from crypto import bot_keys
from crypto.bot_keys import ApiKeyInvalid
from crypto.end_to_end import KeyInvalid, decode_public_key
from gateway.actions import rotation
from gateway.actor import Actor
from gateway.services import Services
from protocol import commands
from protocol.commands import Command, CreateBot, GetBot, ListBots, RevokeBot, RotateBot, UpdateBot
from protocol.errors import ChatError, CloseCode
from protocol.events import BotIssued, BotsListed
from protocol.models import Account, Bot, Scope
from protocol.text import require_name, require_text
from storage import bots, device_keys, users
from storage.bots import BotSignIn, PublicKeyTaken, StoredBot
from storage.database import Connection

T = TypeVar("T")

# --- rules -----------------------------------------------------------------------------------

NEEDED: dict[type[Command], Scope | Literal["any", "person"]] = {
    commands.Authenticate: "any",
    commands.Resume: "any",
    commands.Ping: "any",
    commands.Goodbye: "any",
    commands.GetAccount: "any",
    commands.UpdateAccount: "any",
    commands.RemoveAvatar: "any",
    commands.Sync: "read",
    commands.JoinChatroom: "read",
    commands.LeaveChatroom: "read",
    commands.FetchMessages: "read",
    commands.ListChatrooms: "read",
    commands.GetChatroom: "read",
    commands.ListBans: "read",
    commands.GetUser: "read",
    commands.SearchUsers: "read",
    commands.ListDeviceKeys: "read",
    commands.GetUserKeys: "read",
    commands.GetChatroomKeys: "read",
    commands.PutDeviceKey: "write",
    commands.DeleteDeviceKey: "write",
    commands.PutChatroomKeys: "write",
    commands.GetFile: "read",
    commands.ListFiles: "read",
    commands.GetFileUrls: "read",
    commands.CreateUpload: "write",
    commands.GetUpload: "write",
    commands.CompleteUpload: "write",
    commands.AbortUpload: "write",
    commands.DeleteFile: "write",
    commands.SendMessage: "write",
    commands.RecallMessage: "write",
    commands.TypingStart: "write",
    commands.TypingStop: "write",
    commands.MessageRead: "write",
    commands.CreateChatroom: "manage",
    commands.UpdateChatroom: "manage",
    commands.RemoveChatroomAvatar: "manage",
    commands.DeleteChatroom: "manage",
    commands.AddMembers: "manage",
    commands.UpdateMember: "manage",
    commands.RemoveMember: "manage",
    commands.MuteMember: "manage",
    commands.UnmuteMember: "manage",
    commands.BanMember: "manage",
    commands.UnbanMember: "manage",
    commands.LeaveMembership: "manage",
    commands.Register: "person",
    commands.Login: "person",
    commands.Refresh: "person",
    commands.Logout: "person",
    commands.CreateBot: "person",
    commands.ListBots: "person",
    commands.GetBot: "person",
    commands.UpdateBot: "person",
    commands.RotateBot: "person",
    commands.RevokeBot: "person",
}
"""The scope that a bot needs for each command; `any` bot may do some, and some only a `person`."""

SCOPES: tuple[Scope, ...] = ("read", "write", "manage")
"""All there are, in the order in which they are shown."""


def check_scope(actor: Actor | None, command: Command) -> None:
    """A bot may do what its scopes allow; a person, and who has not signed in, is not concerned."""
    if actor is None or actor.scopes is None:
        return
    needed = NEEDED[type(command)]
    if needed == "person":
        raise ChatError("RESOURCE_ACCESS_DENIED", "This is for people, not for bots.")
    if needed != "any" and needed not in actor.scopes:
        raise ChatError("RESOURCE_ACCESS_DENIED", f"This needs the scope {needed}.", details={"scope": needed})


def check_limit(count: int, limit: int) -> None:
    """A user may have so many bots."""
    if count >= limit:
        raise ChatError("RESOURCE_LIMIT_EXCEEDED", f"You may have {limit} bots.", details={"limit": limit})


def check_public_key(text: str | None) -> bytes | None:
    """The bytes of a public key that is good for something."""
    try:
        return None if text is None else decode_public_key(text)
    except KeyInvalid as error:
        message = f"This is no X25519 public key: {error}."
        raise ChatError("VALIDATION_INVALID_VALUE", message, details={"field": "public_key"}) from None


# --- who asks --------------------------------------------------------------------------------


async def authenticate(services: Services, api_key: str) -> Actor:
    """The bot whose API key this is. Raises ChatError AUTH_TOKEN_INVALID, whatever is wrong with the key."""
    try:
        bot_id = bot_keys.bot_of(api_key)
    except ApiKeyInvalid:
        raise ChatError("AUTH_TOKEN_INVALID") from None
    async with services.database.acquire() as conn:
        found = await bots.find_api_key(conn, bot_id)
    if found is None or not bot_keys.matches(api_key, found.key_hash):
        raise ChatError("AUTH_TOKEN_INVALID")
    return _actor(found)


async def authenticate_key(services: Services, public_key: bytes) -> Actor:
    """The bot whose X25519 public key this is. Raises ChatError AUTH_TOKEN_INVALID."""
    async with services.database.acquire() as conn:
        found = await bots.find_public_key(conn, public_key)
    if found is None:
        raise ChatError("AUTH_TOKEN_INVALID")
    return _actor(found)


def _actor(found: BotSignIn) -> Actor:
    return Actor(found.user, found.sign_in_id, None, scopes=frozenset(found.scopes))


# --- managing --------------------------------------------------------------------------------


async def create_bot(services: Services, actor: Actor, command: CreateBot) -> BotIssued:
    """Makes a bot with its API key, shown here and never again.

    Raises ChatError RESOURCE_LIMIT_EXCEEDED; RESOURCE_ALREADY_EXISTS, naming the field; VALIDATION_….
    """
    require_text(command)
    require_name("username", command.username)
    public_key = check_public_key(command.public_key)
    bot_id = uuid7()
    key = bot_keys.new_api_key(bot_id)
    with _taken():
        async with services.database.transaction() as conn:
            check_limit(await bots.lock_owner(conn, actor.user.id), services.config.limit_bots)
            await bots.insert(
                conn,
                bot_id,
                actor.user.id,
                username=command.username,
                display_name=command.display_name or command.username,
                scopes=_ordered(command.scopes),
                key_hash=key.digest,
                public_key=public_key,
            )
            made = _found(await bots.get(conn, bot_id, actor.user.id))
    return BotIssued(bot=_shown(made), api_key=key.text)


async def list_bots(services: Services, actor: Actor, command: ListBots) -> BotsListed:
    """The actor's bots. Those that were revoked are none."""
    del command
    async with services.database.acquire() as conn:
        found = await bots.list_of(conn, actor.user.id)
    return BotsListed(bots=tuple(map(_shown, found)))


async def get_bot(services: Services, actor: Actor, command: GetBot) -> Bot:
    """A bot of the actor's. Raises ChatError RESOURCE_NOT_FOUND, also for somebody else's."""
    async with services.database.acquire() as conn:
        return _shown(_found(await bots.get(conn, command.bot_id, actor.user.id)))


async def update_bot(services: Services, actor: Actor, command: UpdateBot) -> Bot:
    """Changes what is given. What its sessions were opened with holds no longer, so they are closed.

    After a change of scopes they may come back at once; a public key that is gone does not let anyone back.
    Raises ChatError RESOURCE_NOT_FOUND, RESOURCE_ALREADY_EXISTS, VALIDATION_….
    """
    require_text(command)
    changed: list[UUID] = []
    with _taken():
        async with services.database.transaction() as conn:
            before = _found(await bots.get(conn, command.bot_id, actor.user.id, lock=True))
            gone = await _change_public_key(conn, before, command)
            if command.scopes is not UNSET and _ordered(command.scopes) != before.scopes:
                changed = await bots.set_scopes(conn, before.id, _ordered(command.scopes))
            renamed = await _rename(conn, before, command)
            after = _found(await bots.get(conn, before.id, actor.user.id))
    if renamed is not None:
        services.nodes.update_user(users.user_of(renamed))
    _close(services, gone)
    _close(services, changed, bots.SCOPES_CHANGED)
    return _shown(after)


async def _change_public_key(conn: Connection, before: StoredBot, command: UpdateBot) -> list[UUID]:
    if command.public_key is UNSET:
        return []
    public_key = check_public_key(command.public_key)
    return [] if public_key == before.public_key else await bots.set_public_key(conn, before.id, public_key)


async def _rename(conn: Connection, before: StoredBot, command: UpdateBot) -> Account | None:
    if command.display_name is UNSET:
        return None
    return await users.update_account(conn, before.id, {"display_name": command.display_name})


async def rotate_bot(services: Services, actor: Actor, command: RotateBot) -> BotIssued:
    """Gives a bot another API key, shown here and never again. Sockets opened with the old one are closed."""
    key = bot_keys.new_api_key(command.bot_id)
    async with services.database.transaction() as conn:
        bot = _found(await bots.get(conn, command.bot_id, actor.user.id, lock=True))
        gone = await bots.set_api_key(conn, bot.id, key.digest)
    _close(services, gone)
    return BotIssued(bot=_shown(bot), api_key=key.text)


async def revoke_bot(services: Services, actor: Actor, command: RevokeBot) -> None:
    """Ends a bot: its keys, its sockets, its sessions, its devices. Its name stays taken: its messages bear it."""
    async with services.database.transaction() as conn:
        bot = _found(await bots.get(conn, command.bot_id, actor.user.id, lock=True))
        gone = await bots.revoke(conn, bot.id)
        devices = await device_keys.delete_all(conn, bot.id)
    _close(services, gone)
    for device_id in devices:
        await rotation.device_gone(services, bot.id, device_id, "device_deleted")


# --- helpers ---------------------------------------------------------------------------------


def _close(
    services: Services,
    sign_in_ids: Iterable[UUID],
    why: tuple[CloseCode, str] = bots.KEY_ENDED,
) -> None:
    for sign_in_id in sign_in_ids:
        services.nodes.close_sign_in(sign_in_id, *why)


def _found(bot: T | None) -> T:
    if bot is None:
        raise ChatError("RESOURCE_NOT_FOUND", "You have no such bot.", details={"field": "bot_id"})
    return bot


@contextmanager
def _taken() -> Iterator[None]:
    """What exists once, somebody else may have."""
    try:
        yield
    except users.UserTaken:
        raise ChatError("RESOURCE_ALREADY_EXISTS", "This username is taken.", details={"field": "username"}) from None
    except PublicKeyTaken:
        raise ChatError(
            "RESOURCE_ALREADY_EXISTS", "Another bot has this public key.", details={"field": "public_key"}
        ) from None


def _ordered(scopes: Iterable[Scope]) -> tuple[Scope, ...]:
    return tuple(scope for scope in SCOPES if scope in set(scopes))


def _shown(bot: StoredBot) -> Bot:
    return Bot(
        id=bot.id,
        username=bot.username,
        display_name=bot.display_name,
        scopes=bot.scopes,
        public_key=None if bot.public_key is None else b64encode(bot.public_key).decode(),
        created_at=bot.created_at,
    )
