"""Files go by HTTP, beside the socket: streamed, with what is on its way in memory and no more.

What is cut goes on by itself, after a pause that grows; only when nothing at all has moved
for TRIES attempts the transfer fails. This is the one module of the client that speaks HTTP.
"""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any, TypeVar
from urllib.parse import quote
from uuid import UUID

import aiohttp
import msgspec
from msgspec import Struct

from gateway.client_commands import backoff, chat_error
from gateway.client_sealing import Source, Target
from protocol.errors import ChatError
from protocol.events import Error
from protocol.models import UploadedFile

TRIES = 10
"""Attempts in a row without a single byte moved after which a transfer has failed; with their pauses, some minutes."""

STALL = 60.0
"""Seconds without a byte, or without an answer, after which an attempt is given up."""

PIECE = 256 * 1024
"""Bytes of a download that are taken together, at most."""

Progress = Callable[[int, int], object]
"""Told how many bytes have gone or come, and how many there are; after a cut it may begin again with fewer."""

T = TypeVar("T")


class _Uploaded(Struct):
    file: UploadedFile


class _Answer(Struct):
    data: _Uploaded


class _Refusal(Struct):
    error: Error


class Transfer:
    """One file on its way. `moved` counts bytes, over all attempts; `error` is what went wrong at this end."""

    def __init__(self, size: int, progress: Progress | None) -> None:
        self.moved = 0
        self.error: BaseException | None = None
        self.size = size
        self._progress = progress
        self._deadline: asyncio.Timeout | None = None

    @asynccontextmanager
    async def attempt(self) -> AsyncIterator[None]:
        """Raises TimeoutError when nothing moves; what went wrong at this end is not taken for the network's."""
        try:
            async with asyncio.timeout(STALL) as self._deadline:
                yield
        except aiohttp.ClientError:
            if self.error is not None:
                raise self.error from None
            raise

    def at(self, position: int, size: int) -> None:
        """So many more bytes have moved, and the file is there so far."""
        self.moved += size
        if self._deadline is not None:
            self._deadline.reschedule(asyncio.get_running_loop().time() + STALL)
        if self._progress is not None:
            self._progress(position, self.size)

    async def body(self, source: Source, start: int) -> AsyncIterator[bytes]:
        """What an upload sends."""
        pieces = source.read(start)
        try:
            while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
                yield piece
                start += len(piece)
                self.at(start, len(piece))
        except Exception as error:
            self.error = error
            raise


class Files:
    """Uploads and downloads of one client. `base` is where HTTP is, `token` gives a token for each attempt."""

    def __init__(self, base: str, tls: ssl.SSLContext | None, token: Callable[[], Awaitable[str]]) -> None:
        self._base = base
        self._tls = tls
        self._token = token
        self._http: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Ends the connections."""
        if self._http is not None:
            await self._http.close()

    async def upload(
        self, source: Source, name: str, fields: Mapping[str, str], progress: Progress | None = None
    ) -> UploadedFile:
        """Sends a file; `fields` are those of CreateUpload. Raises ChatError, OSError, FileChanged."""
        transfer = Transfer(source.size, progress)
        file = await self._persist(transfer, lambda: self._send(transfer, source, name, fields))
        if file.sha256 != source.digest.digest().hex():
            raise ChatError("FILE_UPLOAD_FAILED", "What arrived has another SHA-256 than what was sent.")
        return file

    async def _send(self, transfer: Transfer, source: Source, name: str, fields: Mapping[str, str]) -> UploadedFile:
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Disposition": f"attachment; filename*=UTF-8''{quote(name, safe='')}",
            "Content-Length": str(source.size),
        }
        body = transfer.body(source, 0)
        async with self._request("POST", "/upload/file", headers, params=fields, data=body) as answer:
            return msgspec.json.decode(await answer.read(), type=_Answer).data.file

    async def download(self, file_id: UUID, size: int, target: Target, progress: Progress | None = None) -> None:
        """Fetches a file of so many bytes, and finishes. Raises ChatError, OSError, and what `target` raises."""
        transfer = Transfer(size, progress)
        etag: list[str] = []
        try:
            await self._persist(transfer, lambda: self._fetch(transfer, f"/files/{file_id}", target, etag))
            if target.received != size:
                raise ChatError("FILE_DAMAGED", f"The file has {target.received} bytes instead of {size}.")
            await asyncio.to_thread(target.finish)
        finally:
            target.drop()

    async def _fetch(self, transfer: Transfer, path: str, target: Target, etag: list[str]) -> None:
        """What is still missing, if the file is the one that the rest came from (RFC 9110, 13.1.5); else all of it."""
        if 0 < transfer.size <= target.received:
            return
        headers = {"Range": f"bytes={target.received}-", "If-Range": etag[0]} if target.received and etag else {}
        async with self._request("GET", path, headers) as answer:
            if answer.status != HTTPStatus.PARTIAL_CONTENT:
                await asyncio.to_thread(target.restart)
            etag[:] = [answer.headers["ETag"]] if "ETag" in answer.headers else []
            async for piece in answer.content.iter_chunked(PIECE):
                await asyncio.to_thread(target.write, piece)
                transfer.at(target.received, len(piece))

    # --- attempts ------------------------------------------------------------------------------

    async def _persist(self, transfer: Transfer, attempt: Callable[[], Awaitable[T]]) -> T:
        """Tries again while bytes move, or the server asks for it. Raises ChatError."""
        failures, moved = 0, 0
        while True:
            try:
                async with transfer.attempt():
                    return await attempt()
            except (aiohttp.ClientError, TimeoutError) as error:
                reason = ChatError("SERVICE_UNAVAILABLE", f"{self._base} cannot be reached: {error!r}")
            except ChatError as error:
                if not error.kind.retryable:
                    raise
                reason = error
            failures, moved = (0, transfer.moved) if transfer.moved > moved else (failures + 1, moved)
            if failures >= TRIES:
                raise reason
            await asyncio.sleep((reason.retry_after or 0.0) + backoff(failures, random.random))

    @asynccontextmanager
    async def _request(
        self, method: str, path: str, headers: Mapping[str, str], **more: Any
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """An answer that is a success. Raises ChatError, aiohttp's errors, and TimeoutError."""
        if not self._base:
            raise RuntimeError(
                "files go by HTTP, in the clear beside this connection: add ?discover=https://… to its URL"
            )
        signed = {"Authorization": f"Bearer {await self._token()}", **headers}
        async with self._session().request(method, self._base + path, headers=signed, **more) as answer:
            if answer.status >= HTTPStatus.BAD_REQUEST:
                raise _refusal(answer.status, await answer.read())
            yield answer

    def _session(self) -> aiohttp.ClientSession:
        if self._http is None:
            connector = aiohttp.TCPConnector(ssl=self._tls or True)
            self._http = aiohttp.ClientSession(
                connector=connector, cookie_jar=aiohttp.DummyCookieJar(), timeout=aiohttp.ClientTimeout(total=None)
            )
        return self._http


def _refusal(status: int, body: bytes) -> ChatError:
    try:
        return chat_error(msgspec.json.decode(body, type=_Refusal).error)
    except msgspec.MsgspecError:
        code = "SERVICE_UNAVAILABLE" if status in (502, 503, 504) else "INTERNAL_ERROR"
        return ChatError(code, f"What answers there, with {status}, is no Parley.")
