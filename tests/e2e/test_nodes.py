"""Two nodes on one database and one Redis behave as one server, also while Redis does not."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest
import pytest_asyncio

from protocol.errors import CloseCode
from tests.e2e.lines import Ended
from tests.e2e.program import parley
from tests.e2e.server import Person, Server
from tests.e2e.socket_client import SocketClient, socket_client
from tests.valkey import Valkey

PATIENCE = 15.0
"""Seconds for what takes two at most on a machine that has nothing else to do."""


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def valkey(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Valkey]:
    """The Valkey of the two nodes."""
    server = Valkey(tmp_path_factory.mktemp("valkey"))
    server.start()
    yield server
    server.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def both(
    server_url: str, tmp_path_factory: pytest.TempPathFactory, valkey: Valkey
) -> AsyncIterator[list[Server]]:
    """Two nodes that share a database, keys and a Valkey."""
    admin = await asyncpg.connect(server_url, database="postgres")
    await admin.execute("CREATE DATABASE nodes TEMPLATE parley")
    data = tmp_path_factory.mktemp("nodes") / "data"
    async with AsyncExitStack() as stack:
        started = []
        for number in range(2):
            settings = {"REDIS_URL": valkey.url, "PARLEY_DATA": str(data)}
            directory = tmp_path_factory.mktemp(f"node-{number}")
            node = Server(directory, server_url.replace("/parley?", "/nodes?"), settings)
            await node.start()
            stack.push_async_callback(node.stop)
            started.append(node)
        yield started
    await admin.execute("DROP DATABASE nodes WITH (FORCE)")
    await admin.close()
    assert not any("Traceback" in node.logs() for node in started)


@pytest.fixture
async def nodes(both: list[Server], valkey: Valkey) -> list[Server]:
    """The two nodes, in touch with each other, whatever the test before has done to Valkey."""
    valkey.resume()
    await asyncio.gather(*(connected(node) for node in both))
    return both


async def opened(stack: AsyncExitStack, node: Server, person: Person) -> tuple[SocketClient, dict[str, Any]]:
    """A session on a node."""
    client = await stack.enter_async_context(socket_client(node))
    return client, await client.authenticate(person.token)


async def resumed(client: SocketClient, ready: dict[str, Any], received: int, token: str | None = None) -> Any:
    """The answer to a resume on this connection."""
    await client.until("hello")
    which = {"session_id": ready["session_id"], "resume_token": ready["resume_token"], "received": received}
    await client.send("resume", {**which, "token": token})
    return await client.recv()


async def texts(client: SocketClient, count: int, timeout: float = PATIENCE) -> list[str]:
    """The texts of the next messages it hears."""
    heard: list[str] = []
    while len(heard) < count:
        frame = await client.until("message_received", timeout=timeout)
        heard.append(frame["data"]["message"]["content"])
    return heard


async def test_one_server(nodes: list[Server]) -> None:
    """What happens on one node is heard on the other: messages in order, a new chatroom, typing, read positions."""
    here, there = nodes
    ann, bob = await here.people(2)
    room = await here.chatroom(ann, bob)
    async with AsyncExitStack() as stack:
        anns, _ = await opened(stack, here, ann)
        bobs, _ = await opened(stack, there, bob)
        for client in (anns, bobs):
            assert (await client.ask("join_chatroom", {"chatroom_id": str(room)}))["event"] == "ack"
        for number in range(20):
            await anns.say(room, f"{number}")
        assert await texts(bobs, 20) == [f"{number}" for number in range(20)]
        await bobs.ask("typing_start", {"chatroom_id": str(room)})
        assert (await anns.until("typing_indicator"))["data"]["user_id"] == str(bob.id)
        await bobs.ask("message_read", {"chatroom_id": str(room), "seq": 5})
        assert (await anns.until("read_receipt"))["data"]["seq"] == 5
        another = await here.chatroom(ann, bob)
        assert (await bobs.until("chatroom_created"))["chatroom_id"] == str(another)
        await anns.say(another, "first")
        assert await texts(bobs, 1) == ["first"]


async def test_resume_elsewhere(nodes: list[Server]) -> None:
    """A session goes on on the other node: exactly the lost frames, then live; its old socket is closed as replaced."""
    here, there = nodes
    ann, bob = await here.people(2)
    room = await here.chatroom(ann, bob)
    async with AsyncExitStack() as stack:
        anns, ready = await opened(stack, here, ann)
        bobs, _ = await opened(stack, there, bob)
        await anns.say(room, "from ann")
        for number in range(3):
            await bobs.say(room, f"{number}")
        await texts(anns, 4)
        moved = await stack.enter_async_context(socket_client(there))
        answer = await resumed(moved, ready, 2)
        assert (answer["event"], answer["data"]) == ("resumed", {"missed": 3, "handled": 1})
        assert await anns.closed() == (4005, "another connection resumed this session")
        await bobs.say(room, "live")
        assert await texts(moved, 4) == ["0", "1", "2", "live"]
        await moved.say(room, "from there")
        moved.cut()
        again = await stack.enter_async_context(socket_client(here))
        answer = await resumed(again, ready, 2 + moved.received)
        assert (answer["event"], answer["data"]) == ("resumed", {"missed": 1, "handled": 2})  # its own message
        await again.say(room, "back home")
        heard: list[str] = []
        while heard[-1:] != ["back home"]:
            heard += await texts(bobs, 1)
        assert heard[-2:] == ["from there", "back home"]


async def test_resume_after_a_cut(nodes: list[Server]) -> None:
    """What happened between the cut and the resume on another node comes, and a chatroom that was open stays open."""
    here, there = nodes
    ann, bob = await here.people(2)
    room = await here.chatroom(ann, bob)
    async with AsyncExitStack() as stack:
        anns, ready = await opened(stack, here, ann)
        await anns.ask("join_chatroom", {"chatroom_id": str(room)})
        anns.cut()
        bobs, _ = await opened(stack, there, bob)
        for number in range(3):
            await bobs.say(room, f"{number}")
        late = await there.chatroom(bob, ann)
        await bobs.until("chatroom_created")
        moved = await stack.enter_async_context(socket_client(there))
        answer = await resumed(moved, ready, anns.received, ann.token)
        assert answer["event"] == "resumed", answer
        assert await texts(moved, 3) == ["0", "1", "2"]
        assert (await moved.until("chatroom_created"))["chatroom_id"] == str(late)
        await bobs.ask("typing_start", {"chatroom_id": str(room)})
        assert (await moved.until("typing_indicator"))["data"]["user_id"] == str(bob.id)


async def test_dead_node(nodes: list[Server], tmp_path: Path) -> None:
    """The sessions of a node that was killed are reset, and sync brings what was missed."""
    there = nodes[0]
    here = Server(tmp_path, there.database_url, there.settings)
    await here.start()
    ann, bob = await here.people(2)
    room = await here.chatroom(ann, bob)
    async with AsyncExitStack() as stack:
        anns, ready = await opened(stack, here, ann)
        await here.kill()
        bobs, _ = await opened(stack, there, bob)
        await bobs.say(room, "meanwhile")
        moved = await stack.enter_async_context(socket_client(there))
        answer = await resumed(moved, ready, anns.received, ann.token)
        assert (answer["event"], answer["data"]["reason"]) == ("session_reset", "node_gone")
        assert answer["data"].get("handled") is None
        assert (await moved.recv())["event"] == "ready"
        await moved.send("sync", {"chatrooms": {str(room): 1}})
        assert await texts(moved, 1) == ["meanwhile"]


async def test_made_up_token(nodes: list[Server]) -> None:
    """A resume token that no node has made takes no session away, whatever it looks like."""
    here, there = nodes
    (ann,) = await here.people(1)
    async with AsyncExitStack() as stack:
        anns, ready = await opened(stack, here, ann)
        home, secret, tag = ready["resume_token"].split(".")
        for forged in (f"{home}.{secret}.{tag[:-2]}AA", f"{home}.{secret[::-1]}.{tag}", home, f"{home}..", "x" * 99):
            thief = await stack.enter_async_context(socket_client(there))
            answer = await resumed(thief, {**ready, "resume_token": forged}, 0)
            assert (answer["event"], answer["data"]["reason"]) == ("session_reset", "unknown_session"), forged
        assert (await anns.ask("list_chatrooms"))["event"] == "ack"


async def test_lost_hints(nodes: list[Server], valkey: Valkey) -> None:
    """While Redis is away, events of the other node still come, in order and once, and a new chatroom is told of."""
    here, there = nodes
    ann, bob = await here.people(2)
    room = await here.chatroom(ann, bob)
    async with AsyncExitStack() as stack:
        anns, _ = await opened(stack, here, ann)
        bobs, _ = await opened(stack, there, bob)
        await anns.say(room, "0")
        assert await texts(bobs, 1) == ["0"]
        valkey.kill()
        async with asyncio.timeout(PATIENCE):
            while (await here.data("GET", "/health"))["services"] != {"database": "healthy", "redis": "degraded"}:
                await asyncio.sleep(0.1)
        for number in range(1, 6):
            await anns.say(room, f"{number}")
        assert await texts(bobs, 5) == [f"{number}" for number in range(1, 6)]
        another = await here.chatroom(ann, bob)
        frame = await bobs.until("lagging", timeout=PATIENCE)
        assert frame["data"]["chatrooms"] == {str(another): 1}
        valkey.start()
        await asyncio.gather(*(connected(node) for node in nodes))
        await anns.say(room, "6")
        assert await texts(bobs, 1) == ["6"]


@pytest.mark.parametrize("redis", ["there", "away"])
async def test_rights_end(nodes: list[Server], valkey: Valkey, redis: str) -> None:
    """What ends rights on one node closes and silences sessions on the other, whether Redis tells it or not."""
    here, there = nodes
    ann, bob, cat, dan, eve, fay = await here.people(6)
    room = await here.chatroom(ann, bob, cat, dan, eve, fay)
    async with AsyncExitStack() as stack:
        bobs, cats, dans, eves, fays = [(await opened(stack, there, person))[0] for person in (bob, cat, dan, eve, fay)]
        if redis == "away":
            valkey.pause()
        await here.data("DELETE", f"/chatrooms/{room}/members/{bob.id}", ann.token)
        assert (await bobs.until("user_left", timeout=PATIENCE))["data"]["user_id"] == str(bob.id)
        refused = await bobs.say(room, "still here?")
        assert refused["data"]["code"] == "CHATROOM_NOT_FOUND"
        await here.data("POST", "/auth/logout", cat.token)
        assert (await cats.closed(PATIENCE))[0] == 4001
        await here.data("PUT", f"/chatrooms/{room}/members/{dan.id}/mute", ann.token, {"duration_seconds": 3600})
        assert (await dans.say(room, "may I?"))["data"]["code"] == "MEMBER_MUTED"
        assert (await dans.ask("typing_start", {"chatroom_id": str(room)}))["data"]["code"] == "MEMBER_MUTED"
        await here.data("PUT", f"/chatrooms/{room}/bans/{eve.id}", ann.token, {})
        assert (await eves.say(room, "still here?"))["data"]["code"] == "CHATROOM_NOT_FOUND"
        await here.data("POST", f"/chatrooms/{room}/messages", ann.token, {"content": "at last"})
        assert await texts(dans, 1) == ["at last"]
        assert "message_received" not in await kinds(eves)
        await parley(here, "users", "deactivate", fay.username)
        assert (await fays.closed(PATIENCE))[0] == 4001


async def kinds(client: SocketClient) -> list[str]:
    """The events it has not read yet."""
    await client.send("ping", id="now")
    heard: list[str] = []
    while (frame := await client.recv()).get("id") != "now":
        heard.append(frame["event"])
    return heard


async def test_stopped_node(nodes: list[Server]) -> None:
    """A node that was stopped, and has lost a session meanwhile, does not serve it any more when it goes on.

    What its client had sent before is not committed by it, its socket is told nothing of the chatroom, and only closed.
    """
    here, there = nodes
    ann, bob = await here.people(2)
    room = await here.chatroom(ann, bob)
    async with AsyncExitStack() as stack:
        anns, ready = await opened(stack, here, ann)
        kept, _ = await opened(stack, here, bob)
        bobs, _ = await opened(stack, there, bob)
        os.kill(here.pid, signal.SIGSTOP)
        try:
            await anns.send("send_message", {"chatroom_id": str(room), "content": "from the past"}, "late")
            moved = await stack.enter_async_context(socket_client(there))
            answer = await resumed(moved, ready, anns.received, ann.token)
            assert (answer["event"], answer["data"]["reason"]) == ("session_reset", "node_gone")
            await moved.until("ready")
            await moved.say(room, "now")
        finally:
            os.kill(here.pid, signal.SIGCONT)
        assert (await anns.closed(PATIENCE))[0] == 4005
        assert anns.received == 0
        assert (await kept.say(room, "still here"))["event"] == "ack"
        assert await texts(bobs, 2) == ["now", "still here"]


async def test_race(nodes: list[Server]) -> None:
    """Of many resumes at once on two nodes each gets its verdict, and at the end one connection has the session."""
    here, there = nodes
    ann, bob = await here.people(2)
    room = await here.chatroom(ann, bob)
    async with AsyncExitStack() as stack:
        anns, ready = await opened(stack, here, ann)
        anns.cut()
        racers = [await stack.enter_async_context(socket_client(nodes[i % 2])) for i in range(8)]
        verdicts = await asyncio.gather(*(_raced(racer, ready) for racer in racers))
        assert set(verdicts) <= {"resumed", "session_reset", "replaced"}, verdicts
        assert "resumed" in verdicts, verdicts
        bobs, _ = await opened(stack, there, bob)
        await bobs.say(room, "who is there?")
        owners = [racer for racer, verdict in zip(racers, verdicts, strict=True) if verdict == "resumed"]
        heard = await asyncio.gather(*(_hears(racer) for racer in owners))
        assert sum(heard) == 1, (verdicts, heard)


async def _raced(racer: SocketClient, ready: dict[str, Any]) -> str:
    try:
        return str((await resumed(racer, ready, 0))["event"])
    except Ended as ended:
        return CloseCode(ended.code).name


async def _hears(racer: SocketClient) -> bool:
    """Whether this connection has the session; the others were closed when another took it."""
    try:
        return await texts(racer, 1) == ["who is there?"]
    except Ended as ended:
        if ended.code != CloseCode.replaced:
            raise
        return False


async def test_redis_sees_nothing(nodes: list[Server], valkey: Valkey) -> None:
    """Whoever reads along in Redis learns ids and times, but no text, no name and no token."""
    here, there = nodes
    spy = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SPY, str(valkey.port), stdout=asyncio.subprocess.PIPE
    )
    assert spy.stdout is not None
    assert await spy.stdout.readline() == b"+OK\r\n"
    ann, bob = await here.people(2)
    room = await here.chatroom(ann, bob, name="planted-name-77")
    async with AsyncExitStack() as stack:
        anns, ready = await opened(stack, here, ann)
        bobs, _ = await opened(stack, there, bob)
        await anns.say(room, "planted-text-1234")
        await texts(bobs, 1)
        moved = await stack.enter_async_context(socket_client(there))
        assert (await resumed(moved, ready, 0))["event"] == "resumed"
    spy.terminate()
    seen = await spy.stdout.read()
    await spy.wait()
    assert str(room).encode() in seen
    for secret in ("planted", ann.username, ready["resume_token"], ann.token):
        assert secret.encode() not in seen, secret


SPY = """
import socket, sys
line = socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=60)
line.sendall(b"MONITOR\\r\\n")
while data := line.recv(65536):
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
"""
"""Prints all that Redis is told."""


async def connected(node: Server) -> None:
    """Waits until the node hears the others."""
    async with asyncio.timeout(PATIENCE):
        while await gauge(node, "parley_bus_connected") != 1:
            await asyncio.sleep(0.05)


async def gauge(node: Server, name: str) -> float:
    """A metric without labels."""
    async with aiohttp.ClientSession() as http, http.get(node.http + "/metrics") as answer:
        lines = (await answer.text()).splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(name + " "))
