"""A node that stops: where its sessions go, and when."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID, uuid4

import msgspec

from gateway.chat import Chat
from gateway.drain import drain
from gateway.neighbours import Neighbours
from gateway.services import Services
from gateway.session import Session
from gateway.wire import Wire
from protocol.errors import CloseCode
from protocol.events import Migrate
from protocol.framing import HEADER_BYTES
from storage.bus import LocalBus
from storage.hints import Hint, Stopping
from storage.leases import Leases
from tests.gateway.hub_world import FakeLink, World, names, seqs

OTHER = uuid4()


class Busy(FakeLink):
    """A socket whose commands take until `work` is done, and that leaves the hub when it is closed."""

    def __init__(self, wire: Wire, gone: Callable[[Busy], object]) -> None:
        super().__init__(wire)
        self.work: asyncio.Task[None] | None = None
        self.closed_at = 0.0
        self._gone = gone

    def finish(self) -> asyncio.Task[None] | None:
        """What is under way."""
        return self.work

    def close(self, code: CloseCode, reason: str) -> None:
        """Closed, and the time."""
        super().close(code, reason)
        self.closed_at = asyncio.get_running_loop().time()
        self._gone(self)


class Node(World):
    """A hub that is being drained. `live` are the other nodes."""

    def __init__(self, *live: UUID, seconds: float = 0.2, rate: int = 1_000) -> None:
        super().__init__()
        self.said: list[Hint] = []
        self.leases = SimpleNamespace(node_id=uuid4(), live=frozenset(live))
        self._heard: Any = None
        bus = cast("LocalBus", SimpleNamespace(on=self._hear, tell_all=self.said.append))
        self.neighbours = Neighbours(bus, cast("Leases", self.leases))
        config = SimpleNamespace(drain=seconds, reconnect_rate=rate)
        journal = SimpleNamespace(drain=self._nothing_to_do)
        self.services = cast("Services", SimpleNamespace(hub=self.hub, journal=journal, config=config))
        self.chat = cast("Chat", SimpleNamespace(ready=True))
        self.begun = 0.0

    async def _nothing_to_do(self) -> None:
        pass

    def _hear(self, kind: type[Hint], handler: Any) -> None:
        assert kind is Stopping
        self._heard = handler

    def hear(self, node_id: UUID) -> None:
        """Another node says that it stops."""
        self._heard(Stopping(node_id))

    def client(self, seq: int = 1) -> tuple[Session, Busy]:
        """A session that hears the room from `seq` plus one, and its socket."""
        session, _ = self.member(seq)
        link = self.hub.links[session] = Busy(self.json, lambda closed: self.hub.detach(session, closed))
        return session, link

    def cut(self) -> Session:
        """A session without a socket."""
        session, link = self.client()
        self.hub.detach(session, link)
        return session

    def stop(self) -> asyncio.Task[None]:
        """SIGTERM."""
        self.begun = asyncio.get_running_loop().time()
        return asyncio.create_task(drain(self.services, self.chat, [], self.neighbours))

    async def until_told(self, *links: Busy) -> None:
        """Waits until these sockets have been told to move."""
        async with asyncio.timeout(10):
            while not all("migrate" in names(link) for link in links):
                await asyncio.sleep(0.01)


def told(link: Busy) -> Migrate:
    """What a socket was told."""
    (data,) = [data for data in link.written if b'"migrate"' in data]
    return msgspec.convert(msgspec.json.decode(data[HEADER_BYTES:])["data"], Migrate)


async def ends(stopping: asyncio.Task[None]) -> None:
    """The drain ends by itself."""
    async with asyncio.timeout(10):
        await stopping


async def test_everyone_has_a_turn() -> None:
    """Sessions are sent to other nodes at the rate that those can bear, and served for the drain's time beyond."""
    node = Node(OTHER, seconds=60, rate=1)
    clients = [node.client() for _ in range(3)]
    stopping = node.stop()
    await node.until_told(*(link for _, link in clients))
    assert not node.chat.ready
    for turn, (session, link) in enumerate(clients):
        told_now = told(link)
        assert max(0, turn * 1000 - 900) <= told_now.after_ms <= turn * 1000
        assert told_now.overlap_ms == 60_000
        assert told_now.resume_token == session.resume_token
    for session, _ in clients:
        node.hub.forget(session)
    await ends(stopping)


async def test_it_serves_until_they_have_gone_and_then_ends() -> None:
    """Events reach who has not moved yet; with the last session the drain ends, long before its time."""
    node = Node(OTHER, seconds=60)
    (moves, former), (stays, link) = node.client(), node.client()
    stopping = node.stop()
    await node.until_told(former, link)
    node.hub.forget(moves)
    node.deliver(2)
    await asyncio.sleep(0)
    assert seqs(link) == [2]
    assert not stopping.done()
    node.hub.forget(stays)
    await ends(stopping)
    assert link.closed is None


async def test_who_does_not_move_is_closed_at_its_turn() -> None:
    """Not before the overlap has passed, and one after the other; the sessions can be resumed for as long again."""
    node = Node(OTHER, seconds=0.2, rate=5)
    clients = [node.client() for _ in range(2)]
    stopping = node.stop()
    for turn, (_, link) in enumerate(clients):
        async with asyncio.timeout(10):
            while link.closed is None:
                await asyncio.sleep(0.01)
        assert link.closed == CloseCode.draining
        assert link.closed_at - node.begun >= turn / 5 + 0.2
        assert len(node.hub.sessions) == 2
    await ends(stopping)
    assert asyncio.get_running_loop().time() - node.begun >= 2 / 5 + 2 * 0.2


async def _until(done: asyncio.Event) -> None:
    await done.wait()


async def test_commands_are_finished_before_a_close() -> None:
    """Who is closed has its answers first."""
    node = Node(OTHER, seconds=0.05)
    _, link = node.client()
    done = asyncio.Event()
    link.work = asyncio.create_task(_until(done))
    stopping = node.stop()
    await node.until_told(link)
    await asyncio.sleep(0.2)
    assert link.closed is None
    done.set()
    await ends(stopping)
    assert link.closed == CloseCode.draining


async def test_cut_sessions_are_waited_for() -> None:
    """A session whose client is on its way is still here to be handed over."""
    node = Node(OTHER, seconds=60)
    session = node.cut()
    stopping = node.stop()
    await asyncio.sleep(0.1)
    assert not stopping.done()
    node.hub.forget(session)
    await ends(stopping)


async def test_who_comes_in_late_is_sent_on() -> None:
    """A session that was still opening at SIGTERM was not told to move; it is closed, and resumed elsewhere."""
    node = Node(OTHER, seconds=0.05)
    session, link = node.client()
    session.opening = True
    stopping = node.stop()
    await ends(stopping)
    assert "migrate" not in names(link)
    assert link.closed == CloseCode.draining


async def test_nobody_else_is_there() -> None:
    """Without other nodes nobody is told to move: sockets are closed, and sessions end."""
    node = Node()
    session, link = node.client()
    await ends(node.stop())
    assert names(link) == []
    assert link.closed == CloseCode.draining
    assert session.id not in node.hub.sessions


async def test_all_nodes_stop_at_once() -> None:
    """When the last of the others stops too, there is nowhere to go: no time is lost by waiting for it."""
    node = Node(OTHER, seconds=0.1, rate=1)
    clients = [node.client() for _ in range(50)]
    stopping = node.stop()
    await node.until_told(*(link for _, link in clients))
    node.hear(OTHER)
    await ends(stopping)
    assert {link.closed for _, link in clients} == {CloseCode.draining}
    assert not node.hub.sessions


async def test_others_are_told() -> None:
    """A node that stops says so, that nobody sends sessions to it; one that is gone is forgotten."""
    node = Node(OTHER)
    await ends(node.stop())
    assert node.said[0] == Stopping(node.leases.node_id)
    assert node.neighbours
    node.hear(OTHER)
    assert not node.neighbours
    node.leases.live = frozenset({uuid4()})
    assert node.neighbours
