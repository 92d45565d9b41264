"""Resume by counting: what was lost comes again, exactly, and only to those who still may have it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import aiohttp
import asyncpg
import pytest
import pytest_asyncio

from tests.e2e.lines import TRANSPORTS, Ended, Transport
from tests.e2e.server import Person, Server
from tests.e2e.socket_client import SocketClient, socket_client

pytestmark = pytest.mark.asyncio(loop_scope="module")

Frame = dict[str, Any]

STREAMS: dict[Transport, str] = {
    "ws-json": "JSON in messages",
    "ws-msgpack": "MessagePack in messages",
    "ws-noise": "JSON behind lengths",
    "tcp-json": "JSON behind lengths",
    "tcp-msgpack": "MessagePack behind lengths",
    "tcp-noise": "MessagePack behind lengths",
}
"""How each transport frames what it carries; between those that do alike a session can move."""


@dataclass(slots=True)
class Scene:
    """Ann and Bob in a chatroom; Ann writes by REST, Bob's session is what the test is about."""

    server: Server
    ann: Person
    bob: Person
    room: UUID
    said: int = field(default=0)

    async def say(self, count: int = 1) -> list[str]:
        """Ann says something, so many times."""
        texts = [f"text {self.said + n}" for n in range(count)]
        self.said += count
        for text in texts:
            await self.server.data("POST", f"/chatrooms/{self.room}/messages", self.ann.token, {"content": text})
        return texts

    @asynccontextmanager
    async def open(self) -> AsyncIterator[tuple[SocketClient, Frame]]:
        """A new session of Bob's, and its `ready`."""
        async with socket_client(self.server) as client:
            yield client, await client.authenticate(self.bob.token)

    async def cut_session(self, hear: int = 0) -> Frame:
        """A session of Bob's that heard so many messages and was cut. Returns its `ready`."""
        async with self.open() as (client, ready):
            await self.say(hear)
            for _ in range(hear):
                await client.until("message_received")
            client.cut()
        await self.until_cut()
        return ready

    async def until_cut(self) -> None:
        """Waits until the server has noticed."""
        async with asyncio.timeout(5):
            while 'parley_sessions{state="attached"} 0.0' not in await metrics(self.server):
                await asyncio.sleep(0.01)

    async def execute(self, sql: str, *args: Any) -> None:
        """Changes the database behind the server's back, as another node would."""
        connection = await asyncpg.connect(self.server.database_url)
        await connection.execute(sql, *args)
        await connection.close()


async def metrics(server: Server) -> str:
    """The text of /metrics."""
    async with aiohttp.ClientSession() as http, http.get(server.http + "/metrics") as answer:
        return await answer.text()


async def resume(client: SocketClient, ready: Frame, received: int, **change: Any) -> Frame:
    """Asks to resume a session; returns the first frame of the answer."""
    await client.until("hello")
    asked = {"session_id": ready["session_id"], "resume_token": ready["resume_token"], "received": received}
    await client.send("resume", {**asked, **change})
    return await client.recv()


async def texts(client: SocketClient, count: int) -> list[str]:
    """The contents of the next frames, which have to be messages."""
    frames = [await client.recv() for _ in range(count)]
    assert {frame["event"] for frame in frames} <= {"message_received"}, frames
    return [frame["data"]["message"]["content"] for frame in frames]


async def heard_if_alive(client: SocketClient) -> list[str] | None:
    """The messages up to the answer of a ping; None when the connection has ended."""
    heard = []
    with suppress(Ended):
        await client.send("ping", id="alive")
        while (frame := await client.recv()).get("id") != "alive":
            heard.append(frame["data"]["message"]["content"])
        return heard
    return None


async def silent(client: SocketClient) -> bool:
    """Whether nothing more was sent: the answer to a ping is the next frame."""
    await client.send("ping", {}, "last")
    return (await client.recv()).get("id") == "last"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_server(server_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    """One server for all of these tests: each has people and a chatroom of its own."""
    admin = await asyncpg.connect(server_url, database="postgres")
    await admin.execute("CREATE DATABASE test_resume TEMPLATE parley")
    settings = {"PARLEY_LIMIT_REPLAY_FRAMES": "12", "PARLEY_REFRESH_RETRY": "0"}
    server = Server(tmp_path_factory.mktemp("resume"), server_url.replace("/parley?", "/test_resume?"), settings)
    await server.start()
    yield server
    await server.stop()
    await admin.execute("DROP DATABASE test_resume WITH (FORCE)")
    await admin.close()


@pytest_asyncio.fixture(loop_scope="module")
async def scene(shared_server: Server, transport: Transport) -> Scene:
    """People who know nobody from the other tests, on each transport in turn."""
    ann, bob = await shared_server.people(2)
    return Scene(shared_server.over(transport), ann, bob, await shared_server.chatroom(ann, bob))


class TestExactness:
    @pytest.mark.parametrize("received", range(4))
    async def test_missed(self, scene: Scene, received: int) -> None:
        """The frames after the last received one come again, exactly those, and then live ones."""
        ready = await scene.cut_session(hear=3)
        await scene.say(2)
        everything = [f"text {n}" for n in range(5)]
        async with socket_client(scene.server) as client:
            frame = await resume(client, ready, received)
            assert (frame["event"], frame["data"]) == ("resumed", {"missed": 5 - received, "handled": 0})
            assert await texts(client, 5 - received) == everything[received:]
            assert await silent(client)
            assert await scene.say() == await texts(client, 1)

    async def test_handled(self, scene: Scene) -> None:
        """Every command counts as handled, also a refused and an unreadable one; pings do not. Answers wait."""
        async with scene.open() as (client, ready):
            await client.send("send_message", {"chatroom_id": str(scene.room), "content": "mine"}, "1")
            await client.send("send_message", {"chatroom_id": str(uuid4()), "content": "nowhere"}, "2")
            await client.send("ping", {})
            await client.line.send(b"no JSON")
            await client.send("leave_chatroom", {"chatroom_id": str(scene.room)}, "4")
            while client.received < 5:
                await client.recv()
            client.cut()
        await scene.until_cut()
        async with socket_client(scene.server) as client:
            frame = await resume(client, ready, 0)
            assert (frame["event"], frame["data"]) == ("resumed", {"missed": 5, "handled": 4})
            frames = [await client.recv() for _ in range(5)]
            answers = {f.get("id"): f["event"] for f in frames if f["event"] in ("ack", "error")}
            assert answers == {"1": "ack", "2": "error", None: "error", "4": "ack"}
            assert [f["event"] for f in frames].count("message_received") == 1

    async def test_answer_of_a_cut_command(self, scene: Scene) -> None:
        """A command that was taken just before the cut is carried out once, and its ack waits for the resume."""
        async with scene.open() as (client, ready):
            await client.send("send_message", {"chatroom_id": str(scene.room), "content": "last words"}, "x")
            pong = asyncio.create_task(client.until("pong"))
            await client.send("ping", {})
            assert (await pong)["data"]["handled"] == 1
            client.cut()
        async with socket_client(scene.server) as client:
            frame = await resume(client, ready, 0)
            assert frame["data"]["handled"] == 1
            frames = [await client.recv() for _ in range(2)]
            assert sorted(f["event"] for f in frames) == ["ack", "message_received"]
            assert await silent(client)
        assert len(await scene.server.history(scene.ann, scene.room)) == 1

    async def test_acknowledged_frames(self, scene: Scene) -> None:
        """What a ping has acknowledged is forgotten; the rest can still be had."""
        async with scene.open() as (client, ready):
            await scene.say(3)
            await texts(client, 3)
            await client.send("ping", {"received": 2})
            await client.until("pong")
            client.cut()
        await scene.until_cut()
        async with socket_client(scene.server) as client:
            assert (await resume(client, ready, 2))["data"]["missed"] == 1
            assert await texts(client, 1) == ["text 2"]
            client.cut()
        async with socket_client(scene.server) as client:
            assert (await resume(client, ready, 1))["data"]["reason"] == "buffer_exceeded"

    async def test_again_and_again(self, scene: Scene) -> None:
        """A session can be cut and resumed any number of times, and keeps its count."""
        ready = await scene.cut_session(hear=1)
        for turn in range(1, 6):
            said = await scene.say()
            async with socket_client(scene.server) as client:
                frame = await resume(client, ready, turn)
                assert frame["data"] == {"missed": 1, "handled": 0}
                assert await texts(client, 1) == said
                client.cut()


class TestRefusals:
    async def test_received_above_sent(self, scene: Scene) -> None:
        """Who claims more frames than were sent gets a new session if a token came along, and hears from there on."""
        ready = await scene.cut_session(hear=1)
        async with socket_client(scene.server) as client:
            frame = await resume(client, ready, 2, token=scene.bob.token)
            assert (frame["event"], frame["data"]) == ("session_reset", {"reason": "received_too_high", "handled": 0})
            fresh = await client.recv()
            assert fresh["event"] == "ready"
            assert fresh["data"]["session_id"] != ready["session_id"]
            assert await scene.say() == await texts(client, 1)

    async def test_without_a_token(self, scene: Scene) -> None:
        """Without a token there is no new session yet; the same connection can still authenticate."""
        ready = await scene.cut_session(hear=1)
        async with socket_client(scene.server) as client:
            assert (await resume(client, ready, 2))["event"] == "session_reset"
            await client.send("authenticate", {"token": scene.bob.token})
            assert (await client.recv())["event"] == "ready"

    async def test_strangers_learn_nothing(self, scene: Scene) -> None:
        """A wrong secret, and somebody else's session, look like one that never was; the owner can still resume."""
        ready = await scene.cut_session(hear=1)
        eve = await scene.server.person()
        answers = []
        changes: tuple[dict[str, Any], ...] = (
            {"session_id": str(uuid4())},
            {"resume_token": "wrong"},
            {"resume_token": "wrong", "token": eve.token},
            {"token": eve.token},
            {"resume_token": "wrong", "received": 99},
        )
        for change in changes:
            async with socket_client(scene.server) as client:
                answers.append(await resume(client, ready, change.pop("received", 1), **change))
        assert answers == [{"event": "session_reset", "data": {"reason": "unknown_session"}}] * 5
        async with socket_client(scene.server) as client:
            assert (await resume(client, ready, 1))["event"] == "resumed"

    async def test_buffer_exceeded(self, scene: Scene) -> None:
        """When more was missed than is kept, the session is reset, and a sync brings all of it."""
        ready = await scene.cut_session(hear=2)
        said = await scene.say(20)
        async with socket_client(scene.server) as client:
            frame = await resume(client, ready, 2, token=scene.bob.token)
            assert (frame["event"], frame["data"]["reason"]) == ("session_reset", "buffer_exceeded")
            assert (await client.recv())["event"] == "ready"
            await client.send("sync", {"chatrooms": {str(scene.room): 3}})
            assert await texts(client, 20) == said
            synced = (await client.recv())["data"]["chatrooms"][str(scene.room)]
            assert synced == {"from": 3, "to": 23, "verdict": "complete"}
            assert await scene.say() == await texts(client, 1)

    async def test_goodbye(self, scene: Scene) -> None:
        """A clean close ends the session: nobody will resume it."""
        async with scene.open() as (client, ready):
            await client.goodbye()
        async with socket_client(scene.server) as client:
            assert (await resume(client, ready, 0))["data"]["reason"] == "unknown_session"

    async def test_other_protocol(self, scene: Scene) -> None:
        """A session's lost frames are encoded and framed already: it goes on only where frames look the same."""
        ready = await scene.cut_session()
        for other in TRANSPORTS:
            async with socket_client(scene.server, other) as client:
                frame = await resume(client, ready, 0)
                if STREAMS[other] == STREAMS[scene.server.transport]:
                    assert frame["event"] == "resumed"
                    client.cut()
                else:
                    assert (frame["event"], frame["data"]["reason"]) == ("session_reset", "other_protocol")


class TestRights:
    """A resume is a new look at the account and at every chatroom."""

    async def test_signed_out(self, scene: Scene) -> None:
        """Signing out forgets cut sessions at once."""
        ready = await scene.cut_session()
        await scene.server.call("POST", "/auth/logout", scene.bob.token)
        async with socket_client(scene.server) as client:
            assert (await resume(client, ready, 0))["data"]["reason"] == "unknown_session"

    async def test_signed_out_with_its_token(self, scene: Scene) -> None:
        """The access token of a sign-in that has ended opens nothing either."""
        ready = await scene.cut_session()
        await scene.server.call("POST", "/auth/logout", scene.bob.token)
        async with socket_client(scene.server) as client:
            frame = await resume(client, ready, 0, token=scene.bob.token)
            assert (frame["event"], frame["data"]["code"]) == ("error", "AUTH_TOKEN_INVALID")
            assert (await client.closed())[0] == 4001

    @pytest.mark.parametrize(
        "sql",
        [
            "UPDATE sign_ins SET revoked_at = now() WHERE user_id = $1",
            "UPDATE users SET is_active = false WHERE id = $1",
        ],
        ids=["sign-in revoked", "account deactivated"],
    )
    async def test_ended_elsewhere(self, scene: Scene, sql: str) -> None:
        """What another node has ended is found in the database: the resume is refused and closed for good."""
        ready = await scene.cut_session()
        await scene.say()
        await scene.execute(sql, scene.bob.id)
        async with socket_client(scene.server) as client:
            frame = await resume(client, ready, 0)
            assert (frame["event"], frame["data"]["code"]) == ("error", "AUTH_TOKEN_INVALID")
            assert (await client.closed())[0] == 4001

    async def test_removed_while_cut(self, scene: Scene) -> None:
        """Of a chatroom that the user was removed from, only the removal is told, and later events are not."""
        ready = await scene.cut_session()
        await scene.say(2)
        await scene.server.call("DELETE", f"/chatrooms/{scene.room}/members/{scene.bob.id}", scene.ann.token)
        await scene.say(1)
        async with socket_client(scene.server) as client:
            frame = await resume(client, ready, 0)
            assert frame["data"] == {"missed": 1, "handled": 0}
            told = await client.recv()
            assert (told["event"], told["seq"], told["data"]["user_id"]) == ("user_left", 4, str(scene.bob.id))
            await scene.say(1)
            assert await silent(client)

    async def test_removed_elsewhere(self, scene: Scene) -> None:
        """Buffered frames of a chatroom that the database no longer lists are left out, and the count agrees."""
        ready = await scene.cut_session()
        other = await scene.server.chatroom(scene.bob)
        await scene.say(2)
        await scene.execute("DELETE FROM members WHERE user_id = $1 AND chatroom_id = $2", scene.bob.id, scene.room)
        async with socket_client(scene.server) as client:
            frame = await resume(client, ready, 0)
            assert frame["data"] == {"missed": 1, "handled": 0}
            assert (await client.recv())["chatroom_id"] == str(other)
            client.cut()
        async with socket_client(scene.server) as client:
            assert (await resume(client, ready, 1))["data"] == {"missed": 0, "handled": 0}

    async def test_sign_out_closes_a_resumed_session(self, scene: Scene) -> None:
        """Signing out closes every socket of the sign-in within 2 s, also one that was resumed."""
        ready = await scene.cut_session()
        async with socket_client(scene.server) as resumed, scene.open() as (other, _):
            assert (await resume(resumed, ready, 0))["event"] == "resumed"
            began = time.monotonic()
            await scene.server.call("POST", "/auth/logout", scene.bob.token)
            assert [(await client.closed())[0] for client in (resumed, other)] == [4001, 4001]
            assert time.monotonic() - began < 2

    async def test_renewed_sign_in(self, scene: Scene) -> None:
        """A session resumed under the token of another sign-in belongs to that one from then on."""
        ready = await scene.cut_session()
        body = {"username": scene.bob.username, "password": "planted-password-0451"}
        token = (await scene.server.data("POST", "/auth/login", body=body))["access_token"]
        async with socket_client(scene.server) as client:
            assert (await resume(client, ready, 0, token=token))["event"] == "resumed"
            await scene.server.call("POST", "/auth/logout", scene.bob.token)
            assert await silent(client)
            await scene.server.call("POST", "/auth/logout", token)
            assert (await client.closed())[0] == 4001

    async def test_stolen_refresh_token(self, scene: Scene) -> None:
        """A refresh token that comes a second time ends its family: live sockets close, cut sessions are gone."""
        ready = await scene.cut_session()
        body = {"refresh_token": scene.bob.refresh_token}
        async with scene.open() as (client, _):
            assert (await scene.server.call("POST", "/auth/refresh", body=body))[0] == 200
            assert await silent(client)
            began = time.monotonic()
            assert (await scene.server.call("POST", "/auth/refresh", body=body))[0] == 401
            assert (await client.closed())[0] == 4001
            assert time.monotonic() - began < 2
        async with socket_client(scene.server) as client:
            assert (await resume(client, ready, 0))["data"]["reason"] == "unknown_session"


class TestTwoSockets:
    async def test_half_open(self, scene: Scene) -> None:
        """A socket that the client has given up, and the server not yet, is replaced by the one that resumes."""
        async with scene.open() as (old, ready), socket_client(scene.server) as new:
            said = await scene.say(2)
            frame = await resume(new, ready, 0)
            assert frame["data"] == {"missed": 2, "handled": 0}
            assert await texts(new, 2) == said
            assert (await old.closed())[0] == 4005
            assert await scene.say() == await texts(new, 1)

    async def test_race(self, scene: Scene) -> None:
        """Of sockets that resume at the same moment one has the session in the end, the others are replaced."""
        ready = await scene.cut_session(hear=1)
        said = await scene.say(2)
        async with AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(socket_client(scene.server)) for _ in range(6)]
            # A loser may be closed before it has heard anything.
            await asyncio.gather(*(resume(client, ready, 1) for client in clients), return_exceptions=True)
            heard = {client: await heard_if_alive(client) for client in clients}
            losers = [client for client in clients if heard[client] is None]
            assert [client.close_code for client in losers] == [4005] * 5
            (winner,) = set(clients) - set(losers)
            assert heard[winner] == said
            assert await scene.say() == await texts(winner, 1)

    async def test_no_second_life(self, scene: Scene) -> None:
        """A live session does not resume another one on the same socket."""
        ready = await scene.cut_session()
        async with scene.open() as (client, _):
            asked = {"session_id": ready["session_id"], "resume_token": ready["resume_token"], "received": 0}
            answer = await client.ask("resume", asked)
            assert (answer["event"], answer["data"]["code"]) == ("error", "VALIDATION_INVALID_VALUE")
            assert await silent(client)
