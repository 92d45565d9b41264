"""Sign-ins: families of refresh tokens, each token used once and followed by the next.

Only digests of tokens are here. A used token that comes again is a theft, unless
it comes at once and nobody has used what followed it: then the answer was lost.
The clock is the database's, one for all nodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Literal, NamedTuple
from uuid import UUID

from protocol.errors import CloseCode
from protocol.models import User
from storage import control
from storage.database import Connection
from storage.hints import SignInEnded

ClientType = Literal["web", "mobile"]

KEPT_AFTER_END = timedelta(days=1)
"""How long an expired token is kept: longer than any refresh that has begun in time can last."""


class Lives(NamedTuple):
    """How long a refresh token is good for, by the type of the client that signed in."""

    web: timedelta
    mobile: timedelta


class Rotated(NamedTuple):
    """A refresh that went well: the successor is good for `life`."""

    sign_in_id: UUID
    user_id: UUID
    life: timedelta


class Refused(NamedTuple):
    """A refresh that did not.

    `reused`: the token had been used, and its family is revoked. `inactive`: the
    account is deactivated. `unknown`: no such token, expired, or its family revoked before.
    """

    why: Literal["reused", "inactive", "unknown"]
    sign_in_id: UUID | None = None


class SignIn(NamedTuple):
    """What an access token stands for at this moment."""

    user: User
    is_active: bool
    is_revoked: bool


async def start(
    conn: Connection, sign_in_id: UUID, user_id: UUID, client_type: ClientType, token: bytes, life: timedelta
) -> None:
    """Begins a family with its first token (a digest)."""
    await conn.execute(
        "INSERT INTO sign_ins (id, user_id, client_type, created_at) VALUES ($1, $2, $3, now())",
        sign_in_id,
        user_id,
        client_type,
    )
    await _add_token(conn, sign_in_id, token, life)


async def rotate(conn: Connection, token: bytes, successor: bytes, lives: Lives, retry: timedelta) -> Rotated | Refused:
    """Uses a token and adds its successor (both digests), or says why not.

    Raises nothing on refusal: the caller has to commit, since `reused` revokes the
    family. Copies of one refresh that race wait for each other here and get the same successor.
    """
    row = await _lock(conn, token)
    if row is None or row["is_over"]:
        return Refused("unknown")
    if not row["is_active"]:
        return Refused("inactive")
    if row["used_at"] is None:
        life: timedelta = getattr(lives, row["client_type"])
        await conn.execute("UPDATE refresh_tokens SET used_at = now() WHERE token_hash = $1", token)
        await _add_token(conn, row["sign_in_id"], successor, life)
        return Rotated(row["sign_in_id"], row["user_id"], life)
    left = await _left_of_unused(conn, successor) if row["since_use"] <= retry else None
    if left is not None:
        return Rotated(row["sign_in_id"], row["user_id"], left)
    await revoke(conn, row["sign_in_id"], "reused")
    return Refused("reused", row["sign_in_id"])


async def revoke(conn: Connection, sign_in_id: UUID, why: str) -> bool:
    """Ends a family for good. False when it had ended before."""
    revoked = await conn.fetchval(
        """UPDATE sign_ins SET revoked_at = now(), revoked_why = $2
           WHERE id = $1 AND revoked_at IS NULL RETURNING true""",
        sign_in_id,
        why,
    )
    if revoked:
        await control.write(conn, SignInEnded(sign_in_id, CloseCode.auth_failed, "this sign-in has ended"))
    return bool(revoked)


async def of_person(conn: Connection, user_id: UUID) -> list[UUID]:
    """The sign-ins of a person that have not ended. Those of a bot are its keys."""
    rows = await conn.fetch(
        """SELECT id FROM sign_ins
           WHERE user_id = $1 AND client_type IN ('web', 'mobile') AND revoked_at IS NULL ORDER BY id""",
        user_id,
    )
    return [row["id"] for row in rows]


async def find(conn: Connection, asked: Sequence[tuple[UUID, UUID]]) -> dict[tuple[UUID, UUID], SignIn]:
    """Sign-ins and their users as they are now, bots with their owners, by the ids of both.

    What is missing is no sign-in of that user.
    """
    rows = await conn.fetch(
        """SELECT s.id AS sign_in_id, u.id, u.username, u.display_name, u.avatar_url, s.revoked_at,
               u.is_active AND (NOT u.is_bot OR EXISTS (
                   SELECT FROM bots b JOIN users o ON o.id = b.owner_id WHERE b.user_id = u.id AND o.is_active
               )) AS is_active
           FROM unnest($1::uuid[], $2::uuid[]) AS k(id, user_id)
           JOIN sign_ins s ON s.id = k.id AND s.user_id = k.user_id JOIN users u ON u.id = s.user_id""",
        [sign_in_id for sign_in_id, _ in asked],
        [user_id for _, user_id in asked],
    )
    return {(row["sign_in_id"], row["id"]): _sign_in(row) for row in rows}


def _sign_in(row: Any) -> SignIn:
    user = User(id=row["id"], username=row["username"], display_name=row["display_name"], avatar_url=row["avatar_url"])
    return SignIn(user, row["is_active"], row["revoked_at"] is not None)


async def purge(conn: Connection) -> int:
    """Forgets tokens a day after they expired, and sign-ins that have none left. How many tokens went."""
    rows = await conn.fetch(
        "DELETE FROM refresh_tokens WHERE expires_at < now() - $1::interval RETURNING sign_in_id", KEPT_AFTER_END
    )
    await conn.execute(
        """DELETE FROM sign_ins s WHERE id = ANY($1)
           AND NOT EXISTS (SELECT FROM refresh_tokens t WHERE t.sign_in_id = s.id)""",
        list({row["sign_in_id"] for row in rows}),
    )
    return len(rows)


async def _lock(conn: Connection, token: bytes) -> Any:
    """The token and its family, held until the end of the transaction."""
    return await conn.fetchrow(
        """SELECT t.sign_in_id, t.used_at, clock_timestamp() - t.used_at AS since_use, s.user_id, s.client_type,
               s.revoked_at IS NOT NULL OR t.expires_at <= clock_timestamp() AS is_over, u.is_active
           FROM refresh_tokens t JOIN sign_ins s ON s.id = t.sign_in_id JOIN users u ON u.id = s.user_id
           WHERE t.token_hash = $1 FOR UPDATE OF t, s""",
        token,
    )


async def _left_of_unused(conn: Connection, token: bytes) -> timedelta | None:
    """How long a token is still good for, if nobody has used it."""
    left: timedelta | None = await conn.fetchval(
        "SELECT expires_at - clock_timestamp() FROM refresh_tokens WHERE token_hash = $1 AND used_at IS NULL", token
    )
    return left


async def _add_token(conn: Connection, sign_in_id: UUID, token: bytes, life: timedelta) -> None:
    await conn.execute(
        """INSERT INTO refresh_tokens (token_hash, sign_in_id, issued_at, expires_at)
           VALUES ($1, $2, now(), now() + $3::interval)""",
        token,
        sign_in_id,
        life,
    )
