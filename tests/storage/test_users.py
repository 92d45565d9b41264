import asyncio
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

import msgspec
import pytest

from protocol.models import Account
from storage import users
from storage.database import Connection, Database
from storage.users import UserTaken


async def add(conn: Connection, username: str, **changes: Any) -> Account:
    """A user with this name, and the rest made up from it."""
    fields = {"email": f"{username}@example.org", "display_name": username, "public_key": None, "password_hash": "hash"}
    return await users.insert(conn, uuid4(), username=username, **fields | changes)


async def found(conn: Connection, words: str, limit: int = 20, offset: int = 0) -> tuple[Sequence[str], int]:
    """User names of a page of a search, and the total."""
    page, total = await users.search(conn, words, limit, offset)
    return [user.username for user in page], total


class TestAccounts:
    async def test_an_account_is_kept_as_it_was_given(self, db: Database) -> None:
        """Every field is read back, names with their case, and signing up counts as the first sign-in."""
        async with db.transaction() as conn:
            made = await add(
                conn, "Ann", display_name="Ann O'Neil \U0001f600", public_key="KEY", email="Ann@Example.org"
            )
        async with db.acquire() as conn:
            assert await users.get_account(conn, made.id) == made
        assert (made.username, made.email, made.display_name) == ("Ann", "Ann@Example.org", "Ann O'Neil \U0001f600")
        assert (made.public_key, made.avatar_url, made.is_verified) == ("KEY", None, False)
        assert made.last_login == made.created_at
        assert made.created_at.tzinfo is not None

    async def test_an_account_can_be_told_to_its_owner(self, db: Database) -> None:
        """What comes from the database has an encoding, ids and times included, and no hash in it."""
        async with db.transaction() as conn:
            made = await add(conn, "ann", password_hash="planted")
        text = msgspec.json.encode(made).decode()
        assert f'"id":"{made.id}"' in text
        assert "planted" not in text

    @pytest.mark.parametrize("username", ["ann", "ANN", "\uff21nn"])
    async def test_a_taken_username_is_named(self, db: Database, username: str) -> None:
        """Names that differ in case or width are the same name."""
        async with db.transaction() as conn:
            await add(conn, "Ann")
            with pytest.raises(UserTaken) as taken:
                await add(conn, username, email="else@example.org")
        assert taken.value.field == "username"

    async def test_a_taken_email_is_named(self, db: Database) -> None:
        """Addresses that differ in case are the same address."""
        async with db.transaction() as conn:
            await add(conn, "ann", email="ann@example.org")
            with pytest.raises(UserTaken) as taken:
                await add(conn, "bob", email="ANN@example.ORG")
        assert taken.value.field == "email"

    async def test_of_racing_sign_ups_one_wins(self, db: Database) -> None:
        """Two sign-ups with one name at the same moment: one account, and the other is told."""

        async def sign_up(email: str) -> str:
            async with db.transaction() as conn:
                await add(conn, "ann", email=email)
                await asyncio.sleep(0.05)
                return "made"

        outcomes = await asyncio.gather(*(sign_up(f"{n}@example.org") for n in range(4)), return_exceptions=True)
        assert outcomes.count("made") == 1
        assert [o.field for o in outcomes if isinstance(o, UserTaken)] == ["username"] * 3

    async def test_only_what_is_given_changes(self, db: Database) -> None:
        """A change leaves other fields and other users alone; null clears; unknown columns are not settable."""
        async with db.transaction() as conn:
            ann, bob = await add(conn, "ann", public_key="KEY"), await add(conn, "bob")
            changed = await users.update_account(conn, ann.id, {"display_name": "A", "avatar_url": "https://a/b.png"})
            cleared = await users.update_account(conn, ann.id, {"avatar_url": None, "username": "root"})
            assert await users.get_account(conn, bob.id) == bob
        assert changed
        assert cleared
        assert (changed.display_name, changed.avatar_url, changed.public_key) == ("A", "https://a/b.png", "KEY")
        assert (cleared.display_name, cleared.avatar_url, cleared.username) == ("A", None, "ann")

    async def test_nothing_to_change_is_no_error(self, db: Database) -> None:
        """An empty change gives the account as it is."""
        async with db.transaction() as conn:
            ann = await add(conn, "ann")
            assert await users.update_account(conn, ann.id, {}) == ann

    async def test_who_is_not_there_is_none(self, db: Database) -> None:
        """An unknown id has no account and no profile, and changes nothing."""
        async with db.transaction() as conn:
            assert await users.get_account(conn, uuid4()) is None
            assert await users.get_profile(conn, uuid4()) is None
            assert await users.update_account(conn, uuid4(), {"display_name": "x"}) is None
            assert await users.record_login(conn, uuid4()) is None

    async def test_a_profile_shows_no_address(self, db: Database) -> None:
        """What others see of a user has neither e-mail address nor time of sign-in."""
        async with db.transaction() as conn:
            ann = await add(conn, "ann")
            profile = await users.get_profile(conn, ann.id)
        assert profile
        assert profile.id == ann.id
        assert {"email", "last_login"}.isdisjoint(msgspec.structs.asdict(profile))


class TestLogin:
    @pytest.mark.parametrize(
        "name", ["Ann", "ANN", "ann@example.org", "ANN@EXAMPLE.org", "\uff21nn", "ann\uff20example.org"]
    )
    async def test_a_user_is_found_by_name_or_address(self, db: Database, name: str) -> None:
        """Either will do, in any case."""
        async with db.transaction() as conn:
            ann = await add(conn, "Ann", email="Ann@example.org", password_hash="of ann")
            await add(conn, "bob")
            assert await users.find_login(conn, name) == users.Login(ann.id, "of ann")

    @pytest.mark.parametrize("name", ["an", "ann%", "ann@example", "", "@"])
    async def test_nobody_else_is_found(self, db: Database, name: str) -> None:
        """A part of a name is not the name."""
        async with db.transaction() as conn:
            await add(conn, "ann")
            assert await users.find_login(conn, name) is None

    async def test_an_address_never_finds_a_username(self, db: Database) -> None:
        """Someone whose user name is another's address does not stand in their way."""
        async with db.transaction() as conn:
            ann = await add(conn, "ann", email="ann@example.org")
            await add(conn, "ann\uff20example.org", email="thief@example.org")
            login = await users.find_login(conn, "ann@example.org")
        assert login
        assert login.user_id == ann.id

    async def test_signing_in_moves_the_time_of_the_last_sign_in(self, db: Database) -> None:
        """Each sign-in is recorded."""
        async with db.transaction() as conn:
            ann = await add(conn, "ann")
        async with db.transaction() as conn:
            again = await users.record_login(conn, ann.id)
        assert again
        assert again.last_login
        assert ann.last_login
        assert again.last_login > ann.last_login

    async def test_a_deactivated_account_does_not_sign_in(self, db: Database) -> None:
        """It is found, so that its password can be checked first, and its sign-in is refused."""
        async with db.transaction() as conn:
            ann = await add(conn, "ann")
            await conn.execute("UPDATE users SET is_active = false")
            assert await users.find_login(conn, "ann")
            assert await users.record_login(conn, ann.id) is None


class TestSearch:
    async def test_users_are_found_by_how_their_names_begin(self, db: Database) -> None:
        """User name or display name, in any case and script; the middle of a name does not count."""
        async with db.transaction() as conn:
            await add(conn, "anna", display_name="Zoe")
            await add(conn, "zora", display_name="ÉMILE Annan")
            await add(conn, "hanna", display_name="Hanna")
            assert await found(conn, "AN") == (["anna"], 1)
            assert await found(conn, "émile a") == (["zora"], 1)
            assert await found(conn, "zo") == (["anna", "zora"], 2)
            assert await found(conn, "nobody") == ([], 0)

    @pytest.mark.parametrize("words", ["%", "_", "a%", "a_b", "\\", "a\\", "%%"])
    async def test_wildcards_stand_for_themselves(self, db: Database, words: str) -> None:
        """Nobody lists all users with a percent sign, and a backslash is no error."""
        async with db.transaction() as conn:
            await add(conn, "axb")
            assert await found(conn, words) == ([], 0)
            await add(conn, words + "tail", email="tail@example.org")
            assert await found(conn, words) == ([words + "tail"], 1)

    async def test_pages_follow_one_another(self, db: Database) -> None:
        """By user name, without gap or repeat, with the same total on each; a page past the end is empty."""
        async with db.transaction() as conn:
            for n in range(5):
                await add(conn, f"user{n}")
            pages = [await found(conn, "user", limit=2, offset=offset) for offset in (0, 2, 4, 6)]
        assert pages == [(["user0", "user1"], 5), (["user2", "user3"], 5), (["user4"], 5), ([], 5)]

    async def test_deactivated_users_are_not_found(self, db: Database) -> None:
        """A search lists active users only."""
        async with db.transaction() as conn:
            await add(conn, "ann")
            await conn.execute("UPDATE users SET is_active = false")
            assert await found(conn, "ann") == ([], 0)

    async def test_a_search_uses_the_indexes(self, db: Database) -> None:
        """Finding a beginning among many users reads few of them."""
        async with db.transaction() as conn:
            await conn.execute(
                """INSERT INTO users (id, username, username_key, email, email_key, display_name, password_hash,
                       created_at, updated_at)
                   SELECT gen_random_uuid(), md5(n::text), md5(n::text), n, n, md5(n::text), '', now(), now()
                   FROM generate_series(1, 20000) n"""
            )
            await conn.execute("ANALYZE users")
            plan = await conn.fetch(f"EXPLAIN SELECT count(*) FROM users WHERE {users._FOUND}", "abc%", "abc%")
        text = "\n".join(row[0] for row in plan)
        assert "users_username_prefix" in text
        assert "users_display_name_prefix" in text
