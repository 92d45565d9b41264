"""Where the bytes of files live: blobs, written once, read in ranges, known by ids that say nothing.

What is in a blob is sealed before it comes here. A blob is there as a whole or not
at all: it is made beside the others, in the spool, and then kept under its id.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import re
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from uuid import UUID, uuid4

from protocol.errors import ChatError

if TYPE_CHECKING:
    from storage.s3_multipart import Multipart

T = TypeVar("T")

RETRY_SECONDS = 5.0
"""What a client is told to wait while blobs cannot be reached, or there is no room for them."""

THREADS = 2
"""Threads that read, write and seal. More would take turns from the event loop, which chat lives on."""

NICE = 10
"""How much these threads stand back (sched(7)): with the same weight as the event loop, on a core that is full, they
have it wait for its turn at each of the steps of a message.
"""

PAGE = 1_000
"""Blobs that are listed at once; as many as S3 lists."""

_SPOOL = "spool"

_BLOB = re.compile("[0-9a-f]{32}")
"""What a blob is called. Other files in its directory are not ours."""


class BlobMissing(Exception):
    """There is no such blob, or it is shorter than it was."""


class Blobs(Protocol):
    """A place for blobs. What cannot be reached, or is full, is ChatError SERVICE_UNAVAILABLE."""

    reachable: bool | None
    """Whether it answered when it was last looked at; None where nothing lies between."""

    multipart: Multipart | None
    """By which clients send parts of files there themselves; None where they may not."""

    def spool(self) -> Path:
        """A new path beside the blobs, for bytes that are on their way in."""
        ...

    async def run(self, work: Callable[[], T]) -> T:
        """Does work on files or keys in a thread of this place. Raises ChatError where there is no room."""
        ...

    async def keep(self, blob_id: UUID, path: Path) -> None:
        """Takes a file out of the spool; when this returns it is there to stay. Nothing is left in the spool."""
        ...

    async def read(self, blob_id: UUID, start: int, length: int, then: Callable[[bytes], T]) -> T:
        """What `then` makes, in a thread, of so many bytes from `start`. Raises BlobMissing."""
        ...

    async def delete(self, blob_ids: Iterable[UUID]) -> None:
        """Removes blobs; those that are not there are no error."""
        ...

    def listed(self, age: float) -> AsyncIterator[list[UUID]]:
        """All blobs that were kept more than `age` seconds ago, page by page."""
        ...

    async def clear_spool(self, age: float) -> int:
        """Removes what was left in the spool, and not written to for `age` seconds. Returns how many there were."""
        ...

    async def close(self) -> None:
        """Ends threads and connections."""
        ...


class Hands:
    """The threads that work for a place of blobs, and its spool."""

    def __init__(self, spool: Path) -> None:
        self._spool = spool
        self._threads = ThreadPoolExecutor(THREADS, "parley-files", _yield_to_chat)
        spool.mkdir(parents=True, exist_ok=True, mode=0o700)

    def spool(self) -> Path:
        """A new path."""
        return self._spool / uuid4().hex

    async def run(self, work: Callable[[], T]) -> T:
        """Does work in a thread. Raises ChatError where there is no room."""
        done = asyncio.get_running_loop().run_in_executor(self._threads, work)
        waiting = asyncio.shield(done)
        for future in (done, waiting):
            future.add_done_callback(seen)  # who waits may be cancelled in the moment in which it fails
        try:
            return await waiting
        except asyncio.CancelledError:
            # A thread cannot be cancelled, and whoever clears up must not meet it at work.
            await asyncio.wait([done])
            raise
        except OSError as error:
            raise refusal(error) from error

    async def clear_spool(self, age: float) -> int:
        """Removes what is old."""
        return await self.run(partial(_clear, self._spool, time.time() - age))

    def close(self) -> None:
        """Ends the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _yield_to_chat() -> None:
    """Linux alone lets a thread have a niceness of its own (setpriority(2), notes)."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)


def seen(done: asyncio.Future[Any]) -> None:
    """Takes note of an error that nobody may wait for any more: it is not one that asyncio has to report."""
    if not done.cancelled():
        done.exception()


def refusal(error: OSError) -> ChatError:
    """What an error of a disk or a network means to who sends or asks for a file."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ChatError("SERVICE_UNAVAILABLE", "There is no room for files.", retry_after=RETRY_SECONDS)
    return ChatError("SERVICE_UNAVAILABLE", "Files cannot be reached.", retry_after=RETRY_SECONDS)


def _clear(folder: Path, before: float) -> int:
    old = _older(folder, before)
    _unlink(Path(entry) for entry in old)
    return len(old)


def _older(folder: Path, before: float) -> list[os.DirEntry[str]]:
    """What was last written before. Others may remove it meanwhile."""
    found = []
    for entry in os.scandir(folder):
        with contextlib.suppress(FileNotFoundError):
            if entry.stat().st_mtime < before:
                found.append(entry)
    return found


class Directory:
    """Blobs as files of a directory, in 256 folders. Nodes that share it have to see the same one."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.reachable: bool | None = None
        self.multipart: Multipart | None = None
        self._hands = Hands(root / _SPOOL)
        self.spool = self._hands.spool
        self.run = self._hands.run
        self.clear_spool = self._hands.clear_spool

    async def keep(self, blob_id: UUID, path: Path) -> None:
        """Renames it, after its bytes are on disk; then the folder's entry is."""
        await self.run(partial(_keep, path, self._path(blob_id)))

    async def read(self, blob_id: UUID, start: int, length: int, then: Callable[[bytes], T]) -> T:
        """Reads in the thread that goes on with it."""
        return await self.run(lambda: then(_read(self._path(blob_id), start, length)))

    async def delete(self, blob_ids: Iterable[UUID]) -> None:
        """Unlinks them."""
        paths = [self._path(blob_id) for blob_id in blob_ids]
        await self.run(partial(_unlink, paths))

    async def listed(self, age: float) -> AsyncIterator[list[UUID]]:
        """A folder at a time."""
        before = time.time() - age
        for number in range(256):
            found = await self.run(partial(_listed, self._root / f"{number:02x}", before))
            for at in range(0, len(found), PAGE):
                yield found[at : at + PAGE]

    async def close(self) -> None:
        """Ends the threads."""
        self._hands.close()

    def _path(self, blob_id: UUID) -> Path:
        # The end of an id, which is random; its beginning may be the time.
        return self._root / blob_id.hex[-2:] / blob_id.hex


def _unlink(paths: Iterable[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def _keep(source: Path, target: Path) -> None:
    try:
        sync(source)
        target.parent.mkdir(exist_ok=True, mode=0o700)
        source.rename(target)
        sync(target.parent)
    except OSError:
        source.unlink(missing_ok=True)
        raise


def sync(path: Path) -> None:
    """Returns when a file, or the entries of a folder, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read(path: Path, start: int, length: int) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        raise BlobMissing(path.name) from None
    try:
        data = os.pread(descriptor, length, start)
    finally:
        os.close(descriptor)
    if len(data) < length:
        raise BlobMissing(path.name)
    return data


def _listed(folder: Path, before: float) -> list[UUID]:
    try:
        return [UUID(hex=entry.name) for entry in _older(folder, before) if _BLOB.fullmatch(entry.name)]
    except FileNotFoundError:
        return []
