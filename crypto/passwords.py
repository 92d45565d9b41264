"""Passwords: argon2id in a bounded pool of threads, off the event loop.

Passwords are compared in Unicode form NFKC (NIST SP 800-63B, 5.1.1.2), so that
the same keys give the same password on every keyboard. No length is cut.
"""

from __future__ import annotations

import asyncio
import secrets
import threading
import unicodedata
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from nacl.exceptions import InvalidkeyError
from nacl.pwhash import argon2id

T = TypeVar("T")

PASSES = 2
"""Argon2's t. With 19 MiB and one lane it is the least that the OWASP Password Storage Cheat Sheet allows."""
MEMORY = 19 * 1024 * 1024
"""Argon2's m, in bytes, for each password being hashed. Lanes (p) are always 1 in libsodium."""
RETRY_AFTER = 1.0
"""Seconds; a full queue of 32 drains in about one (30 ms a hash and core, measured)."""


class PasswordQueueFull(Exception):
    """As many passwords wait as may; come again in `retry_after` seconds."""

    def __init__(self, retry_after: float) -> None:
        self.retry_after = retry_after
        super().__init__(f"too many passwords are waiting to be hashed; retry after {retry_after} s")


class Passwords:
    """Hashes `workers` passwords at once and lets `queue` more wait; each one at work takes 19 MiB."""

    def __init__(self, workers: int, queue: int) -> None:
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="passwords")
        self._places = threading.BoundedSemaphore(workers + queue)
        self._decoy = _hash(secrets.token_hex())  # of a password that nobody knows

    async def hash(self, password: str) -> str:
        """The PHC string to keep for a password, with a salt of its own. Raises PasswordQueueFull."""
        return await self._run(lambda: _hash(password))

    async def verify(self, hashed: str | None, password: str) -> bool:
        """Whether the password is the hashed one. Raises PasswordQueueFull.

        Without a hash (there is no such user) the same work is done against a
        decoy, so that the time of the answer does not tell who has an account.
        """
        return await self._run(lambda: _verify(hashed or self._decoy, password))

    def close(self) -> None:
        """Drops the passwords that wait, and ends the threads when the ones at work are done."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _run(self, work: Callable[[], T]) -> T:
        if not self._places.acquire(blocking=False):
            raise PasswordQueueFull(RETRY_AFTER)
        future: Future[T] = self._pool.submit(work)
        # Given back by the job, not by the caller: a caller who gives up does not stop a thread.
        future.add_done_callback(lambda _: self._places.release())
        return await asyncio.wrap_future(future)


def _bytes(password: str) -> bytes:
    return unicodedata.normalize("NFKC", password).encode("utf-8", "surrogatepass")


def _hash(password: str) -> str:
    return argon2id.str(_bytes(password), opslimit=PASSES, memlimit=MEMORY).decode()


def _verify(hashed: str, password: str) -> bool:
    try:
        return bool(argon2id.verify(hashed.encode(), _bytes(password)))
    except InvalidkeyError:
        return False
