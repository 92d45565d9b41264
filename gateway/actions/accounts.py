"""Accounts: signing in and out, and what users see of themselves and of one another."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from math import ceil
from typing import TypeVar

from msgspec import UNSET, structs
from uuid_utils.compat import uuid7

from crypto.passwords import PasswordQueueFull
from crypto.tokens import TokenExpired, TokenInvalid
from gateway.actor import Actor
from gateway.services import Services
from protocol.commands import (
    GetAccount,
    GetUser,
    Login,
    Logout,
    Refresh,
    Register,
    SearchUsers,
    UpdateAccount,
)
from protocol.errors import ChatError, CloseCode
from protocol.events import Refreshed, SignedIn, UsersFound
from protocol.models import Account, Pagination, UserProfile
from protocol.text import require_name, require_text
from storage import avatars, sign_ins, users
from storage.database import Connection
from storage.sign_ins import ClientType, Lives, Refused

T = TypeVar("T")

# --- rules -----------------------------------------------------------------------------------


def check_registration(command: Register) -> None:
    """Names are visible text that nobody can mistake for someone else's; everything can be stored."""
    require_text(command)
    require_name("username", command.username)
    require_name("email", command.email)


# --- who asks --------------------------------------------------------------------------------


async def authenticate(services: Services, token: str) -> Actor:
    """The user whose access token this is, as they are now.

    Raises ChatError AUTH_TOKEN_EXPIRED; AUTH_TOKEN_INVALID, also when the sign-in
    has ended since; AUTH_USER_INACTIVE.
    """
    try:
        claims = services.access_tokens.verify(token)
    except TokenExpired:
        raise ChatError("AUTH_TOKEN_EXPIRED") from None
    except TokenInvalid:
        raise ChatError("AUTH_TOKEN_INVALID") from None
    sign_in = await services.lookups.sign_ins.get((claims.sign_in_id, claims.user_id))
    if sign_in is None or sign_in.is_revoked:
        raise ChatError("AUTH_TOKEN_INVALID")
    if not sign_in.is_active:
        raise ChatError("AUTH_USER_INACTIVE")
    return Actor(sign_in.user, claims.sign_in_id, claims.expires_at)


# --- signing in and out ----------------------------------------------------------------------


async def register(services: Services, actor: Actor | None, command: Register) -> SignedIn:
    """Makes an account and signs in.

    Raises ChatError RESOURCE_ALREADY_EXISTS, naming the field; VALIDATION_INVALID_FORMAT; RATE_LIMIT_EXCEEDED.
    """
    del actor
    check_registration(command)
    async with _password_room():
        password_hash = await services.passwords.hash(command.password)
    try:
        async with services.database.transaction() as conn:
            account = await _insert(conn, command, password_hash)
            return await _sign_in(services, conn, account, command.client_type)
    except users.UserTaken as taken:
        message = f"This {taken.field} is taken."
        raise ChatError("RESOURCE_ALREADY_EXISTS", message, details={"field": taken.field}) from None


async def login(services: Services, actor: Actor | None, command: Login) -> SignedIn:
    """Signs in. An unknown user and a wrong password have the same answer, after the same work.

    Raises ChatError AUTH_INVALID_CREDENTIALS; AUTH_USER_INACTIVE, only to who knows the password; RATE_LIMIT_EXCEEDED.
    """
    del actor
    require_text(command)
    async with services.database.acquire() as conn:
        found = await users.find_login(conn, command.username)
    # No connection is held while the password waits for its turn.
    async with _password_room():
        matches = await services.passwords.verify(found.password_hash if found else None, command.password)
    if found is None or not matches:
        raise ChatError("AUTH_INVALID_CREDENTIALS")
    async with services.database.transaction() as conn:
        account = await users.record_login(conn, found.user_id)
        if account is None:
            raise ChatError("AUTH_USER_INACTIVE")
        return await _sign_in(services, conn, account, command.client_type)


async def refresh(services: Services, actor: Actor | None, command: Refresh) -> Refreshed:
    """Changes a refresh token for a new pair; a token that comes a second time ends its sign-in.

    Raises ChatError AUTH_REFRESH_TOKEN_INVALID or AUTH_USER_INACTIVE.
    """
    del actor
    tokens = services.refresh_tokens
    successor = tokens.successor(command.refresh_token)
    digests = tokens.digest(command.refresh_token), tokens.digest(successor)
    retry = timedelta(seconds=services.config.refresh_retry)
    # Refusals are raised only after the commit: a reuse has revoked the sign-in.
    async with services.database.transaction() as conn:
        outcome = await sign_ins.rotate(conn, *digests, _lives(services), retry)
    if isinstance(outcome, Refused):
        raise _refusal(services, outcome)
    access_token, _ = services.access_tokens.issue(outcome.user_id, outcome.sign_in_id)
    return Refreshed(
        access_token=access_token,
        refresh_token=successor,
        expires_in=services.config.access_token_life,
        refresh_expires_in=int(outcome.life.total_seconds()),
    )


def _refusal(services: Services, refused: Refused) -> ChatError:
    """Closes the sockets of a sign-in that was revoked, and says what the client hears."""
    if refused.sign_in_id:
        services.nodes.close_sign_in(refused.sign_in_id, CloseCode.auth_failed)
    return ChatError("AUTH_USER_INACTIVE" if refused.why == "inactive" else "AUTH_REFRESH_TOKEN_INVALID")


async def logout(services: Services, actor: Actor, command: Logout) -> None:
    """Ends the actor's sign-in: its tokens and its sockets."""
    del command
    async with services.database.transaction() as conn:
        await sign_ins.revoke(conn, actor.sign_in_id, "logout")
    services.nodes.close_sign_in(actor.sign_in_id, CloseCode.auth_failed)


# --- accounts and profiles -------------------------------------------------------------------


async def get_account(services: Services, actor: Actor, command: GetAccount) -> Account:
    """The actor's own account."""
    del command
    async with services.database.acquire() as conn:
        return _found(await users.get_account(conn, actor.user.id))


async def update_account(services: Services, actor: Actor, command: UpdateAccount) -> Account:
    """Changes what is given, and tells the actor's sessions. Raises ChatError VALIDATION_INVALID_FORMAT."""
    require_text(command)
    changes = {field: value for field, value in structs.asdict(command).items() if value is not UNSET}
    async with services.database.transaction() as conn:
        account = _found(await users.update_account(conn, actor.user.id, changes))
        # A picture that was uploaded is not kept for what is not shown any more.
        cleared = await avatars.remove_of_user(conn, actor.user.id, but=account.avatar_url)
    services.nodes.update_user(users.user_of(account))
    if cleared.file_ids:
        await services.files.forget(cleared)
    return account


async def get_user(services: Services, actor: Actor, command: GetUser) -> UserProfile:
    """Another user's profile. Raises ChatError AUTH_USER_NOT_FOUND."""
    del actor
    async with services.database.acquire() as conn:
        return _found(await users.get_profile(conn, command.user_id))


async def search_users(services: Services, actor: Actor, command: SearchUsers) -> UsersFound:
    """A page of the users whose names begin with the words given, by user name."""
    del actor
    require_text(command)
    offset = (command.page - 1) * command.limit
    async with services.database.acquire() as conn:
        found, total = await users.search(conn, command.search, command.limit, offset)
    pagination = Pagination(
        page=command.page,
        limit=command.limit,
        total=total,
        pages=ceil(total / command.limit),
        has_more=offset + len(found) < total,
    )
    return UsersFound(users=found, pagination=pagination)


# --- helpers ---------------------------------------------------------------------------------


def _found(value: T | None) -> T:
    if value is None:
        raise ChatError("AUTH_USER_NOT_FOUND")
    return value


@asynccontextmanager
async def _password_room() -> AsyncIterator[None]:
    """Passwords have a queue of their own; when it is full, that is a rate limit."""
    try:
        yield
    except PasswordQueueFull as full:
        raise ChatError("RATE_LIMIT_EXCEEDED", retry_after=full.retry_after) from None


async def _insert(conn: Connection, command: Register, password_hash: str) -> Account:
    return await users.insert(
        conn,
        uuid7(),
        username=command.username,
        email=command.email,
        display_name=command.display_name or command.username,
        public_key=command.public_key,
        password_hash=password_hash,
    )


async def _sign_in(services: Services, conn: Connection, account: Account, client_type: ClientType) -> SignedIn:
    """Starts a family of refresh tokens, and issues its first pair."""
    sign_in_id = uuid7()
    refresh_token = services.refresh_tokens.first()
    life: timedelta = getattr(_lives(services), client_type)
    await sign_ins.start(conn, sign_in_id, account.id, client_type, services.refresh_tokens.digest(refresh_token), life)
    access_token, _ = services.access_tokens.issue(account.id, sign_in_id)
    return SignedIn(
        user=account,
        access_token=access_token,
        refresh_token=refresh_token,
        expires_in=services.config.access_token_life,
        refresh_expires_in=int(life.total_seconds()),
    )


def _lives(services: Services) -> Lives:
    config = services.config
    return Lives(timedelta(seconds=config.refresh_token_life_web), timedelta(seconds=config.refresh_token_life_mobile))
