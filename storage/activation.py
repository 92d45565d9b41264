"""Accounts that an operator takes out of use, and gives back."""

from __future__ import annotations

from typing import NamedTuple
from uuid import UUID

from storage import bots, sign_ins, users
from storage.database import Connection


class Named(NamedTuple):
    """The account that a user name or an e-mail address means. A revoked bot has ended for good."""

    id: UUID
    username: str
    is_revoked: bool


async def find(conn: Connection, name: str) -> Named | None:
    """The person or bot of this user name or e-mail address, active or not."""
    column, key = users.column_of(name)
    row = await conn.fetchrow(
        f"""SELECT u.id, u.username, b.revoked_at IS NOT NULL AS is_revoked
            FROM users u LEFT JOIN bots b ON b.user_id = u.id WHERE u.{column} = $1""",
        key,
    )
    return Named(**dict(row)) if row else None


async def deactivate(conn: Connection, user_id: UUID) -> None:
    """Takes an account and its bots out of use: nobody gets in, and the control log closes what they have open.

    A person's sign-ins end for good; bots' keys are good again when the account is activated.
    """
    await bots.lock_of(conn, user_id)  # before the user, as those do who change a bot
    await _set_active(conn, user_id, is_active=False)
    for sign_in_id in await sign_ins.of_person(conn, user_id):
        await sign_ins.revoke(conn, sign_in_id, "deactivated")
    await bots.renew_of(conn, user_id)


async def activate(conn: Connection, user_id: UUID) -> None:
    """Gives an account back. Its user signs in anew."""
    await _set_active(conn, user_id, is_active=True)


async def _set_active(conn: Connection, user_id: UUID, *, is_active: bool) -> None:
    await conn.execute("UPDATE users SET is_active = $2, updated_at = now() WHERE id = $1", user_id, is_active)
