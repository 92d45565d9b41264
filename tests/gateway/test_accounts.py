import asyncio
import base64
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from typing import Any, cast
from uuid import UUID, uuid4

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from nacl.pwhash import argon2id

from crypto.passwords import Passwords
from crypto.tokens import AccessTokens, RefreshTokens
from gateway.actions import accounts
from gateway.actor import Actor
from gateway.config import Config
from gateway.hub import Hub
from gateway.nodes import Nodes
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
from protocol.events import Refreshed, SignedIn
from protocol.models import User
from storage.database import Database
from storage.lookups import Lookups

PASSWORD = "correct horse battery"
PEM = (
    rsa.generate_private_key(public_exponent=65537, key_size=2048)
    .private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    .decode()
)


class NodesStandIn:
    """Remembers what it was told to do."""

    def __init__(self) -> None:
        self.closed: list[tuple[UUID, CloseCode]] = []
        self.updated: list[User] = []

    def close_sign_in(self, sign_in_id: UUID, code: CloseCode) -> None:
        """Takes the place of Nodes.close_sign_in."""
        self.closed.append((sign_in_id, code))

    def update_user(self, user: User) -> None:
        """Takes the place of Nodes.update_user."""
        self.updated.append(user)


@pytest.fixture
def hub() -> NodesStandIn:
    """Nodes without sessions."""
    return NodesStandIn()


@pytest.fixture
async def services(db: Database, hub: NodesStandIn) -> AsyncIterator[Services]:
    """What account actions need; they touch nothing else."""
    passwords = Passwords(workers=2, queue=8)
    yield Services(
        config=Config(),
        database=db,
        lookups=Lookups(db),
        journal=cast(Any, None),
        hub=cast(Hub, None),
        nodes=cast(Nodes, hub),
        presence=cast(Any, None),
        room_keys=cast(Any, None),
        passwords=passwords,
        access_tokens=AccessTokens([PEM], "parley", 1800),
        refresh_tokens=RefreshTokens(bytes(32)),
        metrics=cast(Any, None),
        rates=cast(Any, None),
        uploads=cast(Any, None),
        files=cast(Any, None),
        types=cast(Any, None),
        pictures=cast(Any, None),
        file_grants=cast(Any, None),
        part_grants=cast(Any, None),
        scanner=None,
    )
    passwords.close()


async def sign_up(services: Services, username: str = "ann", **changes: Any) -> SignedIn:
    """A new user, signed in."""
    fields = {"username": username, "email": f"{username}@example.org", "password": PASSWORD} | changes
    return await accounts.register(services, None, Register(**fields))


async def sign_in(services: Services, username: str = "ann", password: str = PASSWORD, **changes: Any) -> SignedIn:
    """A user signed in again."""
    return await accounts.login(services, None, Login(username=username, password=password, **changes))


async def refresh(services: Services, token: str) -> Refreshed:
    """A new pair of tokens."""
    return await accounts.refresh(services, None, Refresh(refresh_token=token))


async def actor_of(services: Services, signed_in: SignedIn | Refreshed) -> Actor:
    """Who the access token stands for."""
    return await accounts.authenticate(services, signed_in.access_token)


async def code_of(call: Any) -> str:
    """The code that a call is refused with."""
    with pytest.raises(ChatError) as refused:
        await call
    return refused.value.code


async def execute(services: Services, query: str, *values: Any) -> None:
    """One statement behind the actions' back."""
    async with services.database.transaction() as conn:
        await conn.execute(query, *values)


class TestRegister:
    async def test_a_new_user_is_signed_in(self, services: Services) -> None:
        """The answer has the account, a token that works, and both lives."""
        signed_in = await sign_up(services, "Ann", display_name="Ann O'Neil", public_key="KEY")
        actor = await actor_of(services, signed_in)
        assert actor.user.id == signed_in.user.id
        assert (signed_in.user.email, signed_in.user.display_name) == ("Ann@example.org", "Ann O'Neil")
        assert (signed_in.expires_in, signed_in.refresh_expires_in) == (1800, 604_800)
        assert signed_in.user.id.version == 7

    async def test_the_display_name_may_be_left_out(self, services: Services) -> None:
        """It is the user name then."""
        assert (await sign_up(services, "Ann")).user.display_name == "Ann"

    @pytest.mark.parametrize(
        ("changes", "field"),
        [
            ({"username": "ANN", "email": "b@example.org"}, "username"),
            ({"username": "bob", "email": "ANN@example.org"}, "email"),
        ],
    )
    async def test_what_is_taken_is_named(self, services: Services, changes: dict[str, str], field: str) -> None:
        """A conflict names its field, and leaves no trace of the second user."""
        await sign_up(services, "ann")
        with pytest.raises(ChatError) as refused:
            await sign_up(services, **changes)
        assert (refused.value.code, refused.value.details) == ("RESOURCE_ALREADY_EXISTS", {"field": field})
        async with services.database.acquire() as conn:
            assert await conn.fetchval("SELECT count(*) FROM users") == 1

    async def test_racing_sign_ups_make_one_user(self, services: Services) -> None:
        """Of copies sent at once one succeeds, and the others get the typed conflict."""
        outcomes = await asyncio.gather(*(sign_up(services) for _ in range(5)), return_exceptions=True)
        assert sum(isinstance(outcome, SignedIn) for outcome in outcomes) == 1
        codes = [outcome.code for outcome in outcomes if isinstance(outcome, ChatError)]
        assert codes == ["RESOURCE_ALREADY_EXISTS"] * 4

    @pytest.mark.parametrize(
        ("field", "text"),
        [
            ("username", "an\0n"),
            ("username", "ann\n"),
            ("username", "ann\uff20example.org"),
            ("email", "ann@example.org\n"),
            ("display_name", "A\0"),
            ("display_name", "A\ud800"),
            ("public_key", "\0"),
            ("password", "half a pair \udfff"),
        ],
    )
    async def test_bad_text_is_a_typed_error(self, services: Services, field: str, text: str) -> None:
        """What the database cannot hold, or nobody can see, is refused by its field before anything is done."""
        with pytest.raises(ChatError) as refused:
            await sign_up(services, **{field: text})
        assert (refused.value.code, refused.value.details) == ("VALIDATION_INVALID_FORMAT", {"field": field})

    async def test_the_database_has_no_password_and_no_token(self, services: Services) -> None:
        """Only hashes of both are kept."""
        signed_in = await sign_up(services)
        async with services.database.acquire() as conn:
            rows = [
                str(row)
                for table in ("users", "sign_ins", "refresh_tokens")
                for row in await conn.fetch(f"TABLE {table}")
            ]
        kept = "\n".join(rows)
        assert PASSWORD not in kept
        assert signed_in.access_token not in kept
        assert signed_in.refresh_token not in kept


class TestLogin:
    @pytest.mark.parametrize("name", ["ann", "ANN", "ann@example.org", "ANN@Example.org"])
    async def test_a_user_signs_in_by_name_or_address(self, services: Services, name: str) -> None:
        """Either will do, in any case; each sign-in is one of its own and is recorded."""
        first = await sign_up(services)
        again = await sign_in(services, name)
        assert again.user.id == first.user.id
        assert (await actor_of(services, again)).sign_in_id != (await actor_of(services, first)).sign_in_id
        assert again.user.last_login
        assert first.user.last_login
        assert again.user.last_login > first.user.last_login

    async def test_mobile_clients_stay_signed_in_longer(self, services: Services) -> None:
        """`client_type` sets the life of the refresh token, and a refresh keeps it."""
        await sign_up(services)
        mobile = await sign_in(services, client_type="mobile")
        assert mobile.refresh_expires_in == 7_776_000
        assert (await refresh(services, mobile.refresh_token)).refresh_expires_in == 7_776_000

    async def test_unknown_user_and_wrong_password_are_the_same(
        self, services: Services, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The same answer, after the same work: one argon2 run with the same parameters."""
        await sign_up(services)
        runs: list[bytes] = []
        verify = argon2id.verify

        def counted(hashed: bytes, password: bytes) -> bool:
            runs.append(hashed)
            return verify(hashed, password)

        monkeypatch.setattr(argon2id, "verify", counted)
        answers = []
        for name in ("nobody", "nobody@example.org", "ann", "ann@example.org"):
            with pytest.raises(ChatError) as refused:
                await sign_in(services, name, "wrong password")
            answers.append((refused.value.code, refused.value.message, str(refused.value.details)))
        assert set(answers) == {("AUTH_INVALID_CREDENTIALS", answers[0][1], "{}")}
        assert len(runs) == 4
        assert len({run.rpartition(b"p=")[0] for run in runs}) == 1

    async def test_only_who_knows_the_password_learns_that_an_account_is_inactive(self, services: Services) -> None:
        """With a wrong password a deactivated account is like any other."""
        await sign_up(services)
        await execute(services, "UPDATE users SET is_active = false")
        assert await code_of(sign_in(services, password="wrong password")) == "AUTH_INVALID_CREDENTIALS"
        assert await code_of(sign_in(services)) == "AUTH_USER_INACTIVE"

    async def test_a_full_queue_is_a_rate_limit(self, services: Services) -> None:
        """Sign-ins and sign-ups beyond the queue are told when to come back, and nothing is made."""
        full = replace(services, passwords=Passwords(workers=1, queue=0))
        calls = [sign_up(full, "user1"), sign_up(full, "user2"), sign_in(full, "nobody")]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        refused = [outcome for outcome in outcomes if isinstance(outcome, ChatError)]
        assert [error.code for error in refused if error.retry_after].count("RATE_LIMIT_EXCEEDED") >= 1
        assert isinstance(outcomes[0], SignedIn)
        full.passwords.close()

    async def test_no_connection_is_held_while_a_password_waits(self, services: Services) -> None:
        """More sign-ins than connections wait for argon2 without keeping anyone from the database."""
        await sign_up(services)
        crowd = replace(services, passwords=Passwords(workers=1, queue=40))
        logins = [asyncio.create_task(sign_in(crowd)) for _ in range(30)]
        await asyncio.sleep(0.1)
        async with asyncio.timeout(5), services.database.acquire() as conn:
            assert await conn.fetchval("SELECT 1") == 1
        for login in logins:
            login.cancel()
        await asyncio.gather(*logins, return_exceptions=True)
        crowd.passwords.close()

    async def test_bad_text_is_a_typed_error(self, services: Services) -> None:
        """A name that the database could not even look up is refused."""
        assert await code_of(sign_in(services, "an\0n")) == "VALIDATION_INVALID_FORMAT"


class TestRefresh:
    async def test_a_refresh_gives_a_new_pair_for_the_same_sign_in(self, services: Services) -> None:
        """Both tokens are new, and the sign-in is the one before."""
        signed_in = await sign_up(services)
        refreshed = await refresh(services, signed_in.refresh_token)
        assert refreshed.refresh_token != signed_in.refresh_token
        before, after = await actor_of(services, signed_in), await actor_of(services, refreshed)
        assert (after.user, after.sign_in_id) == (before.user, before.sign_in_id)

    async def test_a_stolen_token_ends_the_whole_sign_in(self, services: Services, hub: NodesStandIn) -> None:
        """A token used twice revokes its family for good, though the request fails, and closes its sockets."""
        signed_in = await sign_up(services)
        sign_in_id = (await actor_of(services, signed_in)).sign_in_id
        refreshed = await refresh(services, signed_in.refresh_token)
        await execute(services, "UPDATE refresh_tokens SET used_at = used_at - $1::interval", timedelta(seconds=11))
        assert await code_of(refresh(services, signed_in.refresh_token)) == "AUTH_REFRESH_TOKEN_INVALID"
        assert hub.closed == [(sign_in_id, CloseCode.auth_failed)]
        assert await code_of(refresh(services, refreshed.refresh_token)) == "AUTH_REFRESH_TOKEN_INVALID"
        assert await code_of(actor_of(services, refreshed)) == "AUTH_TOKEN_INVALID"

    async def test_a_theft_leaves_other_sign_ins_alone(self, services: Services) -> None:
        """The user's other devices stay signed in."""
        signed_in = await sign_up(services)
        other = await sign_in(services)
        refreshed = await refresh(services, signed_in.refresh_token)
        await refresh(services, refreshed.refresh_token)
        assert await code_of(refresh(services, signed_in.refresh_token)) == "AUTH_REFRESH_TOKEN_INVALID"
        assert (await actor_of(services, other)).user.id == other.user.id
        assert isinstance(await refresh(services, other.refresh_token), Refreshed)

    async def test_a_lost_answer_is_given_again(self, services: Services, hub: NodesStandIn) -> None:
        """A retry within the retry time gets the same refresh token, and nobody is signed out."""
        signed_in = await sign_up(services)
        first = await refresh(services, signed_in.refresh_token)
        again = await refresh(services, signed_in.refresh_token)
        assert again.refresh_token == first.refresh_token
        assert (await actor_of(services, again)).user.id == signed_in.user.id
        assert not hub.closed

    async def test_racing_refreshes_agree(self, services: Services, hub: NodesStandIn) -> None:
        """Tabs that refresh at the same moment all get the same new refresh token."""
        signed_in = await sign_up(services)
        refreshed = await asyncio.gather(*(refresh(services, signed_in.refresh_token) for _ in range(8)))
        assert len({one.refresh_token for one in refreshed}) == 1
        assert not hub.closed

    @pytest.mark.parametrize("token", ["", "never issued", "nul\0", "half \ud800", "x" * 8192])
    async def test_any_other_text_is_an_invalid_token(self, services: Services, token: str) -> None:
        """Whatever is sent as a token gets the typed error."""
        assert await code_of(refresh(services, token)) == "AUTH_REFRESH_TOKEN_INVALID"

    async def test_an_access_token_does_not_refresh(self, services: Services) -> None:
        """The two kinds of token cannot be exchanged."""
        signed_in = await sign_up(services)
        assert await code_of(refresh(services, signed_in.access_token)) == "AUTH_REFRESH_TOKEN_INVALID"
        assert await code_of(accounts.authenticate(services, signed_in.refresh_token)) == "AUTH_TOKEN_INVALID"

    async def test_an_expired_token_is_invalid(self, services: Services) -> None:
        """Its end is its end."""
        signed_in = await sign_up(services)
        await execute(services, "UPDATE refresh_tokens SET expires_at = now()")
        assert await code_of(refresh(services, signed_in.refresh_token)) == "AUTH_REFRESH_TOKEN_INVALID"

    async def test_a_deactivated_account_is_told(self, services: Services) -> None:
        """Who holds its token learns that the account is inactive."""
        signed_in = await sign_up(services)
        await execute(services, "UPDATE users SET is_active = false")
        assert await code_of(refresh(services, signed_in.refresh_token)) == "AUTH_USER_INACTIVE"


class TestLogout:
    async def test_logout_ends_the_sign_in_at_once(self, services: Services, hub: NodesStandIn) -> None:
        """Its access token, its refresh token and its sockets are dead; other sign-ins live."""
        signed_in, other = await sign_up(services), await sign_in(services)
        actor = await actor_of(services, signed_in)
        await accounts.logout(services, actor, Logout())
        assert await code_of(actor_of(services, signed_in)) == "AUTH_TOKEN_INVALID"
        assert await code_of(refresh(services, signed_in.refresh_token)) == "AUTH_REFRESH_TOKEN_INVALID"
        assert hub.closed == [(actor.sign_in_id, CloseCode.auth_failed)]
        assert (await actor_of(services, other)).user.id == other.user.id

    async def test_a_second_logout_is_no_error(self, services: Services) -> None:
        """A retry whose answer was lost is answered again."""
        actor = await actor_of(services, await sign_up(services))
        await accounts.logout(services, actor, Logout())
        await accounts.logout(services, actor, Logout())


class TestAuthenticate:
    async def test_the_actor_is_the_user_as_they_are_now(self, services: Services) -> None:
        """Name and standing are read anew, not from the token."""
        signed_in = await sign_up(services)
        actor = await actor_of(services, signed_in)
        assert actor.user == User(id=signed_in.user.id, username="ann", display_name="ann", avatar_url=None)
        assert actor.session is None
        await execute(services, "UPDATE users SET display_name = 'Ann'")
        assert (await actor_of(services, signed_in)).user.display_name == "Ann"

    async def test_a_deactivated_user_is_refused(self, services: Services) -> None:
        """From the moment of deactivation, with any token."""
        signed_in = await sign_up(services)
        await execute(services, "UPDATE users SET is_active = false")
        assert await code_of(actor_of(services, signed_in)) == "AUTH_USER_INACTIVE"

    async def test_expired_and_invalid_tokens_have_their_codes(self, services: Services) -> None:
        """A client can tell whether to refresh."""
        signed_in = await sign_up(services)
        actor = await actor_of(services, signed_in)
        expired, _ = AccessTokens([PEM], "parley", 0).issue(actor.user.id, actor.sign_in_id)
        foreign, _ = AccessTokens([PEM], "elsewhere", 60).issue(actor.user.id, actor.sign_in_id)
        assert await code_of(accounts.authenticate(services, expired)) == "AUTH_TOKEN_EXPIRED"
        for token in (
            foreign,
            "",
            "rubbish",
            "a.b.c",
            signed_in.access_token[:-4] + base64.urlsafe_b64encode(b"xyz").decode(),
        ):
            assert await code_of(accounts.authenticate(services, token)) == "AUTH_TOKEN_INVALID"

    async def test_a_token_for_someone_elses_sign_in_is_invalid(self, services: Services) -> None:
        """User and sign-in in a token belong together."""
        ann, bob = await sign_up(services, "ann"), await sign_up(services, "bob")
        sign_in_id = (await actor_of(services, ann)).sign_in_id
        mixed, _ = services.access_tokens.issue(bob.user.id, sign_in_id)
        unknown, _ = services.access_tokens.issue(ann.user.id, uuid4())
        for token in (mixed, unknown):
            assert await code_of(accounts.authenticate(services, token)) == "AUTH_TOKEN_INVALID"


class TestProfiles:
    async def test_a_user_reads_their_own_account(self, services: Services) -> None:
        """With everything that is only theirs."""
        signed_in = await sign_up(services)
        actor = await actor_of(services, signed_in)
        assert await accounts.get_account(services, actor, GetAccount()) == signed_in.user

    async def test_changes_reach_the_sessions(self, services: Services, hub: NodesStandIn) -> None:
        """What is given changes, null clears, the rest stays, and live sessions bear the new name."""
        actor = await actor_of(services, await sign_up(services, public_key="KEY"))
        command = UpdateAccount(display_name="Ann", avatar_url="https://example.org/a.png")
        changed = await accounts.update_account(services, actor, command)
        assert (changed.display_name, changed.avatar_url, changed.public_key) == ("Ann", command.avatar_url, "KEY")
        assert [(user.display_name, user.avatar_url) for user in hub.updated] == [("Ann", command.avatar_url)]
        cleared = await accounts.update_account(services, actor, UpdateAccount(avatar_url=None))
        assert (cleared.display_name, cleared.avatar_url) == ("Ann", None)

    async def test_bad_text_changes_nothing(self, services: Services, hub: NodesStandIn) -> None:
        """NUL is a typed error."""
        actor = await actor_of(services, await sign_up(services))
        bad = UpdateAccount(display_name="A\0")
        assert await code_of(accounts.update_account(services, actor, bad)) == "VALIDATION_INVALID_FORMAT"
        assert not hub.updated

    async def test_others_see_a_profile(self, services: Services) -> None:
        """A user's profile is there for everyone signed in; one that does not exist is a typed error."""
        ann, bob = await sign_up(services, "ann"), await sign_up(services, "bob")
        actor = await actor_of(services, ann)
        profile = await accounts.get_user(services, actor, GetUser(user_id=bob.user.id))
        assert (profile.id, profile.username) == (bob.user.id, "bob")
        nobody = GetUser(user_id=uuid4())
        assert await code_of(accounts.get_user(services, actor, nobody)) == "AUTH_USER_NOT_FOUND"

    async def test_a_search_has_pages(self, services: Services) -> None:
        """Pages count users and pages, and say whether there are more."""
        actor = await actor_of(services, await sign_up(services, "user0"))
        for number in (1, 2):
            await sign_up(services, f"user{number}")
        pages = [
            await accounts.search_users(services, actor, SearchUsers(search="USER", page=n, limit=2)) for n in (1, 2, 3)
        ]
        assert [[user.username for user in page.users] for page in pages] == [["user0", "user1"], ["user2"], []]
        assert [(p.pagination.total, p.pagination.pages, p.pagination.has_more) for p in pages] == [
            (3, 2, True),
            (3, 2, False),
            (3, 2, False),
        ]
        assert (
            await code_of(accounts.search_users(services, actor, SearchUsers(search="\0")))
            == "VALIDATION_INVALID_FORMAT"
        )
