"""Passwords: what matches, what it costs, and what happens when too many come at once."""

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest
from nacl.pwhash import argon2id

from crypto.passwords import PasswordQueueFull, Passwords


@pytest.fixture
async def passwords() -> AsyncIterator[Passwords]:
    """A pool of two threads with room for eight more."""
    made = Passwords(workers=2, queue=8)
    yield made
    made.close()


class Gate:
    """Stands in for argon2 and lets no call through until it is opened."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.opened = threading.Event()
        self.running = 0
        self.most = 0
        self._lock = threading.Lock()

    def str(self, *_: object, **__: object) -> bytes:
        """Takes the place of argon2id.str."""
        self.entered.set()
        with self._lock:
            self.running += 1
            self.most = max(self.most, self.running)
        self.opened.wait(10)
        with self._lock:
            self.running -= 1
        return b"hash"


async def test_the_right_password_matches_and_a_wrong_one_does_not(passwords: Passwords) -> None:
    """A hash is matched by its own password only."""
    hashed = await passwords.hash("correct horse")
    assert await passwords.verify(hashed, "correct horse")
    assert not await passwords.verify(hashed, "correct hors")


async def test_the_cost_is_in_the_hash(passwords: Passwords) -> None:
    """Hashes are argon2id with 19 MiB, two passes and one lane."""
    assert (await passwords.hash("x" * 8)).startswith("$argon2id$v=19$m=19456,t=2,p=1$")


async def test_equal_passwords_have_different_hashes(passwords: Passwords) -> None:
    """Each hash has a salt of its own."""
    assert await passwords.hash("same password") != await passwords.hash("same password")


@pytest.mark.parametrize(
    ("set_as", "typed_as"),
    [
        ("p\u00e4ssword", "pa\u0308ssword"),
        ("\uff50assword", "password"),
        ("\U0001f511" * 100, "\U0001f511" * 100),
        ("a" * 100_000, "a" * 100_000),
        ("nul\0inside", "nul\0inside"),
        ("half \ud800 a pair", "half \ud800 a pair"),
        ("", ""),
    ],
    ids=["composed", "full width", "emoji", "long", "nul", "surrogate", "empty"],
)
async def test_any_text_can_be_a_password(passwords: Passwords, set_as: str, typed_as: str) -> None:
    """Passwords of every length and script work, and the same text in another Unicode form is the same password."""
    assert await passwords.verify(await passwords.hash(set_as), typed_as)


@pytest.mark.parametrize("tail", ["\0one", "a" * 100 + "one"], ids=["after a nul", "after 100 characters"])
async def test_no_part_of_a_password_is_ignored(passwords: Passwords, tail: str) -> None:
    """A difference counts wherever it stands."""
    hashed = await passwords.hash("start" + tail)
    assert not await passwords.verify(hashed, "start" + tail[:-3] + "two")


async def test_an_unknown_user_costs_the_same_work(passwords: Passwords, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a hash, one argon2 run with the same parameters is done, and never succeeds."""
    hashed = await passwords.hash("whatever it is")
    runs: list[bytes] = []
    verify = argon2id.verify

    def counted(hashed: bytes, password: bytes) -> bool:
        runs.append(hashed)
        return verify(hashed, password)

    monkeypatch.setattr(argon2id, "verify", counted)
    assert not await passwords.verify(None, "whatever it is")
    assert not await passwords.verify(hashed, "something else")
    unknown, wrong = runs
    assert unknown.split(b"$")[:4] == wrong.split(b"$")[:4]


async def test_more_than_fit_are_turned_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """`workers` run, `queue` wait, the next is told when to come back; a place is free again when one is done."""
    passwords = Passwords(workers=2, queue=3)
    gate = Gate()
    monkeypatch.setattr(argon2id, "str", gate.str)
    waiting = [asyncio.create_task(passwords.hash("password")) for _ in range(5)]
    await asyncio.sleep(0)
    with pytest.raises(PasswordQueueFull) as refused:
        await passwords.hash("password")
    assert refused.value.retry_after > 0
    gate.opened.set()
    await asyncio.gather(*waiting)
    assert gate.most == 2
    assert await passwords.hash("password") == "hash"
    passwords.close()


async def test_giving_up_does_not_make_room_for_more_than_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller who leaves keeps the place for as long as the thread is at work, and frees it when it was waiting."""
    passwords = Passwords(workers=1, queue=1)
    gate = Gate()
    monkeypatch.setattr(argon2id, "str", gate.str)
    running, waiting = (asyncio.create_task(passwords.hash("password")) for _ in range(2))
    await asyncio.to_thread(gate.entered.wait, 10)
    for task in (running, waiting):
        task.cancel()
    await asyncio.gather(running, waiting, return_exceptions=True)
    another = asyncio.create_task(passwords.hash("password"))
    await asyncio.sleep(0)
    with pytest.raises(PasswordQueueFull):
        await passwords.hash("password")
    gate.opened.set()
    assert await another == "hash"
    passwords.close()


async def test_the_event_loop_goes_on_meanwhile(passwords: Passwords, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hashing happens in other threads."""
    names: list[str] = []

    def named(*_: object, **__: object) -> bytes:
        names.append(threading.current_thread().name)
        return b"hash"

    monkeypatch.setattr(argon2id, "str", named)
    await passwords.hash("password")
    assert names[0] != threading.current_thread().name
