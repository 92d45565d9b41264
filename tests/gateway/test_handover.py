"""A session is given to the node that claimed it, and not dropped while that node's question is on its way."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID, uuid4

from crypto.resume_tokens import ResumeTokens, digest_of
from gateway.handover import ASK_SECONDS, Handover
from gateway.neighbours import Neighbours
from gateway.session import Session
from protocol.errors import CloseCode
from storage.bus import Bus
from storage.hints import Hint, SessionAsked, SessionGiven, SessionRefused, Stopping
from storage.leases import Claim, Leases
from tests.gateway.hub_world import FakeLink, World

HERE, THERE = uuid4(), uuid4()


class Node(World):
    """A node with a handover. What it tells another is in `told`; `claims` is what Redis has."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[Hint] = []
        self.claims: dict[bytes, Claim] = {}
        self.claims_made = 0
        self.seen: dict[bytes, Claim] | None = None
        self.failures: list[Exception] = []  # of looks at the claims, from the second on
        self._handlers: dict[type[Hint], Any] = {}
        bus = cast("Bus", SimpleNamespace(on=self._handlers.__setitem__, tell_node=self._tell, tell_all=self._tell_all))
        self._beat: Any = None
        self.leases = leases = SimpleNamespace(
            node_id=HERE,
            live=frozenset({THERE}),
            away=False,
            after_beat=self._on_beat,
            claims_of=self._claims_of,
            claim=self._claim,
            read_again=self._read_again,
        )
        self.tokens = ResumeTokens(HERE, [("k", bytes(32))])
        self.neighbours = Neighbours(bus, cast("Leases", leases))
        self.handover = Handover(self.hub, bus, cast("Leases", leases), self.tokens, self.neighbours)

    def _tell(self, node_id: UUID, hint: Hint) -> None:
        assert node_id == THERE
        self.told.append(hint)

    def _tell_all(self, hint: Hint) -> None:
        pass

    def _on_beat(self, callback: Any) -> None:
        self._beat = callback

    async def _claims_of(self, home: UUID, *, anew: bool = False) -> dict[bytes, Claim] | None:
        if self.seen == self.claims and not anew:
            if self.failures:
                raise self.failures.pop()
            return None
        self.seen = dict(self.claims)
        return self.seen

    def _read_again(self, home: UUID) -> None:
        self.seen = None

    async def _claim(self, home: UUID, digest: bytes) -> Claim:
        self.claims_made += 1
        await asyncio.sleep(0)
        return Claim(home, 0)

    def hear(self, hint: Hint) -> None:
        """Another node says something."""
        self._handlers[type(hint)](hint)

    def beat(self) -> None:
        """Redis was heard."""
        self._beat(False)

    def client(self) -> tuple[Session, FakeLink]:
        """A session that is open here, and its socket."""
        session, link = self.member(1)
        session.resume_token = self.tokens.issue(session.id)
        return session, link

    def claim(self, session: Session) -> SessionAsked:
        """The other node claims it, and is about to ask for it."""
        digest = digest_of(session.resume_token)
        self.claims[digest] = Claim(THERE, 1)
        return SessionAsked(THERE, session.id, digest, 1, session.wire.name, None, None)

    async def until_told(self) -> Hint:
        """What the other node is told."""
        async with asyncio.timeout(10):
            while not self.told:
                await asyncio.sleep(0.005)
        return self.told[0]


async def test_a_question_on_its_way_is_waited_for() -> None:
    """A beat that finds the claim before the question has come does not drop what is about to be asked for."""
    node = Node()
    session, link = node.client()
    asked = node.claim(session)
    node.beat()
    await asyncio.sleep(0.05)
    node.hear(asked)
    assert isinstance(await node.until_told(), SessionGiven)
    assert link.closed == CloseCode.replaced


async def test_after_a_pause_too() -> None:
    """What was asked during the pause is still answered, before what is claimed is given up."""
    node = Node()
    session, _ = node.client()
    asked = node.claim(session)
    found = asyncio.create_task(node.handover.find_out(0.45))
    await asyncio.sleep(0)
    node.hear(asked)
    assert isinstance(await node.until_told(), SessionGiven)
    assert await found is False


async def test_a_beat_that_looks_at_the_same_time() -> None:
    """What a beat has read after the pause, and still waits to be asked for, counts as lost before anything goes on."""
    node = Node()
    session, link = node.client()
    node.claim(session)
    node.beat()
    await asyncio.sleep(0.01)
    assert await node.handover.find_out(7.0) is True
    assert link.closed == CloseCode.replaced


async def test_a_beat_that_was_faster() -> None:
    """What a beat has dropped since the last question was lost too."""
    node = Node()
    session, link = node.client()
    node.claim(session)
    node.beat()
    async with asyncio.timeout(10):
        while link.closed is None:
            await asyncio.sleep(0.01)
    assert await node.handover.find_out(7.0) is True
    assert await node.handover.find_out(7.0) is False


async def test_a_claim_whose_question_is_lost() -> None:
    """The session belongs to another node all the same, and its socket here is closed."""
    node = Node()
    session, link = node.client()
    node.claim(session)
    node.beat()
    async with asyncio.timeout(10):
        while link.closed is None:
            await asyncio.sleep(0.01)
    assert link.closed == CloseCode.replaced
    assert session.id not in node.hub.sessions


async def test_commands_under_way_hold_a_session_only_so_long() -> None:
    """The other node does not wait for longer: it is told that answers are missing, and what was taken."""
    node = Node()
    session, _ = node.client()
    session.pending = 1
    session.handled = 7
    node.hear(node.claim(session))
    refused = await node.until_told()
    assert isinstance(refused, SessionRefused)
    assert (refused.reason, refused.handled) == ("commands_pending", 7)


async def test_a_node_that_stops_has_more_time() -> None:
    """Its clients come because it told them to: it is alive, however busy, and the other node knows."""
    node = Node()
    session, _ = node.client()
    session.pending = 1
    saying = asyncio.create_task(node.neighbours.say_stopping())
    await asyncio.sleep(0)
    node.hear(node.claim(session))
    await asyncio.sleep(1.2 * ASK_SECONDS)
    assert node.told == []
    session.pending = 0
    assert isinstance(await node.until_told(), SessionGiven)
    saying.cancel()


async def test_a_node_that_stops_is_waited_for() -> None:
    """Longer than one that only is silent."""
    node = Node()
    session, _ = node.client()
    asked = node.claim(session)
    node.hear(Stopping(THERE))
    waiting = asyncio.create_task(node.handover.ask(THERE, asked))
    await asyncio.sleep(1.2 * ASK_SECONDS)
    given = SessionGiven(asked.digest, asked.fence, session.state())
    node.hear(given)
    assert await waiting == given


async def test_redis_is_away() -> None:
    """While Redis is known to be away, only one at a time waits for it to say whose a session is."""
    node = Node()
    session, _ = node.client()

    async def claims() -> list[Claim | None]:
        return await asyncio.gather(*(node.handover.claim(session.id, session.resume_token) for _ in range(3)))

    assert await claims() == [(HERE, 0)] * 3
    node.leases.away = True
    assert await claims() == [(HERE, 0), None, None]
    assert await claims() == [(HERE, 0), None, None]
    assert node.claims_made == 5


async def test_redis_fails_while_a_question_is_waited_for() -> None:
    """The claim is found again at the next beat."""
    node = Node()
    session, link = node.client()
    node.claim(session)
    node.failures.append(OSError("reset"))
    node.beat()
    async with asyncio.timeout(10):
        while node.failures:
            await asyncio.sleep(0.01)
    assert link.closed is None
    node.beat()
    async with asyncio.timeout(10):
        while link.closed is None:
            await asyncio.sleep(0.01)
    assert session.id not in node.hub.sessions
