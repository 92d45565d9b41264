"""An S3 for tests: moto's server, a bucket on it, and a proxy that spoils what S3 answers."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from io import BytesIO
from typing import Literal, Self
from urllib.error import URLError
from urllib.request import urlopen

import aiohttp
from aiohttp import web

from tests.ports import free_port

Fault = Literal["error", "hang", "truncate", "lost answer", "wrong etag", "wrong range"]

ERROR = "<Error><Code>InternalError</Code></Error>"


class Moto:
    """moto's S3 in a process of its own."""

    def __init__(self) -> None:
        self.url = f"http://127.0.0.1:{(port := free_port())}"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until = time.monotonic() + 90
        while not self._answers():
            assert self._process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.05)

    def _answers(self) -> bool:
        try:
            with urlopen(self.url, timeout=10):
                return True
        except (URLError, OSError):
            return False

    def stop(self) -> None:
        """Ends it."""
        self._process.terminate()
        self._process.wait(30)


class Spoiler:
    """Stands before an S3 and hands on everything, except what `fault` spoils. `asked` counts requests by method."""

    def __init__(self, upstream: str) -> None:
        self.fault: Fault | None = None
        self.only: str | None = None
        """The method that is spoilt; None for all."""
        self.times: int | None = None
        """How often; None for always."""
        self.skip = 0
        self.asked: dict[str, int] = {}
        self.headers: dict[str, Mapping[str, str]] = {}
        """Those of the last request of each method."""
        self.hanging = asyncio.Event()
        self._over = asyncio.Event()
        self._upstream = upstream
        self._port = free_port()
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        self._http = aiohttp.ClientSession(auto_decompress=False)
        await self.listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.refuse()
        await self._http.close()

    @property
    def url(self) -> str:
        """Where it listens, or would."""
        return f"http://127.0.0.1:{self._port}"

    async def listen(self) -> None:
        """Takes connections, after `refuse` as well, and spoils nothing."""
        self.fault = self.only = self.times = None
        if self._runner is None:
            self._over.clear()
            app = web.Application(client_max_size=2**30)
            app.router.add_route("*", "/{path:.*}", self._pass)
            self._runner = web.AppRunner(app, lingering_time=0, shutdown_timeout=0)
            await self._runner.setup()
            await web.TCPSite(self._runner, "127.0.0.1", self._port).start()

    async def refuse(self) -> None:
        """Nobody listens there any more, and open connections are cut."""
        if self._runner is not None:
            self._over.set()
            await self._runner.cleanup()
            self._runner = None

    def spoil(self, fault: Fault, *, only: str | None = None, times: int | None = None, skip: int = 0) -> None:
        """From now on, but for the first `skip`."""
        self.fault, self.only, self.times, self.skip = fault, only, times, skip

    async def _pass(self, request: web.Request) -> web.StreamResponse:
        self.asked[request.method] = self.asked.get(request.method, 0) + 1
        self.headers[request.method] = request.headers
        fault = self._fault(request.method)
        if fault == "hang":
            self.hanging.set()
            await self._over.wait()
            return web.Response(status=503)
        if fault == "error":
            return web.Response(status=500, text=ERROR)
        return await self._answer(request, fault)

    def _fault(self, method: str) -> Fault | None:
        if self.fault is None or self.only not in (None, method) or self.times == 0:
            return None
        if self.skip:
            self.skip -= 1
            return None
        if self.times is not None:
            self.times -= 1
        return self.fault

    async def _answer(self, request: web.Request, fault: Fault | None) -> web.StreamResponse:
        url = self._upstream + request.raw_path
        headers = {k: v for k, v in request.headers.items() if k not in ("Transfer-Encoding", "Expect")}
        body = await request.read()
        async with self._http.request(request.method, url, headers=headers, data=BytesIO(body)) as answer:
            data = await answer.read()
            response = web.StreamResponse(status=answer.status, headers=answer.headers)
        if fault == "lost answer":
            return web.Response(status=500, text=ERROR)
        if fault == "wrong etag":
            response.headers["ETag"] = '"00000000000000000000000000000000"'
        if fault == "wrong range":
            response.headers["Content-Range"] = "bytes 0-0/100000000"
        await response.prepare(request)
        if fault == "truncate":
            await response.write(data[: len(data) // 2])
            assert request.transport is not None
            request.transport.close()
        elif request.method != "HEAD":
            await response.write(data)
        return response


class S3:
    """A bucket behind a spoiler. `prefix` is where blobs are in it."""

    prefix = "some/place/"

    def __init__(self, direct: str, spoiler: Spoiler, name: str) -> None:
        self.name = name
        self.spoiler = spoiler
        self._direct = direct

    def setting(self, timeout: float = 10.0) -> str:
        """PARLEY_BLOBS."""
        return f"s3://{self.name}/{self.prefix}?endpoint_url={self.spoiler.url}&region=us-east-1&timeout={timeout}"

    async def create(self) -> None:
        """Makes the bucket."""
        await self._call("PUT", "")

    async def objects(self) -> dict[str, int]:
        """The keys of all objects, and their sizes."""
        listing = ET.fromstring(await self._call("GET", "?list-type=2"))
        space = {"s3": "http://s3.amazonaws.com/doc/2006-03-01/"}
        found = listing.findall("s3:Contents", space)
        return {item.findtext("s3:Key", "", space): int(item.findtext("s3:Size", "", space)) for item in found}

    async def uploads(self) -> int:
        """How many multipart uploads are under way."""
        listing = ET.fromstring(await self._call("GET", "?uploads"))
        return len(listing.findall("s3:Upload", {"s3": "http://s3.amazonaws.com/doc/2006-03-01/"}))

    async def get(self, key: str) -> bytes:
        """What is in an object."""
        return await self._call("GET", f"/{key}")

    async def put(self, key: str, data: bytes) -> None:
        """Writes an object, or writes over it."""
        await self._call("PUT", f"/{key}", data)

    async def _call(self, method: str, path: str, data: bytes = b"") -> bytes:
        authorization = "AWS4-HMAC-SHA256 Credential=testing/20260101/us-east-1/s3/aws4_request, SignedHeaders=host"
        async with (
            aiohttp.ClientSession(headers={"Authorization": f"{authorization}, Signature=0"}) as http,
            http.request(method, f"{self._direct}/{self.name}{path}", data=BytesIO(data)) as answer,
        ):
            assert answer.status == 200, await answer.text()
            return await answer.read()
