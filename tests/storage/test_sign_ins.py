import asyncio
from datetime import timedelta
from uuid import UUID, uuid4

from storage import sign_ins, users
from storage.database import Connection, Database
from storage.sign_ins import Lives, Refused, Rotated

LIVES = Lives(web=timedelta(days=7), mobile=timedelta(days=90))
RETRY = timedelta(seconds=10)


async def sign_in(conn: Connection, client_type: sign_ins.ClientType = "web", token: bytes = b"1") -> tuple[UUID, UUID]:
    """A user who has just signed in: their id and the sign-in's."""
    user_id, sign_in_id = uuid4(), uuid4()
    name = user_id.hex
    await users.insert(
        conn,
        user_id,
        username=name,
        email=f"{name}@example.org",
        display_name=name,
        public_key=None,
        password_hash="hash",
    )
    await sign_ins.start(conn, sign_in_id, user_id, client_type, token, getattr(LIVES, client_type))
    return user_id, sign_in_id


async def rotate(db: Database, token: bytes, successor: bytes) -> Rotated | Refused:
    """One refresh, in a transaction of its own."""
    async with db.transaction() as conn:
        return await sign_ins.rotate(conn, token, successor, LIVES, RETRY)


async def age(db: Database, token: bytes, seconds: int) -> None:
    """Makes a token older: as if everything that happened to it had happened earlier."""
    async with db.transaction() as conn:
        await conn.execute(
            """UPDATE refresh_tokens SET used_at = used_at - $2::interval, expires_at = expires_at - $2::interval
               WHERE token_hash = $1""",
            token,
            timedelta(seconds=seconds),
        )


async def is_revoked(db: Database, sign_in_id: UUID, user_id: UUID) -> bool:
    """Whether the sign-in has ended."""
    async with db.acquire() as conn:
        found = (await sign_ins.find(conn, [(sign_in_id, user_id)])).get((sign_in_id, user_id))
    assert found
    return found.is_revoked


async def test_each_token_is_followed_by_the_next(db: Database) -> None:
    """A chain of refreshes goes on for as long as each token is used once."""
    async with db.transaction() as conn:
        user_id, sign_in_id = await sign_in(conn)
    for token in range(1, 6):
        rotated = await rotate(db, b"%d" % token, b"%d" % (token + 1))
        assert rotated == Rotated(sign_in_id, user_id, LIVES.web)


async def test_lives_follow_the_type_of_the_client(db: Database) -> None:
    """A mobile client's tokens are good for longer, also after a refresh."""
    async with db.transaction() as conn:
        await sign_in(conn, "mobile", b"m1")
        await sign_in(conn, "web", b"w1")
    await rotate(db, b"m1", b"m2")
    await rotate(db, b"w1", b"w2")
    async with db.acquire() as conn:
        rows = await conn.fetch("SELECT token_hash, expires_at - issued_at AS life FROM refresh_tokens")
    assert {row["token_hash"]: row["life"].days for row in rows} == {b"m1": 90, b"m2": 90, b"w1": 7, b"w2": 7}


async def test_a_used_token_that_comes_late_revokes_its_family(db: Database) -> None:
    """The family is over for the thief and for the victim, also with the newest token."""
    async with db.transaction() as conn:
        user_id, sign_in_id = await sign_in(conn)
    await rotate(db, b"1", b"2")
    await age(db, b"1", 11)
    assert await rotate(db, b"1", b"2") == Refused("reused", sign_in_id)
    assert await is_revoked(db, sign_in_id, user_id)
    assert await rotate(db, b"2", b"3") == Refused("unknown")


async def test_a_family_falls_alone(db: Database) -> None:
    """The user's other sign-ins go on."""
    async with db.transaction() as conn:
        user_id, _ = await sign_in(conn)
        other = uuid4()
        await sign_ins.start(conn, other, user_id, "web", b"other 1", LIVES.web)
    await rotate(db, b"1", b"2")
    await age(db, b"1", 11)
    await rotate(db, b"1", b"2")
    assert not await is_revoked(db, other, user_id)
    assert isinstance(await rotate(db, b"other 1", b"other 2"), Rotated)


async def test_a_lost_answer_is_given_again(db: Database) -> None:
    """Within the retry time a used token has the same successor as before, which is made once and keeps its end."""
    async with db.transaction() as conn:
        user_id, sign_in_id = await sign_in(conn)
    await rotate(db, b"1", b"2")
    await age(db, b"1", 9)
    await age(db, b"2", 60)
    again = await rotate(db, b"1", b"2")
    assert isinstance(again, Rotated)
    assert again[:2] == (sign_in_id, user_id)
    assert LIVES.web - timedelta(seconds=70) < again.life < LIVES.web - timedelta(seconds=59)
    assert isinstance(await rotate(db, b"2", b"3"), Rotated)


async def test_a_retry_after_the_successor_was_used_is_a_theft(db: Database) -> None:
    """Who has used the successor did not lose the answer: the family falls even within the retry time."""
    async with db.transaction() as conn:
        user_id, sign_in_id = await sign_in(conn)
    await rotate(db, b"1", b"2")
    await rotate(db, b"2", b"3")
    assert await rotate(db, b"1", b"2") == Refused("reused", sign_in_id)
    assert await is_revoked(db, sign_in_id, user_id)


async def test_racing_refreshes_get_the_same_successor(db: Database) -> None:
    """Copies of one refresh at the same moment all succeed, and make one token."""
    async with db.transaction() as conn:
        await sign_in(conn)
    outcomes = await asyncio.gather(*(rotate(db, b"1", b"2") for _ in range(8)))
    assert all(isinstance(outcome, Rotated) for outcome in outcomes)
    async with db.acquire() as conn:
        assert await conn.fetchval("SELECT count(*) FROM refresh_tokens") == 2


async def test_a_refresh_that_races_a_logout_does_not_outlive_it(db: Database) -> None:
    """A refresh that waited for a logout sees that the family has ended."""
    async with db.transaction() as conn:
        _, sign_in_id = await sign_in(conn)
    async with db.transaction() as conn:
        assert await sign_ins.revoke(conn, sign_in_id, "logout")
        waiting = asyncio.create_task(rotate(db, b"1", b"2"))
        await asyncio.sleep(0.1)
        assert not waiting.done()
    assert await waiting == Refused("unknown")


async def test_expired_and_unknown_tokens_are_the_same(db: Database) -> None:
    """Both are unknown; an expired one revokes nothing, even when it had been used."""
    async with db.transaction() as conn:
        user_id, sign_in_id = await sign_in(conn)
    assert await rotate(db, b"never", b"x") == Refused("unknown")
    await rotate(db, b"1", b"2")
    await age(db, b"1", 7 * 86_400)
    assert await rotate(db, b"1", b"2") == Refused("unknown")
    assert not await is_revoked(db, sign_in_id, user_id)
    await age(db, b"2", 7 * 86_400)
    assert await rotate(db, b"2", b"3") == Refused("unknown")


async def test_a_deactivated_account_cannot_refresh(db: Database) -> None:
    """The token stays unused, so that it is good again when the account is."""
    async with db.transaction() as conn:
        user_id, _ = await sign_in(conn)
        await conn.execute("UPDATE users SET is_active = false")
    assert await rotate(db, b"1", b"2") == Refused("inactive")
    async with db.transaction() as conn:
        await conn.execute("UPDATE users SET is_active = true WHERE id = $1", user_id)
    assert isinstance(await rotate(db, b"1", b"2"), Rotated)


async def test_a_family_is_revoked_once(db: Database) -> None:
    """The first reason stays; an unknown family is no error."""
    async with db.transaction() as conn:
        _, sign_in_id = await sign_in(conn)
        assert await sign_ins.revoke(conn, sign_in_id, "logout")
        assert not await sign_ins.revoke(conn, sign_in_id, "reused")
        assert not await sign_ins.revoke(conn, uuid4(), "logout")
        assert await conn.fetchval("SELECT revoked_why FROM sign_ins") == "logout"


async def test_a_sign_in_is_found_with_its_user_as_they_are_now(db: Database) -> None:
    """Name and standing are read at each look; another user's sign-in is not found."""
    async with db.transaction() as conn:
        user_id, sign_in_id = await sign_in(conn)
        other_id, _ = await sign_in(conn, token=b"other")
        await users.update_account(conn, user_id, {"display_name": "Ann"})
        before = (await sign_ins.find(conn, [(sign_in_id, user_id)])).get((sign_in_id, user_id))
        await conn.execute("UPDATE users SET is_active = false WHERE id = $1", user_id)
        after = (await sign_ins.find(conn, [(sign_in_id, user_id)])).get((sign_in_id, user_id))
        assert (await sign_ins.find(conn, [(sign_in_id, other_id)])).get((sign_in_id, other_id)) is None
        assert (await sign_ins.find(conn, [(uuid4(), user_id)])).get((uuid4(), user_id)) is None
    assert before
    assert after
    assert (before.user.display_name, before.is_active, before.is_revoked) == ("Ann", True, False)
    assert not after.is_active


async def test_what_has_expired_is_forgotten(db: Database) -> None:
    """Tokens go a day after their end, sign-ins with their last token; the rest stays usable."""
    async with db.transaction() as conn:
        await sign_in(conn, token=b"old")
        user_id, sign_in_id = await sign_in(conn, token=b"1")
        await sign_in(conn, token=b"just ended")
    await rotate(db, b"1", b"2")
    for token, days in ((b"old", 9), (b"1", 9), (b"just ended", 7)):
        await age(db, token, days * 86_400)
    async with db.transaction() as conn:
        assert await sign_ins.purge(conn) == 2
        left = await conn.fetch("SELECT token_hash FROM refresh_tokens ORDER BY 1")
        assert await conn.fetchval("SELECT count(*) FROM sign_ins") == 2
    assert [row["token_hash"] for row in left] == [b"2", b"just ended"]
    assert await rotate(db, b"2", b"3") == Rotated(sign_in_id, user_id, LIVES.web)
