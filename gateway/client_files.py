"""Files go by HTTP, beside the socket: streamed, with what is on its way in memory and no more.

What is cut goes on by itself, after a pause that grows: uploads by tus 1.0.0
(https://tus.io/protocols/resumable-upload), downloads in ranges (RFC 9110, 14). Only when
TRIES attempts have brought it no further the transfer fails.
"""

from __future__ import annotations

import asyncio
import random
import ssl
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus
from typing import Any, TypeVar
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
"""Attempts in a row that bring a transfer no further after which it has failed; with their pauses, some minutes."""

STALL = 60.0
"""Seconds without a byte, or without an answer, after which an attempt is given up."""

PIECE = 256 * 1024
"""Bytes of a download that are taken together, at most."""

GOODBYE = 5.0
"""Seconds that taking an upload back may take."""

TUS = {"Tus-Resumable": "1.0.0"}

Progress = Callable[[int, int], object]
"""Told how many bytes have gone or come, and how many there are; after a cut it may begin again with fewer."""

T = TypeVar("T")


class _Info(Struct):
    data: UploadedFile


class _Refusal(Struct):
    error: Error


class Transfer:
    """One file on its way. `reached` is how far it surely is; `error` is what went wrong at this end."""

    def __init__(self, size: int, progress: Progress | None) -> None:
        self.reached = 0
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

    def at(self, position: int) -> None:
        """The file has gone, or come, so far; something moves."""
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
                self.at(start)
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
        self._check_way()
        transfer = Transfer(source.size, progress)
        begun: list[str] = []
        try:
            file = await self._persist(
                transfer, lambda: self._send(transfer, source, begun, {**fields, "filename": name})
            )
        except BaseException:
            await self._terminate(begun)
            raise
        if file.sha256 != source.digest.digest().hex():
            raise ChatError("FILE_UPLOAD_FAILED", "What arrived has another SHA-256 than what was sent.")
        return file

    async def _send(
        self, transfer: Transfer, source: Source, begun: list[str], fields: Mapping[str, str]
    ) -> UploadedFile:
        """What is still missing; `begun` has the upload's id once there is one."""
        offset = await self._offset(begun[0]) if begun else 0
        if not begun:
            begun.append(await self._create(source.size, fields))
        if offset > source.digest.at:
            raise ChatError("FILE_UPLOAD_FAILED", "The server has more than was sent.")
        transfer.reached = max(transfer.reached, offset)
        headers = {
            "Content-Type": "application/offset+octet-stream",
            "Content-Length": str(source.size - offset),
            "Upload-Offset": str(offset),
        }
        body = transfer.body(source, offset)
        async with self._request("PATCH", f"/files/tus/{begun[0]}", TUS | headers, data=body):
            pass
        async with self._request("GET", f"/files/{begun[0]}/info", {}) as answer:
            return msgspec.json.decode(await answer.read(), type=_Info).data

    async def _create(self, size: int, fields: Mapping[str, str]) -> str:
        metadata = ",".join(f"{key} {b64encode(value.encode()).decode()}" for key, value in fields.items())
        headers = TUS | {"Upload-Length": str(size), "Upload-Metadata": metadata}
        async with self._request("POST", "/files/tus", headers) as answer:
            return answer.headers["Location"].rpartition("/")[2]

    async def _offset(self, id: str) -> int:
        async with self._request("HEAD", f"/files/tus/{id}", TUS) as answer:
            return int(answer.headers["Upload-Offset"])

    async def _terminate(self, begun: list[str]) -> None:
        """Gives back the room that was kept for what will not come; else that goes by itself, a day later."""
        with suppress(aiohttp.ClientError, TimeoutError, ChatError):
            async with asyncio.timeout(GOODBYE):
                for id in begun:
                    async with self._request("DELETE", f"/files/tus/{id}", TUS):
                        pass

    async def download(self, file_id: UUID, size: int, target: Target, progress: Progress | None = None) -> None:
        """Fetches a file of so many bytes, and finishes. Raises ChatError, OSError, and what `target` raises."""
        transfer = Transfer(size, progress)
        etag: list[str] = []
        try:
            self._check_way()
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
                transfer.reached = max(transfer.reached, target.received)
                transfer.at(target.received)

    def _check_way(self) -> None:
        if not self._base:
            message = "Files go by HTTP, in the clear beside this connection: add ?discover=https://… to its URL."
            raise ChatError("SERVICE_UNAVAILABLE", message)

    # --- attempts ------------------------------------------------------------------------------

    async def _persist(self, transfer: Transfer, attempt: Callable[[], Awaitable[T]]) -> T:
        """Tries again as long as that brings it further. Raises ChatError."""
        failures, before = 0, 0
        while True:
            try:
                async with transfer.attempt():
                    return await attempt()
            except (aiohttp.ClientError, TimeoutError) as error:
                reason = ChatError("SERVICE_UNAVAILABLE", f"{self._base} cannot be reached: {error!r}")
            except ChatError as error:
                # An offset moves on while the server still hears the connection that was cut.
                if not error.kind.retryable and error.code != "UPLOAD_OFFSET_MISMATCH":
                    raise
                reason = error
            failures = 0 if transfer.reached > before else failures + 1
            before = transfer.reached
            if failures >= TRIES:
                raise reason
            await asyncio.sleep((reason.retry_after or 0.0) + backoff(failures, random.random))

    @asynccontextmanager
    async def _request(
        self, method: str, path: str, headers: Mapping[str, str], **more: Any
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """An answer that is a success. Raises ChatError, aiohttp's errors, and TimeoutError."""
        signed = {"Authorization": f"Bearer {await self._token()}", **headers}
        async with self._session().request(method, self._base + path, headers=signed, **more) as answer:
            if answer.status >= HTTPStatus.BAD_REQUEST:
                raise _refusal(answer, await answer.read())
            yield answer

    def _session(self) -> aiohttp.ClientSession:
        if self._http is None:
            connector = aiohttp.TCPConnector(ssl=self._tls or True)
            self._http = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None),
                skip_auto_headers=("Content-Type",),
            )
        return self._http


def _refusal(answer: aiohttp.ClientResponse, body: bytes) -> ChatError:
    """The error in an answer; one to HEAD has only its status."""
    try:
        return chat_error(msgspec.json.decode(body, type=_Refusal).error)
    except msgspec.MsgspecError:
        code = _CODES.get(answer.status, "SERVICE_UNAVAILABLE" if answer.status > 500 else "INTERNAL_ERROR")
        wait = answer.headers.get("Retry-After", "")
        return ChatError(code, retry_after=float(wait) if wait.isdecimal() else None)


_CODES = {401: "AUTH_TOKEN_INVALID", 404: "FILE_NOT_FOUND", 408: "REQUEST_TIMEOUT", 429: "RATE_LIMIT_EXCEEDED"}
