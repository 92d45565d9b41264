"""Bots: users of a user's, and the keys by which they sign in.

A bot has at most two sign-ins, one for its API key and one for its public key. When a
key or the scopes change, the sign-in is deleted: whoever holds it is out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple
from uuid import UUID

import asyncpg
from uuid_utils.compat import uuid7

from protocol.errors import CloseCode
from protocol.models import Scope, User
from protocol.text import name_key
from storage import control
from storage.database import Connection
from storage.hints import SignInEnded
from storage.users import UserTaken

BotKey = Literal["api_key", "public_key"]
"""The two ways in, as `client_type` of their sign-ins."""

KEY_ENDED = (CloseCode.auth_failed, "this key has ended")
SCOPES_CHANGED = (CloseCode.session_reset, "the scopes of this bot have changed")
"""Why a sign-in ended, as its sockets are told."""

_BOT = "u.id, u.username, u.display_name, b.scopes, b.public_key, b.created_at"
_LIVE = "b.revoked_at IS NULL"


class PublicKeyTaken(Exception):
    """Another bot has this public key."""


class StoredBot(NamedTuple):
    """A bot as its owner knows it. `public_key` is X25519's."""

    id: UUID
    username: str
    display_name: str
    scopes: tuple[Scope, ...]
    public_key: bytes | None
    created_at: Any


class BotSignIn(NamedTuple):
    """One way in of a bot, as it is at this moment."""

    user: User
    sign_in_id: UUID
    scopes: tuple[Scope, ...]
    key_hash: bytes | None


async def lock_owner(conn: Connection, owner_id: UUID) -> int:
    """How many bots a user has; none is added until the end of the transaction."""
    await conn.execute("SELECT FROM users WHERE id = $1 FOR NO KEY UPDATE", owner_id)
    count: int = await conn.fetchval(f"SELECT count(*) FROM bots b WHERE owner_id = $1 AND {_LIVE}", owner_id)
    return count


async def insert(
    conn: Connection,
    bot_id: UUID,
    owner_id: UUID,
    *,
    username: str,
    display_name: str,
    scopes: Sequence[Scope],
    key_hash: bytes,
    public_key: bytes | None,
) -> None:
    """Makes a bot and its sign-ins. Raises UserTaken or PublicKeyTaken; then the transaction is lost."""
    made = await conn.fetchval(
        """INSERT INTO users (id, username, username_key, display_name, is_bot, created_at, updated_at)
           VALUES ($1, $2, $3, $4, true, now(), now()) ON CONFLICT DO NOTHING RETURNING true""",
        bot_id,
        username,
        name_key(username),
        display_name,
    )
    if not made:
        raise UserTaken("username")
    await conn.execute(
        """INSERT INTO bots (user_id, owner_id, scopes, key_hash, created_at, updated_at)
           VALUES ($1, $2, $3, $4, now(), now())""",
        bot_id,
        owner_id,
        list(scopes),
        key_hash,
    )
    await _begin(conn, bot_id, "api_key")
    if public_key is not None:
        await set_public_key(conn, bot_id, public_key)


async def list_of(conn: Connection, owner_id: UUID) -> tuple[StoredBot, ...]:
    """A user's bots, in the order in which they were made."""
    rows = await conn.fetch(
        f"SELECT {_BOT} FROM bots b JOIN users u ON u.id = b.user_id WHERE b.owner_id = $1 AND {_LIVE} ORDER BY u.id",
        owner_id,
    )
    return tuple(_bot(row) for row in rows)


async def get(conn: Connection, bot_id: UUID, owner_id: UUID, *, lock: bool = False) -> StoredBot | None:
    """A bot of this owner. `lock` keeps others from changing it until the end of the transaction."""
    row = await conn.fetchrow(
        f"""SELECT {_BOT} FROM bots b JOIN users u ON u.id = b.user_id
            WHERE b.user_id = $1 AND b.owner_id = $2 AND {_LIVE} {"FOR UPDATE OF b" if lock else ""}""",
        bot_id,
        owner_id,
    )
    return _bot(row) if row else None


# --- changing: each returns the sign-ins that ended with it ------------------------------------


async def set_api_key(conn: Connection, bot_id: UUID, key_hash: bytes) -> list[UUID]:
    """Gives a bot another API key; the one before ends."""
    ended = await _end(conn, bot_id, ("api_key",))
    await _set(conn, bot_id, {"key_hash": key_hash})
    await _begin(conn, bot_id, "api_key")
    return ended


async def set_public_key(conn: Connection, bot_id: UUID, public_key: bytes | None) -> list[UUID]:
    """Gives a bot another public key, or none; the one before ends. Raises PublicKeyTaken."""
    ended = await _end(conn, bot_id, ("public_key",))
    try:
        await _set(conn, bot_id, {"public_key": public_key})
    except asyncpg.UniqueViolationError:
        raise PublicKeyTaken from None
    if public_key is not None:
        await _begin(conn, bot_id, "public_key")
    return ended


async def set_scopes(conn: Connection, bot_id: UUID, scopes: Sequence[Scope]) -> list[UUID]:
    """Sets what a bot may do. Its keys stay, under new sign-ins: a sign-in has the same scopes all its life."""
    await _set(conn, bot_id, {"scopes": list(scopes)})
    return await _renew(conn, bot_id, SCOPES_CHANGED)


async def _renew(conn: Connection, bot_id: UUID, why: tuple[CloseCode, str]) -> list[UUID]:
    """Puts new sign-ins under the same keys: what was opened with the old ones ends."""
    rows = await conn.fetch("SELECT client_type FROM sign_ins WHERE user_id = $1", bot_id)
    ended = await _end(conn, bot_id, ("api_key", "public_key"), why)
    for row in rows:
        await _begin(conn, bot_id, row["client_type"])
    return ended


_OF = f"SELECT b.user_id FROM bots b WHERE (b.user_id = $1 OR b.owner_id = $1) AND {_LIVE} ORDER BY b.user_id"


async def lock_of(conn: Connection, user_id: UUID) -> None:
    """Keeps others from changing a bot, or the bots of a person, until the end of the transaction."""
    await conn.execute(f"{_OF} FOR UPDATE", user_id)


async def renew_of(conn: Connection, user_id: UUID) -> None:
    """Ends what a bot, or the bots of a person, have open. Their keys stay; whether they open anything is not ours."""
    for row in await conn.fetch(_OF, user_id):
        await _renew(conn, row["user_id"], KEY_ENDED)


async def revoke(conn: Connection, bot_id: UUID) -> list[UUID]:
    """Ends a bot for good. Its user stays, deactivated, as the author of its messages."""
    await _set(conn, bot_id, {"key_hash": None, "public_key": None})
    await conn.execute("UPDATE bots SET revoked_at = now() WHERE user_id = $1", bot_id)
    await conn.execute("UPDATE users SET is_active = false, updated_at = now() WHERE id = $1", bot_id)
    return await _end(conn, bot_id, ("api_key", "public_key"))


async def _set(conn: Connection, bot_id: UUID, values: Mapping[str, Any]) -> None:
    sets = "".join(f"{name} = ${place}, " for place, name in enumerate(values, start=2))
    await conn.execute(f"UPDATE bots SET {sets}updated_at = now() WHERE user_id = $1", bot_id, *values.values())


async def _begin(conn: Connection, bot_id: UUID, key: BotKey) -> None:
    await conn.execute(
        "INSERT INTO sign_ins (id, user_id, client_type, created_at) VALUES ($1, $2, $3, now())", uuid7(), bot_id, key
    )


async def _end(
    conn: Connection, bot_id: UUID, keys: Iterable[BotKey], why: tuple[CloseCode, str] = KEY_ENDED
) -> list[UUID]:
    rows = await conn.fetch(
        "DELETE FROM sign_ins WHERE user_id = $1 AND client_type = ANY($2) RETURNING id", bot_id, list(keys)
    )
    for row in rows:
        await control.write(conn, SignInEnded(row["id"], *why))
    return [row["id"] for row in rows]


# --- signing in ------------------------------------------------------------------------------

_SIGN_IN = """
SELECT u.id, u.username, u.display_name, u.avatar_url, s.id AS sign_in_id, b.scopes, b.key_hash
FROM bots b JOIN users u ON u.id = b.user_id JOIN users o ON o.id = b.owner_id
     JOIN sign_ins s ON s.user_id = b.user_id
WHERE u.is_active AND o.is_active AND
"""


async def find_api_key(conn: Connection, bot_id: UUID) -> BotSignIn | None:
    """The bot's sign-in by API key, whose hash is still to be compared. None when nobody gets in that way."""
    return _sign_in(await conn.fetchrow(_SIGN_IN + "b.user_id = $1 AND s.client_type = 'api_key'", bot_id))


async def find_public_key(conn: Connection, public_key: bytes) -> BotSignIn | None:
    """The sign-in of the bot whose public key this is. None when nobody gets in that way."""
    return _sign_in(await conn.fetchrow(_SIGN_IN + "b.public_key = $1 AND s.client_type = 'public_key'", public_key))


def _sign_in(row: Any) -> BotSignIn | None:
    if row is None:
        return None
    user = User(id=row["id"], username=row["username"], display_name=row["display_name"], avatar_url=row["avatar_url"])
    return BotSignIn(user, row["sign_in_id"], tuple(row["scopes"]), row["key_hash"])


def _bot(row: Any) -> StoredBot:
    values = dict(row)
    return StoredBot(**{**values, "scopes": tuple(values["scopes"])})
