"""Pictures of pictures: each one is opened by a process of its own, which has little and is ended when it takes long.

See gateway.files.picture_child for what that process does.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from subprocess import PIPE
from typing import Any, Literal, TypeVar

import msgspec
from msgspec import Struct

from protocol.errors import ChatError

T = TypeVar("T")

Process = subprocess.Popen[bytes]

Do = Callable[[Callable[[], Any]], Awaitable[Any]]

log = logging.getLogger(__name__)

FORMATS = {
    "image/png": "PNG",
    "image/jpeg": "JPEG",
    "image/gif": "GIF",
    "image/webp": "WEBP",
    "image/avif": "AVIF",
}
"""Types that are opened, and what Pillow calls them. It is never asked to guess among all those that it knows."""

AVATAR_TYPES = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp"})

PICTURE_TYPE = "image/webp"
"""What is made of them."""

AT_ONCE = 2
WAITING = 64
PATIENCE = 30.0
"""Pictures that are opened at once and wait for that, and the seconds after which one waits no longer."""

DEADLINE = 60.0
"""Seconds for one picture; it has ten of a processor's time (picture_child.CPU_SECONDS)."""

ANSWER = 8 * 1024 * 1024
"""Bytes that a process may answer with."""

RETRY_SECONDS = 5.0

_TOOK_TOO_MUCH = (-signal.SIGXCPU, -signal.SIGKILL, -signal.SIGALRM)
"""How a process ends that has used up its time, or was in the way of others."""


class Previews(Struct, frozen=True, kw_only=True):
    """What is made of a picture: its size in pixels as it is looked at, a placeholder, and two smaller ones."""

    width: int
    height: int
    blurhash: str
    small: bytes
    large: bytes


class Avatar(Struct, frozen=True, kw_only=True):
    """What is made of the picture of a user or a chatroom."""

    picture: bytes


class _Refusal(Struct, frozen=True, kw_only=True):
    """Why nothing is made of one, where `refused` is there; `reason` is for nobody but us."""

    refused: Literal["IMAGE_TOO_LARGE", "IMAGE_INVALID"] | None = None
    reason: str | None = None


def is_picture(file_type: str) -> bool:
    """Whether something can be seen, be it opened here or not."""
    return file_type.startswith("image/") or file_type == "application/postscript"


class Pictures:
    """Opens pictures. `program` is what does so, as a command; the job and the format follow it."""

    def __init__(self, program: Sequence[str] = (), deadline: float = DEADLINE) -> None:
        self._program = program or (sys.executable, "-P", "-B", "-m", "gateway.files.picture_child")
        self._deadline = deadline
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._waiting = 0

    async def previews(self, body: AsyncIterator[bytes], file_type: str) -> Previews:
        """Smaller pictures of one.

        Raises ChatError IMAGE_TOO_LARGE, IMAGE_INVALID, FILE_TYPE_NOT_ALLOWED; SERVICE_UNAVAILABLE where there are
        too many others; and what `body` raises.
        """
        return await self._ask("previews", body, file_type, FORMATS, Previews)

    async def avatar(self, body: AsyncIterator[bytes], file_type: str) -> bytes:
        """The square in the middle of a picture, at 256 pixels. Raises the same."""
        return (await self._ask("avatar", body, file_type, AVATAR_TYPES, Avatar)).picture

    async def _ask(
        self, job: str, body: AsyncIterator[bytes], file_type: str, types: Iterable[str], shape: type[T]
    ) -> T:
        if file_type not in types:
            raise ChatError("FILE_TYPE_NOT_ALLOWED", details={"file_type": file_type})
        async with self._turn():
            output, status = await self._run((*self._program, job, FORMATS[file_type]), body)
        return _read(output, status, shape)

    @contextlib.asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        if self._waiting >= WAITING:
            raise _busy()
        self._waiting += 1
        try:
            async with asyncio.timeout(PATIENCE):
                await self._turns.acquire()
        except TimeoutError:
            raise _busy() from None
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._turns.release()

    async def _run(self, command: Sequence[str], body: AsyncIterator[bytes]) -> tuple[bytes, int]:
        """What a process said, and how it ended."""
        process = _start(command)
        # One thread: what is still under way when this is cancelled ends before the pipes are closed.
        with _thread() as do:
            try:
                async with asyncio.timeout(self._deadline):
                    await _feed(do, process, body)
                    said: tuple[bytes, int] = await do(partial(_said, process))
                    return said
            except TimeoutError:
                log.warning("a picture took too long to be opened")
                raise ChatError("IMAGE_TOO_LARGE") from None
            finally:
                process.kill()  # nothing, where it has ended
                await asyncio.shield(do(partial(_close, process)))


@contextlib.contextmanager
def _thread() -> Iterator[Do]:
    """Does work that may have to wait, one thing after the other."""
    thread = ThreadPoolExecutor(1, "parley-picture")
    try:
        yield partial(asyncio.get_running_loop().run_in_executor, thread)
    finally:
        thread.shutdown(wait=False)


async def _feed(do: Do, process: Process, body: AsyncIterator[bytes]) -> None:
    """Gives it the picture. It may have ended before it had all, and then says why."""
    async for piece in body:
        if not await do(partial(_gave, process, piece)):
            break


def _start(command: Sequence[str]) -> Process:
    """Without our settings, in which keys may be. It finds the modules that we found.

    uvloop would fork, and copy the tables of all our memory meanwhile; subprocess has vfork(2).
    """
    environment = {
        "PYTHONPATH": os.pathsep.join(entry or os.curdir for entry in sys.path),
        # Else glibc reserves address space for each of a processor's cores.
        "MALLOC_ARENA_MAX": "1",
    }
    try:
        return subprocess.Popen(  # noqa: S603  # our own program
            command, stdin=PIPE, stdout=PIPE, stderr=subprocess.DEVNULL, env=environment, bufsize=0
        )
    except OSError as error:
        log.error("no process can be started for a picture", extra={"reason": str(error)})
        raise _busy() from error


# --- in threads ------------------------------------------------------------------------------


def _gave(process: Process, piece: bytes) -> bool:
    """Whether it took a piece."""
    assert process.stdin is not None
    left = memoryview(piece)
    try:
        while left:
            left = left[process.stdin.write(left) :]
    except BrokenPipeError:
        return False
    return True


def _said(process: Process) -> tuple[bytes, int]:
    """All it says when it has all, or a little more than it may, and how it ended."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()
    said = bytearray()
    while piece := process.stdout.read(65_536):
        said += piece
        if len(said) > ANSWER:
            process.kill()
    return bytes(said), process.wait()


def _close(process: Process) -> None:
    """Nothing is left of it."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()
    process.stdout.close()
    process.wait()


# --- what it said ----------------------------------------------------------------------------


def _read(output: bytes, status: int, shape: type[T]) -> T:
    if status > 0:
        log.error("the program that opens pictures failed", extra={"status": status})
        raise _busy()
    if status < 0:
        log.warning("a picture ended the process that opened it", extra={"signal": -status})
        raise ChatError("IMAGE_TOO_LARGE" if status in _TOOK_TOO_MUCH else "IMAGE_INVALID")
    try:
        refusal = msgspec.msgpack.decode(output, type=_Refusal)
        if refusal.refused is None:
            return msgspec.msgpack.decode(output, type=shape)
    except msgspec.DecodeError:
        log.warning("a process that opened a picture said what makes no sense")
        raise ChatError("IMAGE_INVALID") from None
    log.info("a picture was not opened", extra={"code": refusal.refused, "reason": refusal.reason})
    raise ChatError(refusal.refused)


def _busy() -> ChatError:
    return ChatError("SERVICE_UNAVAILABLE", "Pictures cannot be opened now.", retry_after=RETRY_SECONDS)
