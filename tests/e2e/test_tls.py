"""TLS on the port itself: every client gets through it, certificates change under open sockets, silence is cut."""

from __future__ import annotations

import asyncio
import os
import signal
import ssl
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio
from cryptography import x509

from crypto.keyfile import FILES
from gateway.client import connect
from protocol.errors import CloseCode
from tests.e2e.certificates import Authority
from tests.e2e.conftest import server_of_its_own
from tests.e2e.raw import head, raw_socket, text
from tests.e2e.server import Server
from tests.e2e.socket_client import socket_client
from tests.e2e.test_slow_reader import deaf_client, flood, metrics

ALERT_RECORD = 7
"""Bytes of a TLS alert in clear, with the head of its record (RFC 8446, 5.1 and 6)."""

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Who signs the server's certificates."""
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def secure(
    server_url: str, tmp_path_factory: pytest.TempPathFactory, authority: Authority
) -> AsyncIterator[Server]:
    """A server with a certificate, in whose TLS handshakes and heads may take a second."""
    settings = authority.issue("first") | {"PARLEY_HTTP_HEADER_DEADLINE": "1", "PARLEY_SLOW_CONSUMER": "60"}
    async with server_of_its_own(server_url, tmp_path_factory, "secure", trust=authority.trusted(), **settings) as it:
        yield it


async def test_everything_over_tls(secure: Server) -> None:
    """REST and WebSocket work as they do without TLS, on one port, from the handshake on."""
    ann, bob = await secure.people(2)
    room = await secure.chatroom(ann, bob)
    async with socket_client(secure.ws, ssl=secure.trust) as a, socket_client(secure.ws, ssl=secure.trust) as b:
        await a.authenticate(ann.token)
        await b.authenticate(bob.token)
        long = "x" * 16_000
        assert (await a.say(room, long))["event"] == "ack"
        assert (await b.until("message_received"))["data"]["message"]["content"] == long
    assert [message["content"] for message in await secure.history(bob, room)] == [long]


async def test_files_over_tls(secure: Server, tmp_path: Path) -> None:
    """The Python client's files go by HTTPS, with the same authority as the socket, also beside TCP."""
    ann = await secure.person()
    room = await secure.chatroom(ann)
    (tmp_path / "plan.txt").write_text("two spoons a cup")
    tcp = f"parleys://127.0.0.1:{secure.tcp_port}?discover={secure.http}"
    for number, url in enumerate((secure.ws, tcp)):
        async with connect(url, ann.token, tls=secure.trust) as client:
            sent = await client.send_file(room, tmp_path / "plan.txt")
            saved = await client.download_file(sent.message.attachments[0], tmp_path / str(number))
        assert saved.read_text() == "two spoons a cup"


async def test_keep_alive_over_tls(secure: Server) -> None:
    """One connection serves request after request, also those that come in pieces or all at once."""
    request = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"
    async with raw_socket(secure) as raw:
        for data in ([request], [request[:9], request[9:]], [request + request]):
            for part in data:
                raw.send(part)
                await raw.writer.drain()
            for _ in range(b"".join(data).count(b"GET")):
                status, answer = await raw.response()
                assert status == 200
                length = int(answer.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                await raw.reader.readexactly(length)


async def test_a_pipelined_upgrade_over_tls(secure: Server) -> None:
    """What comes behind the upgrade in the same record goes to the socket, which took over from the front door."""
    ann = await secure.person()
    async with raw_socket(secure) as raw:
        raw.send(head() + text("authenticate", {"token": ann.token}))
        assert (await raw.response())[0] == 101
        assert [(await raw.event())["event"] for _ in range(2)] == ["hello", "ready"]


async def test_urls(secure: Server) -> None:
    """The banner, the log and the first page name the addresses with TLS."""
    async with aiohttp.ClientSession() as http, http.get(secure.http + "/", ssl=secure.trust or True) as answer:
        page = await answer.text()
        assert "Strict-Transport-Security" not in answer.headers  # only production says so
    assert secure.http in page
    assert secure.ws in page
    assert f"HTTP        {secure.http} " in secure.logs()
    assert f"WebSocket   {secure.ws}\n" in secure.logs()
    assert "http://" not in page.replace("http://www.w3.org", "")


async def test_python_client_over_tls(secure: Server, authority: Authority, tmp_path: Path) -> None:
    """The Python client checks the server's certificate against what the system, or SSL_CERT_FILE, trusts."""
    ann = await secure.person()
    room = await secure.chatroom(ann)
    program = tmp_path / "say.py"
    program.write_text(SAY)
    command = (sys.executable, str(program), secure.ws, ann.token, str(room))
    root = str(Path(__file__).parent.parent.parent)
    environment = {**os.environ, "PYTHONPATH": root, "SSL_CERT_FILE": str(authority.file)}
    process = await asyncio.create_subprocess_exec(*command, env=environment)
    assert await asyncio.wait_for(process.wait(), 30) == 0
    assert [message["content"] for message in await secure.history(ann, room)] == ["over TLS"]


SAY = """
import asyncio, sys
from crypto.keyfile import FILES
from gateway.client import connect
from protocol.errors import CloseCode

async def main(url, token, room):
    async with connect(url, token) as client:
        await client.send_message(room, "over TLS")

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.parametrize(
    "url",
    [
        "wss://127.0.0.1:{port}/ws",
        "wss://127.0.0.1:{port}/ws?key=discover",
        "parleys://127.0.0.1:{tcp_port}",
        "parleys://localhost:{tcp_port}?key=discover&discover=https://127.0.0.1:{port}",
    ],
)
async def test_every_transport_over_tls(secure: Server, url: str) -> None:
    """The TCP port speaks TLS, too, with the same certificate; Noise goes inside, where it is wanted."""
    ann = await secure.person()
    room = await secure.chatroom(ann)
    address = url.format(port=secure.port, tcp_port=secure.tcp_port)
    async with asyncio.timeout(20), connect(address, ann.token, tls=secure.trust) as client:
        sent = await client.send_message(room, "x" * 16_000)
        async for event in client:
            if event.event == "message_received":
                assert event.data.message == sent.message
                break


async def test_an_unknown_authority(secure: Server, caplog: pytest.LogCaptureFixture) -> None:
    """The Python client does not talk to a server whose certificate it does not trust; it says so, and tries again."""

    async def enter() -> None:
        async with connect(secure.ws, "secret"):
            pass

    entering = asyncio.create_task(enter())
    async with asyncio.timeout(10):
        while "certificate verify failed" not in caplog.text:
            await asyncio.sleep(0.02)
    assert not entering.done()
    entering.cancel()
    assert "secret" not in secure.logs()


async def test_a_slow_reader_over_tls(secure: Server) -> None:
    """TLS buffers are no hole in the bounds: a client that does not read lags, and catches up when it reads."""
    ann, bob = await secure.people(2)
    room = await secure.chatroom(ann, bob)
    async with socket_client(secure.ws, ssl=secure.trust) as client, deaf_client(secure, bob) as slow:
        await client.authenticate(ann.token)
        async with asyncio.timeout(60):
            while 'drops_total{why="lagging"}' not in (await metrics(secure))[1]:
                await flood(client, room, 200)
        expected = 2
        while (frame := await slow.event())["event"] == "message_received":
            assert frame["seq"] == expected
            expected += 1
        assert frame["event"] == "lagging"
        reached = frame["data"]["chatrooms"][str(room)]
        slow.send(text("sync", {"chatrooms": {str(room): reached - 1}}))
        assert (await slow.event())["seq"] == reached
        assert (await slow.event())["event"] == "synced"
        await client.say(room, "live again")
        assert (await slow.event())["seq"] == reached + 1


async def test_clear_speech_is_cut(secure: Server) -> None:
    """Who speaks without TLS is answered with nothing but an alert, and cut at once."""
    clear = {secure.port: b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n", secure.tcp_port: b"PLY1\x00" + bytes(200)}
    for port, data in clear.items():
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(data)
        assert len(await asyncio.wait_for(reader.read(), 10)) <= ALERT_RECORD
        writer.close()


async def test_a_silent_handshake_is_cut(secure: Server) -> None:
    """Who says nothing, or stops in the middle of the TLS handshake, loses the connection as a slow head does."""
    hello = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), hello, server_hostname="x").do_handshake()
    begun = hello.read()[:40]
    for said, port in ((b"", secure.port), (begun, secure.port), (b"", secure.tcp_port), (begun, secure.tcp_port)):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(said)
        assert await asyncio.wait_for(reader.read(), 10) == b""
        writer.close()


async def test_silence_after_the_handshake_is_cut(secure: Server) -> None:
    """The deadline of the head holds over TLS, too."""
    async with raw_socket(secure) as raw:
        assert await raw.ended() == b""


async def test_the_certificate_changes_under_open_sockets(secure: Server, authority: Authority) -> None:
    """SIGHUP: an open socket goes on, and new connections see the new certificate; a broken pair changes nothing."""
    ann = await secure.person()
    room = await secure.chatroom(ann)
    async with socket_client(secure.ws, ssl=secure.trust) as client:
        await client.authenticate(ann.token)
        authority.issue("second")
        await hang_up(secure, "certificate reloaded")
        assert await shown(secure) == "CN=second"
        assert (await client.say(room, "still here"))["event"] == "ack"
        authority.issue_misfit("third")
        await hang_up(secure, "the certificate could not be reloaded")
        assert await shown(secure) == "CN=second"
        assert (await client.say(room, "and here"))["event"] == "ack"
        assert not client.ws.close_code


async def hang_up(server: Server, outcome: str) -> None:
    """SIGHUP, until the log says so."""
    os.kill(server.pid, signal.SIGHUP)
    async with asyncio.timeout(10):
        while outcome not in server.logs():
            await asyncio.sleep(0.02)


async def shown(server: Server) -> str:
    """The name in the certificate that a new connection sees."""
    _, writer = await asyncio.open_connection("127.0.0.1", server.port, ssl=server.trust)
    certificate = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return x509.load_der_x509_certificate(certificate).subject.rfc4514_string()


async def test_refusal_to_start(tmp_path: Path) -> None:
    """A pair that does not fit is a refusal in one line, before the database is touched."""
    settings = Authority(tmp_path).issue_misfit("refused")
    environment = {**os.environ, **settings, "PARLEY_DATA": str(tmp_path), "DATABASE_URL": "postgresql://nowhere/x"}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", "serve"), env=environment, stderr=asyncio.subprocess.PIPE
    )
    _, said = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 2
    assert said.decode().startswith("Error: PARLEY_TLS_KEY names ")
    assert len(said.decode().splitlines()) == 1


async def test_a_restart_for_production(secure: Server, authority: Authority) -> None:
    """A stop closes sockets in order over TLS, too; in production browsers are told to keep to TLS."""
    ann = await secure.person()
    async with socket_client(secure.ws, ssl=secure.trust) as client:
        await client.authenticate(ann.token)
        await secure.stop()
        assert await client.closed() == (CloseCode.draining, "the server is stopping")
    assert secure.process is not None
    assert secure.process.returncode == 0
    authority.issue("last")
    keys = secure.directory / "data" / "keys"
    secure.settings |= {f"{setting}_FILE": str(keys / file) for setting, file in FILES.items()}
    secure.settings["PARLEY_ENV"] = "production"
    await secure.start()
    async with aiohttp.ClientSession() as http, http.get(secure.http + "/health/live", ssl=secure.trust or True) as it:
        assert it.headers["Strict-Transport-Security"] == "max-age=31536000"
