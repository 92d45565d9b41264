"""Users: their accounts, and what others see of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple
from uuid import UUID

from protocol.models import Account, User, UserProfile
from protocol.text import name_key
from storage import control
from storage.database import Connection
from storage.hints import UserChanged

_ACCOUNT = "id, username, email, display_name, avatar_url, public_key, is_verified, is_bot, created_at, last_login"
_PROFILE = "id, username, display_name, avatar_url, public_key, is_bot, created_at"
_CHANGEABLE = ("display_name", "avatar_url", "public_key")
_FOUND = r"is_active AND (username_key LIKE $1 OR lower(display_name) LIKE lower($2))"


class UserTaken(Exception):
    """Someone else has the user name or the e-mail address; `field` says which."""

    def __init__(self, field: str) -> None:
        self.field = field
        super().__init__(f"the {field} is taken")


class Login(NamedTuple):
    """What a sign-in starts from."""

    user_id: UUID
    password_hash: str


async def insert(
    conn: Connection,
    user_id: UUID,
    *,
    username: str,
    email: str,
    display_name: str,
    public_key: str | None,
    password_hash: str,
) -> Account:
    """Makes an account that has just signed in. Raises UserTaken; names are compared by their folded form."""
    row = await conn.fetchrow(
        f"""INSERT INTO users (id, username, username_key, email, email_key, display_name, public_key,
                password_hash, created_at, updated_at, last_login)
            VALUES ($1, $2, $3, $4, $5, $6, $7, $8, now(), now(), now())
            ON CONFLICT DO NOTHING RETURNING {_ACCOUNT}""",
        user_id,
        username,
        name_key(username),
        email,
        name_key(email),
        display_name,
        public_key,
        password_hash,
    )
    if row is None:
        raise UserTaken(await _taken(conn, username))
    return Account(**dict(row))


async def _taken(conn: Connection, username: str) -> str:
    taken = await conn.fetchval("SELECT EXISTS (SELECT FROM users WHERE username_key = $1)", name_key(username))
    return "username" if taken else "email"


async def find_login(conn: Connection, name: str) -> Login | None:
    """The user with this user name or e-mail address, active or not. A bot has no password to sign in with."""
    column, key = column_of(name)
    row = await conn.fetchrow(f"SELECT id, password_hash FROM users WHERE {column} = $1 AND NOT is_bot", key)
    return Login(row["id"], row["password_hash"]) if row else None


def column_of(name: str) -> tuple[str, str]:
    """Where a user name or an e-mail address is found, and as what.

    Only an address has an @, so nobody can take a name that is someone's address.
    """
    key = name_key(name)
    return ("email_key" if "@" in key else "username_key"), key


async def record_login(conn: Connection, user_id: UUID) -> Account | None:
    """Sets the time of the last sign-in. None when the account is deactivated."""
    return await _account(
        conn, f"UPDATE users SET last_login = now() WHERE id = $1 AND is_active RETURNING {_ACCOUNT}", user_id
    )


async def get_account(conn: Connection, user_id: UUID) -> Account | None:
    """What a user sees of their own account."""
    return await _account(conn, f"SELECT {_ACCOUNT} FROM users WHERE id = $1", user_id)


async def update_account(conn: Connection, user_id: UUID, changes: Mapping[str, str | None]) -> Account | None:
    """Sets the display_name, avatar_url and public_key that are given, and leaves the others."""
    given = [name for name in _CHANGEABLE if name in changes]
    sets = "".join(f"{name} = ${number}, " for number, name in enumerate(given, start=2))
    account = await _account(
        conn,
        f"UPDATE users SET {sets}updated_at = now() WHERE id = $1 RETURNING {_ACCOUNT}",
        user_id,
        *(changes[name] for name in given),
    )
    if account is not None:
        await control.write(conn, UserChanged(user_of(account)))
    return account


async def get_profile(conn: Connection, user_id: UUID) -> UserProfile | None:
    """What others see of a user. A deactivated one is still the author of their messages."""
    row = await conn.fetchrow(f"SELECT {_PROFILE} FROM users WHERE id = $1", user_id)
    return UserProfile(**dict(row)) if row else None


async def search(conn: Connection, words: str, limit: int, offset: int) -> tuple[tuple[UserProfile, ...], int]:
    """One page of the active users whose user name or display name begins with the words, and how many there are."""
    patterns = (_prefix(name_key(words)), _prefix(words))
    total = await conn.fetchval(f"SELECT count(*) FROM users WHERE {_FOUND}", *patterns)
    rows = await conn.fetch(
        f"SELECT {_PROFILE} FROM users WHERE {_FOUND} ORDER BY username_key LIMIT $3 OFFSET $4",
        *patterns,
        limit,
        offset,
    )
    return tuple(UserProfile(**dict(row)) for row in rows), total


def user_of(account: Account) -> User:
    """What members of a chatroom see of an account."""
    return User(
        id=account.id,
        username=account.username,
        display_name=account.display_name,
        avatar_url=account.avatar_url,
    )


def _prefix(words: str) -> str:
    """A LIKE pattern for what begins with the words; their own wildcards stand for themselves."""
    return words.replace("\\", r"\\").replace("%", r"\%").replace("_", r"\_") + "%"


async def _account(conn: Connection, query: str, *values: Any) -> Account | None:
    row = await conn.fetchrow(query, *values)
    return Account(**dict(row)) if row else None
