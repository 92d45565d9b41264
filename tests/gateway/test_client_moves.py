"""The client's second connection on real sockets: what the shell does with two lines at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from http import HTTPStatus

import pytest
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from gateway.client import connect
from gateway.client_inbox import PAUSE_AT
from protocol.codec import JSON
from protocol.errors import CloseCode
from protocol.events import Migrate
from tests.gateway.client_served import Served
from tests.gateway.client_shapes import HELLO, ROOM
from tests.gateway.test_client import take, until


class TwoNodes(Served):
    """A second connection belongs to another node, to which the session is handed when it is resumed there."""

    def __init__(self) -> None:
        super().__init__()
        self.former: ServerConnection | None = None
        self.silent = False
        self.closes_former = True

    async def migrate(self, overlap: float = 10.0) -> None:
        """The node begins to stop; who connects from now on meets the other one."""
        self.meet = self._be_next
        told = Migrate(after_ms=10, resume_token="r", overlap_ms=int(overlap * 1000))
        assert self.socket is not None
        await self.socket.send(JSON.event("migrate", told), text=True)

    async def _be_next(self, socket: ServerConnection) -> None:
        try:
            if not self.silent:
                await socket.send(JSON.event("hello", HELLO), text=True)
            resume = await socket.recv(decode=False)
            self.former, self.socket = self.socket, socket
            self.model.cut()
            while True:
                self._receive(resume)
                await self.flush()
                if self.former is not None and self.closes_former:
                    await self.former.close(CloseCode.replaced)
                resume = await socket.recv(decode=False)
        except ConnectionClosed:
            if self.socket is socket:
                self.model.cut()


@pytest.fixture
async def nodes() -> AsyncIterator[TwoNodes]:
    """A server of which the user is known to be a member of ROOM, at seq 1."""
    server = TwoNodes()
    await server.start()
    yield server
    await server.stop()


async def test_messages_flow_through_a_move(nodes: TwoNodes) -> None:
    """The session is the same, every message is acked and comes once; `replaced` on the former ends nobody."""
    async with connect(nodes.url, "token") as client:
        session = client.session_id
        moved = asyncio.create_task(until(lambda: nodes.former is not None))
        await nodes.migrate()
        sent = 0
        while not moved.done() or sent % 20:
            assert (await client.send_message(ROOM, "hi")).message.seq == sent + 2
            sent += 1
        assert await take(client, sent) == list(range(2, sent + 2))
        assert client.session_id == session
        assert nodes.former is not None
        await nodes.former.wait_closed()
        assert nodes.connections == 2


async def test_the_former_connection_is_left_without_a_goodbye(nodes: TwoNodes) -> None:
    """A goodbye would end the session; where the server leaves the former open, the client cuts it."""
    async with connect(nodes.url, "token") as client:
        first = nodes.socket
        assert first is not None
        nodes.closes_former = False
        await nodes.migrate()
        await until(lambda: nodes.former is not None)
        await client.send_message(ROOM, "hi")
        async with asyncio.timeout(10):
            await first.wait_closed()
        assert first.close_code != 1000


async def test_a_node_that_cannot_be_reached_yet(nodes: TwoNodes, caplog: pytest.LogCaptureFixture) -> None:
    """The first connection serves, the log says what is the matter, and the move is made when it can be."""
    async with connect(nodes.url, "token") as client:
        nodes.status = HTTPStatus.SERVICE_UNAVAILABLE
        await nodes.migrate()
        await until(lambda: "trying again" in caplog.text)
        await client.send_message(ROOM, "still here")
        assert nodes.former is None
        nodes.status = None
        await until(lambda: nodes.former is not None)
        await client.send_message(ROOM, "there")
        assert await take(client, 2) == [2, 3]


async def test_a_reader_that_rests_moves_too(nodes: TwoNodes) -> None:
    """With its inbox full, a client reads nothing from the first connection; what it had not read comes on the next."""
    async with connect(nodes.url, "token") as client:
        await nodes.say()
        assert await take(client, 1) == [2]  # it has begun to read, without which little is kept
        await nodes.say(PAUSE_AT - 10)
        await nodes.migrate()
        await nodes.say(20)
        await until(lambda: nodes.former is not None)
        assert await take(client, PAUSE_AT + 10) == list(range(3, PAUSE_AT + 13))


@pytest.mark.parametrize("silent", [True, False], ids=["opening", "resumed"])
async def test_leaving_in_the_middle_of_a_move(nodes: TwoNodes, silent: bool) -> None:
    """Both connections are closed, and nothing is left running."""
    nodes.silent = silent
    async with connect(nodes.url, "token"):
        await nodes.migrate()
        await until(lambda: nodes.connections == 2)
    running = [getattr(task.get_coro(), "__qualname__", "") for task in asyncio.all_tasks()]
    assert [name for name in running if name.startswith(("ClientIO.", "Talk."))] == []
