"""Pictures of pictures: each one is opened by a process of its own, which has little and is ended when it takes long.

See gateway.files.picture_child for what that process does.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Literal, TypeVar

import msgspec
from msgspec import Struct

from protocol.errors import ChatError

T = TypeVar("T")

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
        process = await _start(command)
        try:
            async with asyncio.timeout(self._deadline):
                await _feed(process, body)
                return await _said(process), await process.wait()
        except TimeoutError:
            log.warning("a picture took too long to be opened")
            raise ChatError("IMAGE_TOO_LARGE") from None
        finally:
            await _end(process)


async def _start(command: Sequence[str]) -> Process:
    """Without our settings, in which keys may be. It finds the modules that we found."""
    environment = {
        "PYTHONPATH": os.pathsep.join(entry or os.curdir for entry in sys.path),
        # Else glibc reserves address space for each of a processor's cores.
        "MALLOC_ARENA_MAX": "1",
    }
    try:
        return await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, stderr=DEVNULL, env=environment)
    except OSError as error:
        log.error("no process can be started for a picture", extra={"reason": str(error)})
        raise _busy() from error


async def _feed(process: Process, body: AsyncIterator[bytes]) -> None:
    """Gives it the picture. It may have ended before it had all, and then says why."""
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        async for piece in body:
            process.stdin.write(piece)
            await process.stdin.drain()
    process.stdin.close()


async def _said(process: Process) -> bytes:
    assert process.stdout is not None
    said = bytearray()
    while piece := await process.stdout.read(65_536):
        said += piece
        if len(said) > ANSWER:
            _kill(process)
    return bytes(said)


async def _end(process: Process) -> None:
    """Nothing is left of it. asyncio takes its end for granted only when its output was read to the end."""
    assert process.stdin is not None
    process.stdin.close()
    if process.returncode is None:
        _kill(process)
        await _said(process)
        await process.wait()


def _kill(process: Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.kill()


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
