"""A day in the life, and history, against a real server: everything is answered, and what is wrong is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from bench.clock import now_us
from bench.day import RATES, People, newest, open_chatrooms
from bench.errands import MESSAGE, Errand, Errands
from bench.frames import SeqCheck
from bench.generator import Generator
from bench.histories import PAGE, PLACES, History, Pages, wrong
from bench.load import Window
from bench.mixed import Mixed
from bench.results import Run
from bench.scenarios import Scenario
from bench.stage import Stage
from bench.talking import attend, talk
from bench.target import Target, TargetError
from tests.bench.running import Running, prepared

# --- one process ---------------------------------------------------------------------------------


@pytest.fixture
async def generator(running: Target) -> AsyncIterator[Generator]:
    """One chatroom of ten, in this process."""
    server = Running(running)
    await server.start()
    seats = await server.seat(10, [range(10)])
    generator = Generator(server.dialect())
    await talk(generator)
    await generator.open(dict(enumerate(seats.credentials)))
    yield generator
    generator.close()


async def _each_once(generator: Generator, kinds: list[str]) -> tuple[People, Errands]:
    """Each of these is begun now, and waited for."""
    errands = Errands(Window(0, 2**63), 0, generator.next)
    attend(generator, errands)
    people = People(generator, errands, away=0.1)
    work = {errand.kind: errand for errand in people.errands(1.0)}
    for kind in kinds:
        errands.begin(work[kind], now_us())
    await errands.ended(30.0)
    people.close()
    generator.next += errands.sent
    return people, errands


async def test_everything_of_a_day_is_answered(generator: Generator) -> None:
    """Each kind once: a message that all hear, those who have the chatroom open see others type and read."""
    await open_chatrooms(generator)
    assert generator.load.failures == {}
    people, errands = await _each_once(generator, list(RATES))
    assert errands.failures == {}
    assert errands.acks == len(RATES)
    assert (sum(errands.ack.values()), {kind: sum(times.values()) for kind, times in errands.waits.items()}) == (
        1,
        {kind: 1 for kind in RATES if kind != MESSAGE},
    )
    [(room, sent)] = people.sent.items()
    heads = generator.heads()
    assert (sent, list(heads)) == (1, [room.encode()])
    outcome = await generator.settle(heads)
    assert (outcome.lost, outcome.repeated, outcome.reordered, outcome.unacked) == (0, 0, 0, 0)
    assert set(outcome.waits) == set(RATES) - {MESSAGE}


async def test_one_who_comes_back_has_what_was_missed(generator: Generator) -> None:
    """Messages are written while eight of ten are away; all of them are resumed, and none is lost or repeated."""
    await open_chatrooms(generator)
    before = generator.heads()
    _, errands = await _each_once(generator, ["reconnect"] * 8 + [MESSAGE] * 5)
    assert errands.failures == {}
    heads = {room: head + 5 for room, head in before.items()}
    outcome = await generator.settle(heads)
    assert (outcome.lost, outcome.repeated, outcome.reordered, outcome.unacked) == (0, 0, 0, 0)
    assert outcome.delivered == 50


async def test_one_who_is_not_resumed_is_told(generator: Generator) -> None:
    """A session that claims more than it was sent is reset: the run has a failure."""
    for session in generator.sessions.values():
        session.kept["others"] = 1000
    _, errands = await _each_once(generator, ["reconnect"])
    [(why, count)] = errands.failures.items()
    assert why.startswith("reconnect: ")
    assert "not resumed" in why
    assert count == 1


async def test_a_refused_command_is_told(generator: Generator) -> None:
    """With the code that the server gives."""
    people, errands = await _each_once(generator, [])
    attend(generator, errands)
    for session in generator.sessions.values():
        session.checks = {b"00000000-0000-7000-8000-000000000000": SeqCheck(0)}
    errands.begin(Errand("page", 1.0, people.page), now_us())
    await errands.ended(30.0)
    assert errands.failures == {"page: CHATROOM_NOT_FOUND": 1}


def test_a_newest_page_is_whole_and_has_what_was_heard() -> None:
    """No hole in it, and its first message is not older than the last one that came by itself."""
    page = {"messages": [{"seq": seq} for seq in (9, 8, 7)]}
    assert newest(page, 9) is None
    assert newest(page, 0) is None
    assert newest({"messages": []}, 0) is None
    for bad, heard in ((page, 10), ({"messages": [{"seq": 9}, {"seq": 7}]}, 9), ({"messages": []}, 1)):
        assert newest(bad, heard) == "a page is not what it should be"


# --- whole scenarios, in two processes ------------------------------------------------------------


async def _visited(scenario: Scenario, stage: Stage) -> list[Run]:
    try:
        return await prepared(scenario, stage)
    finally:
        await stage.leave()


def test_history_is_read_at_each_place(bench: asyncio.Runner, stage: Stage) -> None:
    """By socket and by REST, at a fixed rate, and every page is what it should be."""
    scenario = History(120, ["oldest", "anywhere"], rate=40, seconds=0.3)
    runs = bench.run(_visited(scenario, stage))
    assert [run.title for run in runs] == ["socket, oldest", "socket, anywhere", "REST, oldest", "REST, anywhere"]
    for run in runs:
        assert run.verdict.clean, run.verdict
        assert 22 <= run.verdict.counts["sent"] <= 26  # of two processes, with a warm-up as long
        assert 10 <= run.latency["page"].count <= 14


@pytest.mark.parametrize("place", PLACES)
def test_cursors_of_a_place(place: str) -> None:
    """There is a whole page before each, where there are as many messages."""
    for first, last in ((10, 1009), (10, 20)):
        before = PLACES[place](first, last)
        if before is not None:
            assert min(first + PAGE, last + 1) <= before <= last + 1 or place == "middle"
        assert place != "newest" or before is None


def test_a_page_with_other_messages_is_wrong() -> None:
    """One that is short, has a hole, begins elsewhere or is the other way round."""
    pages = Pages("", 10, 1009, "anywhere", 1.0, rest=False)
    right = list(range(499, 449, -1))
    assert wrong(pages, 500, right) is None
    assert wrong(pages, None, list(range(1009, 959, -1))) is None
    assert wrong(pages, 30, list(range(29, 9, -1))) is None
    for seqs in (right[:-1], right[1:], [*right[:9], *right[10:]], right[::-1], []):
        assert wrong(pages, 500, seqs) == "a page has other messages than it should"


def test_too_few_for_a_day_are_refused(bench: asyncio.Runner, stage: Stage) -> None:
    """Each process has a chatroom's members at least, or nobody would be there to write."""
    with pytest.raises(TargetError, match="10 connections or more"):
        bench.run(prepared(Mixed(19, rate=None, seconds=0.1), stage))


def test_a_mixed_day_is_clean(bench: asyncio.Runner, stage: Stage) -> None:
    """Thirty people in three chatrooms write, read, come and go; messages are heard by all who are there."""
    [run] = bench.run(_visited(Mixed(30, rate=30, seconds=0.6, away=0.1), stage))
    assert run.verdict.clean, run.verdict
    assert run.latency["ack"].count == pytest.approx(18, abs=2)
    assert run.latency["read"].count == pytest.approx(36, abs=2)
    assert run.verdict.counts["delivered"] >= 8 * run.latency["ack"].count
