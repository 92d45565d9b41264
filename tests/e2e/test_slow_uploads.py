"""Who sends a file a byte a second is cut, whatever way it takes; what has come of a resumable upload stays."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.conftest import StartServer
from tests.e2e.parts import begin
from tests.e2e.server import Person, Server
from tests.e2e.tus import append, create, look, metadata

DEADLINE = 3.0
"""Seconds that a body has beyond what its bytes may take."""
SIZE = 100_000
AT_ONCE = 60_000
"""Bytes that come quickly; at a megabyte a second they add little to the deadline."""
PATIENCE = 60
FORM = (
    b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.bin"\r\n'
    b"Content-Type: application/octet-stream\r\n\r\n"
)


@dataclass(frozen=True)
class Slow:
    """A request: its first line, its headers, and what of its body is not of the file."""

    line: str
    headers: dict[str, str]
    before: bytes = b""


@dataclass(frozen=True)
class Cut:
    """How it ended: the status, after so many seconds, and how many bytes of the file were sent until then."""

    status: int
    seconds: float
    sent: int


async def send_slowly(server: Server, person: Person, slow: Slow) -> Cut:
    """Sends most of a file at once, and then a byte a second."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    headers = {"Host": "x", "Authorization": f"Bearer {person.token}", "Tus-Resumable": "1.0.0"} | slow.headers
    length = len(slow.before) + SIZE
    lines = [slow.line, *(f"{name}: {value}" for name, value in headers.items()), f"Content-Length: {length}", "", ""]
    started, sent = time.monotonic(), AT_ONCE
    writer.write("\r\n".join(lines).encode() + slow.before + bytes(AT_ONCE))
    ended = asyncio.ensure_future(reader.readline())
    while not (await asyncio.wait([ended], timeout=1))[0] and time.monotonic() - started < PATIENCE:
        writer.write(b"x")
        sent += 1
    writer.close()
    return Cut(int(ended.result().split()[1]), time.monotonic() - started, sent)


def blobs(server: Server) -> list[Path]:
    """What is kept, in the spool too."""
    return [path for path in (server.directory / "data" / "files").rglob("*") if path.is_file()]


async def test_a_byte_a_second(start_server: StartServer) -> None:
    """Forms, bare bytes, creations and parts leave nothing; what a PATCH has brought stays, and the upload goes on."""
    server = await start_server(PARLEY_HTTP_BODY_DEADLINE=str(DEADLINE), PARLEY_SLOWEST_TRANSFER="1000000")
    ann = await server.person()
    path = await create(server, ann, SIZE)
    part = (await begin(server, ann, SIZE))["parts"][0]["url"]
    offset = {"Content-Type": "application/offset+octet-stream"}
    named = {"Upload-Length": str(SIZE), "Upload-Metadata": metadata(filename="a.bin")}
    form = {"Content-Type": "multipart/form-data; boundary=x"}
    bare = {"Content-Type": "application/octet-stream"}
    cuts = await asyncio.gather(
        send_slowly(server, ann, Slow(f"PATCH {path} HTTP/1.1", offset | {"Upload-Offset": "0"})),
        send_slowly(server, ann, Slow("POST /files/tus HTTP/1.1", offset | named)),
        send_slowly(server, ann, Slow(f"PUT {part} HTTP/1.1", {})),
        send_slowly(server, ann, Slow("POST /upload/file HTTP/1.1", form, FORM)),
        send_slowly(server, ann, Slow("POST /upload/file?filename=a.bin HTTP/1.1", bare)),
    )
    assert [cut.status for cut in cuts] == [408] * len(cuts)
    assert all(DEADLINE <= cut.seconds < PATIENCE for cut in cuts), cuts
    kept = (await look(server, ann, path)).offset
    assert AT_ONCE <= kept <= cuts[0].sent
    assert len(blobs(server)) == 1
    used = (await server.data("GET", "/users/me/files", ann.token))["used"]
    assert used == 2 * SIZE  # the two uploads that may go on, with what they have announced
    assert (await append(server, ann, path, kept, bytes(SIZE - kept))).status == 204
    assert "Traceback" not in server.logs()
