"""Who opens a session next, by a clock that the test turns and a chance that it chooses."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from gateway.actor import Actor
from gateway.admission import LONGEST, Admission
from protocol.errors import ChatError
from tests.e2e.node import Node, Reader, running_node

PATIENT = 60.0


class Clock:
    """Seconds, set by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """What it shows."""
        return self.now


def admission(at_once: int, patience: float = PATIENT, clock: Clock | None = None, chance: float = 0.0) -> Admission:
    """An admission without jitter."""
    return Admission(at_once, patience, clock or Clock(), lambda: chance)


class Visitor:
    """Someone who wants a turn, and keeps it until told to leave."""

    def __init__(self, to: Admission, order: list[str], name: str, *, resumes: bool = False) -> None:
        self.leave = asyncio.Event()
        self.refused: ChatError | None = None
        self.task = asyncio.create_task(self._visit(to, order, name, resumes))

    async def _visit(self, to: Admission, order: list[str], name: str, resumes: bool) -> None:
        try:
            async with to.turn(resumes=resumes):
                order.append(name)
                await self.leave.wait()
        except ChatError as error:
            self.refused = error

    async def gone(self) -> None:
        """Has had enough, or was sent away."""
        self.leave.set()
        await self.task


async def _settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_so_many_at_once() -> None:
    """Two have their turns; each one that ends lets one more in, in the order in which they came."""
    to, order = admission(2), list[str]()
    visitors = [Visitor(to, order, name) for name in "abcd"]
    await _settled()
    assert (order, to.working, to.waiting) == (["a", "b"], 2, 2)
    await visitors[1].gone()
    await _settled()
    assert order == ["a", "b", "c"]
    for visitor in visitors:
        await visitor.gone()
    assert (order, to.working, to.waiting) == (["a", "b", "c", "d"], 0, 0)


async def test_resumes_come_first() -> None:
    """Whoever resumes goes before all who open something new, however long those have waited."""
    to, order = admission(1), list[str]()
    names = ("first", "login", "resume 1", "late login", "resume 2")
    visitors = {name: Visitor(to, order, name, resumes=name.startswith("resume")) for name in names}
    await _settled()
    for name in ("first", "resume 1", "resume 2", "login", "late login"):
        await visitors[name].gone()
    assert order == ["first", "resume 1", "resume 2", "login", "late login"]


async def test_nobody_waits_for_ever() -> None:
    """Who has waited as long as may be is sent away, with the time to come back; the place in the queue is free."""
    to, order = admission(1, patience=0.05), list[str]()
    first, second = Visitor(to, order, "first"), Visitor(to, order, "second")
    await second.task
    assert second.refused is not None
    assert (second.refused.code, second.refused.kind.retryable) == ("SERVICE_UNAVAILABLE", True)
    assert second.refused.retry_after is not None
    assert second.refused.retry_after > 0
    assert (order, to.waiting) == (["first"], 0)
    await first.gone()
    assert to.working == 0


async def _learn(to: Admission, clock: Clock, apart: float) -> None:
    """Lets turns end so far apart until that is known."""
    visitors = [Visitor(to, [], str(n)) for n in range(200)]
    await _settled()
    for visitor in visitors:
        clock.now += apart
        await visitor.gone()
        await _settled()


async def test_a_queue_that_is_too_long_takes_nobody() -> None:
    """With turns 0.1 s apart, ten wait for a second; the next one is sent away at once, a resume is not."""
    clock = Clock()
    to, order = admission(1, patience=1.0, clock=clock), list[str]()
    await _learn(to, clock, 0.1)
    working = Visitor(to, order, "working")
    waiting = [Visitor(to, order, str(n)) for n in range(11)]
    await _settled()
    late, resume = Visitor(to, order, "late"), Visitor(to, order, "resume", resumes=True)
    await _settled()
    assert late.refused is not None
    assert [visitor.refused for visitor in (*waiting, resume)] == [None] * 12
    for visitor in (working, resume, *waiting):
        await visitor.gone()
    assert order[:2] == ["working", "resume"]


async def test_those_who_are_sent_away_come_back_one_by_one() -> None:
    """Each gets a time of their own, as far apart as turns are, behind the queue; none is longer than a minute."""
    clock = Clock()
    to, order = admission(1, patience=1.0, clock=clock), list[str]()
    await _learn(to, clock, 0.1)
    queue = [Visitor(to, order, str(n)) for n in range(12)]
    late = [Visitor(to, order, "late") for _ in range(1000)]
    await _settled()
    times = [visitor.refused.retry_after for visitor in late if visitor.refused and visitor.refused.retry_after]
    assert len(times) == 1000
    assert times[:3] == pytest.approx([1.2, 1.3, 1.4], rel=0.02)
    assert times == sorted(times)
    assert times[-1] == LONGEST
    for visitor in queue:
        await visitor.gone()


async def test_chance_spreads_those_who_were_told_the_same() -> None:
    """Up to a quarter is added by chance."""
    said = []
    for chance in (0.0, 1.0):
        to = admission(1, patience=0.0, chance=chance)
        first, waiting, late = (Visitor(to, [], name) for name in "abc")
        await late.task
        await waiting.task
        assert late.refused is not None
        said.append(late.refused.retry_after)
        await first.gone()
    assert said[0] is not None
    assert said[1] == pytest.approx(said[0] * 1.25, abs=0.001)


async def test_who_gives_up_takes_no_turn() -> None:
    """A waiter that is cancelled is passed over, and one that is cancelled at its turn hands it on."""
    to, order = admission(1), list[str]()
    first, second, third, fourth = (Visitor(to, order, name) for name in "abcd")
    await _settled()
    second.task.cancel()
    await _settled()
    first.leave.set()
    await asyncio.sleep(0)  # the turn is third's, who has not noticed yet
    third.task.cancel()
    await _settled()
    assert order == ["a", "d"]
    assert to.working == 1
    await fourth.gone()
    assert to.working == 0


async def test_who_waits_aside_keeps_nobody_up() -> None:
    """While a visitor waits for something else another has the turn; then both are at work, and nobody follows."""
    to, order, answer = admission(1), list[str](), asyncio.Event()
    leave = asyncio.Event()

    async def visit() -> None:
        async with to.turn(resumes=True):
            with to.aside():
                await answer.wait()
            order.append("back")
            await leave.wait()

    first = asyncio.create_task(visit())
    await _settled()
    visitors = [Visitor(to, order, name, resumes=True) for name in "abc"]
    await _settled()
    assert order == ["a"]
    answer.set()
    await _settled()
    assert (order, to.working) == (["a", "back"], 2)
    await visitors[0].gone()
    await _settled()
    assert (order, to.working) == (["a", "back"], 1)
    leave.set()
    await first
    await _settled()
    assert order == ["a", "back", "b"]
    for visitor in visitors:
        await visitor.gone()
    assert (to.working, to.waiting) == (0, 0)


async def test_who_gives_up_aside() -> None:
    """Cancelled while it waits for something else, a visitor leaves neither a turn too many nor one less."""
    to = admission(1)

    async def visit() -> None:
        async with to.turn(resumes=True):
            with to.aside():
                await asyncio.Event().wait()

    first = asyncio.create_task(visit())
    await _settled()
    other = Visitor(to, [], "other")
    await _settled()
    first.cancel()
    await _settled()
    assert first.cancelled()
    assert to.working == 1
    await other.gone()
    assert to.working == 0


async def test_a_stall_is_no_reason_to_send_everyone_away() -> None:
    """After a second in which no turn ended, a queue of a second is still let in."""
    clock = Clock()
    to, order = admission(1, patience=5.0, clock=clock), list[str]()
    await _learn(to, clock, 0.1)
    visitors = [Visitor(to, order, str(n)) for n in range(12)]
    await _settled()
    await visitors[0].gone()
    clock.now += 1.0
    await visitors[1].gone()
    visitors += [Visitor(to, order, str(n)) for n in range(12, 24)]
    await _settled()
    for visitor in visitors:
        await visitor.gone()
    assert [visitor.refused for visitor in visitors] == [None] * 24


async def test_a_crowd_is_told_of() -> None:
    """From the first who has to wait until the last turn is over."""
    told: list[bool] = []
    to = Admission(1, PATIENT, Clock(), crowded=told.append)
    alone = Visitor(to, [], "alone")
    await _settled()
    await alone.gone()
    assert told == []
    visitors = [Visitor(to, [], name) for name in "abc"]
    await _settled()
    assert told == [True]
    for visitor in visitors:
        await visitor.gone()
    assert told == [True, False]


async def test_a_turn_that_fails_is_over() -> None:
    """An error within a turn is the visitor's own; the turn goes on to the next."""
    to = admission(1)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            async with to.turn(resumes=False):
                _ = 1 / 0
    assert to.working == 0


async def test_cut_sessions_are_resumed_before_new_ones_are_opened(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While all turns are taken clients wait, those who left meanwhile take none, and resumes are done first."""
    async with running_node(database_url, tmp_path) as node:
        _, token = await node.user("ann")
        order: list[str] = []
        asked = Counting(node.chat.authenticate)
        monkeypatch.setattr(node.chat, "authenticate", asked)
        resuming, gone, *newcomers = (Told(node, token, order) for _ in range(5))
        await resuming.open()
        resuming.cut()
        order.clear()
        async with AsyncExitStack() as turns:
            while node.door.admission.working < node.config.limit_openings:
                await turns.enter_async_context(node.door.admission.turn(resumes=False))
            opening = [asyncio.create_task(reader.open()) for reader in (gone, *newcomers)]
            await _settled()
            gone.cut()
            opening[0].cancel()
            again = asyncio.create_task(resuming.resume())
            await _settled()
            assert order == ["hello"] * 5
            assert node.door.admission.waiting == 5
            assert gc.get_freeze_count() > 0
            assert b'parley_openings{state="waiting"} 5.0' in node.services.metrics.render()
        await asyncio.gather(again, *opening[1:])
        assert order[5:] == ["resumed", "ready", "ready", "ready"]
        assert node.door.admission.working == 0
        assert gc.get_freeze_count() == 0
        assert (len(node.hub.links), asked.count) == (4, 4)


class Counting:
    """Does what another does, and counts."""

    def __init__(self, authenticate: Callable[[str], Awaitable[Actor]]) -> None:
        self._authenticate = authenticate
        self.count = 0

    async def __call__(self, token: str) -> Actor:
        """One more."""
        self.count += 1
        return await self._authenticate(token)


class Told(Reader):
    """A reader that notes what it is told in a list that it shares."""

    def __init__(self, node: Node, token: str, order: list[str]) -> None:
        super().__init__(node, token)
        self._order = order

    def _take_other(self, event: str, data: Any) -> None:
        self._order.append(event)
        super()._take_other(event, data)
