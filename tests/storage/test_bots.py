"""Bots in the database: who has how many, and which keys let them in."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from protocol.models import Scope
from storage import bots, rooms, sign_ins, users
from storage.bots import PublicKeyTaken
from storage.database import Connection, Database
from storage.users import UserTaken

PUBLIC_KEY = bytes(range(32))


async def person(conn: Connection, name: str = "ann") -> UUID:
    """Somebody who may own bots."""
    fields = {"username": name, "email": f"{name}@example.com", "display_name": name}
    account = await users.insert(conn, uuid4(), **fields, public_key=None, password_hash="x")
    return account.id


async def bot(conn: Connection, owner_id: UUID, name: str = "robo", **changes: Any) -> UUID:
    """A new bot."""
    bot_id = uuid4()
    scopes: tuple[Scope, ...] = ("read", "write")
    fields: dict[str, Any] = {"username": name, "display_name": name, "scopes": scopes, "key_hash": b"1"}
    await bots.insert(conn, bot_id, owner_id, **{**fields, "public_key": None, **changes})
    return bot_id


async def test_a_new_bot(db: Database) -> None:
    """It is its owner's, a user like any other but for the mark, and gets in by its key."""
    async with db.transaction() as conn:
        ann = await person(conn)
        bot_id = await bot(conn, ann, public_key=PUBLIC_KEY)
        found = await bots.get(conn, bot_id, ann)
        assert found is not None
        assert (found.username, found.scopes, found.public_key) == ("robo", ("read", "write"), PUBLIC_KEY)
        assert await bots.list_of(conn, ann) == (found,)
        profile = await users.get_profile(conn, bot_id)
        assert profile is not None
        assert profile.is_bot
        assert bot_id in await rooms.existing_users(conn, [bot_id])
        by_key, by_public_key = await bots.find_api_key(conn, bot_id), await bots.find_public_key(conn, PUBLIC_KEY)
        assert by_key is not None
        assert by_public_key is not None
        assert (by_key.user.id, by_key.scopes, by_key.key_hash) == (bot_id, ("read", "write"), b"1")
        assert by_public_key.user.id == bot_id
        assert by_public_key.sign_in_id != by_key.sign_in_id
        sign_in = (await sign_ins.find(conn, [(by_key.sign_in_id, bot_id)])).get((by_key.sign_in_id, bot_id))
        assert sign_in is not None
        assert (sign_in.is_active, sign_in.is_revoked) == (True, False)


async def test_no_password(db: Database) -> None:
    """A bot cannot log in: there is nothing to compare a password with, by name or by address."""
    async with db.transaction() as conn:
        await bot(conn, await person(conn))
        assert await users.find_login(conn, "robo") is None


@pytest.mark.parametrize("is_bot", [True, False])
async def test_ways_in(db: Database, is_bot: bool) -> None:
    """The table itself holds no bot with a password and no person without one."""
    async with db.transaction() as conn:
        user_id = await person(conn)
        with pytest.raises(asyncpg.CheckViolationError):
            await conn.execute(
                "UPDATE users SET is_bot = $2, email = CASE WHEN $2 THEN email END WHERE id = $1", user_id, is_bot
            )


async def test_others(db: Database) -> None:
    """Somebody else's bot is none."""
    async with db.transaction() as conn:
        ann, bob = await person(conn), await person(conn, "bob")
        bot_id = await bot(conn, ann)
        assert await bots.get(conn, bot_id, bob) is None
        assert await bots.list_of(conn, bob) == ()


async def test_names_are_those_of_people_too(db: Database) -> None:
    """A name is taken by whoever has it, in every case."""
    async with db.transaction() as conn:
        ann = await person(conn)
        with pytest.raises(UserTaken):
            await bot(conn, ann, "ANN")


async def test_a_public_key_is_one_bots(db: Database) -> None:
    """A public key says who somebody is, so it belongs to one bot only; a revoked bot gives it free."""
    async with db.transaction() as conn:
        ann = await person(conn)
        first, second = await bot(conn, ann, "one", public_key=PUBLIC_KEY), await bot(conn, ann, "two")
    with pytest.raises(PublicKeyTaken):
        async with db.transaction() as conn:
            await bots.set_public_key(conn, second, PUBLIC_KEY)
    async with db.transaction() as conn:
        await bots.revoke(conn, first)
        assert await bots.set_public_key(conn, second, PUBLIC_KEY) == []
        found = await bots.find_public_key(conn, PUBLIC_KEY)
    assert found is not None
    assert found.user.id == second


async def ways(conn: Connection, bot_id: UUID) -> tuple[UUID | None, UUID | None]:
    """The sign-ins by the two keys, as far as there are any."""
    found = await bots.find_api_key(conn, bot_id), await bots.find_public_key(conn, PUBLIC_KEY)
    by_key, by_public_key = (way.sign_in_id if way else None for way in found)
    return by_key, by_public_key


async def test_what_a_change_ends(db: Database) -> None:
    """A new key ends the sign-in of the old one and leaves the other; new scopes renew both; revoking ends both."""
    async with db.transaction() as conn:
        ann = await person(conn)
        bot_id = await bot(conn, ann, public_key=PUBLIC_KEY)
        key, public = await ways(conn, bot_id)
        assert await bots.set_api_key(conn, bot_id, b"2") == [key]
        rotated, same = await ways(conn, bot_id)
        assert rotated not in (key, None)
        assert same == public
        assert set(await bots.set_scopes(conn, bot_id, ["manage"])) == {rotated, public}
        fresh = await ways(conn, bot_id)
        assert None not in fresh
        assert not {*fresh} & {key, public, rotated}
        found = await bots.find_api_key(conn, bot_id)
        assert found is not None
        assert (found.key_hash, found.scopes) == (b"2", ("manage",))
        assert await bots.set_public_key(conn, bot_id, None) == [fresh[1]]
        assert await ways(conn, bot_id) == (fresh[0], None)
        assert fresh[0] is not None
        assert await bots.revoke(conn, bot_id) == [fresh[0]]
        assert await ways(conn, bot_id) == (None, None)
        assert (await sign_ins.find(conn, [(fresh[0], bot_id)])).get((fresh[0], bot_id)) is None
        assert await bots.get(conn, bot_id, ann) is None
        assert await bots.lock_owner(conn, ann) == 0
        profile = await users.get_profile(conn, bot_id)
        assert profile is not None
        assert profile.username == "robo"
        assert await rooms.existing_users(conn, [bot_id]) == {}


async def test_a_deactivated_owner(db: Database) -> None:
    """The bots of a deactivated owner are out on both ways, sessions included, and in again when the owner is."""
    async with db.transaction() as conn:
        ann = await person(conn)
        bot_id = await bot(conn, ann, public_key=PUBLIC_KEY)
        key, _ = await ways(conn, bot_id)
        assert key is not None
        await conn.execute("UPDATE users SET is_active = false WHERE id = $1", ann)
        assert await ways(conn, bot_id) == (None, None)
        sign_in = (await sign_ins.find(conn, [(key, bot_id)])).get((key, bot_id))
        assert sign_in is not None
        assert not sign_in.is_active
        await conn.execute("UPDATE users SET is_active = true WHERE id = $1", ann)
        assert None not in await ways(conn, bot_id)


async def test_counting_waits(db: Database) -> None:
    """Two who make a bot at once are counted one after the other, so that no limit is passed."""
    async with db.transaction() as conn:
        ann = await person(conn)

    async def make(name: str) -> int:
        async with db.transaction() as conn:
            count = await bots.lock_owner(conn, ann)
            await bot(conn, ann, name)
            return count

    assert sorted(await asyncio.gather(*(make(f"bot-{n}") for n in range(5)))) == [0, 1, 2, 3, 4]
