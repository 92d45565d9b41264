"""History: how long a page takes, wherever it lies in a long chatroom, by REST and over a socket."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from uuid import UUID

import msgspec

from bench.errands import Errand, Errands
from bench.generator import Generator, Plan
from bench.http import Http
from bench.load import Closed, Send, Window
from bench.parley import ParleyDialect
from bench.results import Run
from bench.stage import Stage, timed
from bench.talking import attend, talk
from bench.target import TargetError
from protocol.commands import FetchMessages

PAGE = 50
"""Messages of a page."""
FILLING = 512
"""Messages in flight while the chatroom is filled."""
FILLED_AT_ONCE = 20_000
"""Messages between two words about it."""
STUCK_SECONDS = 10.0
"""Without an ack, after which filling is given up."""
VACUUMED, VACUUM_SECONDS = 1_000, 65.0
"""So many new rows autovacuum lets be; else it comes within a minute, and takes half a core for a second or more."""
LOOK_SECONDS, RESTING, CLEARING = 0.5, 0.05, 0.3
"""Seconds between two looks at PostgreSQL, and shares of a core: below one it rests, above the other it clears up."""
SESSIONS = 4
"""Of each process, which ask in turn."""
CONNECTIONS = 8
"""By which REST is asked, in turn."""
PATIENCE = 10.0
"""Seconds that an answer may take after the end."""

Place = Callable[[int, int], int | None]
"""The cursor of a page, `before`, by the seqs of the first message and the last."""


def _middle(first: int, last: int) -> int:
    """Where the half is, give or take a tenth."""
    return int(first + (last - first) * random.uniform(0.4, 0.6))


PLACES: dict[str, Place] = {
    "newest": lambda _first, _last: None,
    "middle": _middle,
    "oldest": lambda first, last: min(first + PAGE, last + 1),
    "anywhere": lambda first, last: random.randint(min(first + PAGE, last + 1), last + 1),
}


@dataclass(frozen=True)
class Pages:
    """What one process asks for: so many pages a second, at a place of a chatroom with messages from first to last."""

    room: str
    first: int
    last: int
    place: str
    rate: float
    rest: bool


class _Seq(msgspec.Struct):
    seq: int


class _Messages(msgspec.Struct):
    messages: list[_Seq]


class _Answer(msgspec.Struct):
    data: _Messages


class Reader:
    """Asks for pages in one process, and looks at each."""

    def __init__(self, generator: Generator, errands: Errands, pages: Pages) -> None:
        assert isinstance(generator.dialect, ParleyDialect)
        self._dialect = generator.dialect
        self._sessions = list(generator.sessions.values())
        self._errands = errands
        self._pages = pages
        self._free: asyncio.Queue[Http] = asyncio.Queue()

    async def connect(self) -> None:
        """Connections for REST."""
        for _ in range(CONNECTIONS if self._pages.rest else 0):
            self._free.put_nowait(await Http.open(self._dialect.made_of[0]))

    def close(self) -> None:
        """Drops them."""
        while not self._free.empty():
            self._free.get_nowait().close()

    def by_socket(self, id: int, due: int) -> None:
        """A page over a session's socket."""
        before = self._before()
        command = FetchMessages(chatroom_id=UUID(self._pages.room), before=before, limit=PAGE)
        self._errands.expect(
            id, lambda data: wrong(self._pages, before, [message["seq"] for message in data["messages"]])
        )
        self._sessions[id % len(self._sessions)].send(self._dialect.command("fetch_messages", command, str(id)))

    async def by_rest(self, id: int, due: int) -> None:
        """A page by GET."""
        before = self._before()
        query = f"limit={PAGE}" if before is None else f"limit={PAGE}&before={before}"
        http = await self._free.get()
        try:
            answer = await http.get(f"/chatrooms/{self._pages.room}/messages?{query}", self._sessions[0].credential)
        finally:
            self._free.put_nowait(http)
        if answer.status != HTTPStatus.OK:
            raise TargetError(f"answered with {answer.status}")
        found = msgspec.json.decode(answer.body, type=_Answer).data.messages
        if why := wrong(self._pages, before, [message.seq for message in found]):
            raise TargetError(why)

    def _before(self) -> int | None:
        return PLACES[self._pages.place](self._pages.first, self._pages.last)


def wrong(pages: Pages, before: int | None, seqs: list[int]) -> str | None:
    """What is wrong with a page. It has the messages right before its cursor, the newest first."""
    end = pages.last + 1 if before is None else before
    wanted = list(range(end - 1, max(end - 1 - PAGE, pages.first - 1), -1))
    return None if seqs == wanted else "a page has other messages than it should"


async def read(generator: Generator, plan: Plan, pages: Pages) -> Mapping[str, int]:
    """Asks for pages."""
    errands = Errands(Window(plan.begin, plan.end), plan.start, generator.next)
    attend(generator, errands)
    reader = Reader(generator, errands, pages)
    await reader.connect()
    way: Callable[[int, int], Awaitable[None] | None] = reader.by_rest if pages.rest else reader.by_socket
    errands.plan([Errand("page", pages.rate, way)])
    try:
        await generator.drive(errands, plan)
        await errands.ended(PATIENCE)
    finally:
        reader.close()
    return {}


class Filling(Closed):
    """So many messages, and no more."""

    def __init__(self, send: Send, first: int, count: int) -> None:
        super().__init__(send, first, Window(0, 0), FILLING)
        self.wanted = count

    def _free(self) -> int:
        return min(super()._free(), self.wanted - self.sent)


async def fill(generator: Generator, room: str, count: int) -> None:
    """Writes so many messages into a chatroom, as quickly as the server takes them. Raises TargetError."""
    session = next(iter(generator.sessions.values()))
    build = generator.dialect.sender(room)
    load = Filling(lambda number, stamp: session.send(build(number, stamp)), generator.next, count)
    generator.reading.load = load
    load.start()
    acks, since = 0, time.monotonic()
    while load.acks < count:
        await asyncio.sleep(0.01)
        if load.acks > acks:
            acks, since = load.acks, time.monotonic()
        if load.failures or time.monotonic() > since + STUCK_SECONDS:
            raise TargetError(f"the chatroom could not be filled: {dict(load.failures) or 'no ack any more'}")
    generator.next += count


async def rested(stage: Stage, longest: float) -> None:
    """Waits until PostgreSQL has cleared up after many writes, so many seconds at most, and has come to rest."""
    stage.display.say("waiting until the database has cleared up")
    usage = stage.deployment.usage
    end, cleared = time.monotonic() + longest, False
    while (before := usage()) is not None:
        await asyncio.sleep(LOOK_SECONDS)
        after = usage()
        share = after.since(before).postgres / LOOK_SECONDS if after else 0.0
        cleared = cleared or share > CLEARING
        if share < RESTING and (cleared or time.monotonic() >= end):
            return


class History:
    """A chatroom with so many messages, and pages of it at `rate` a second."""

    def __init__(self, messages: int, places: Sequence[str], rate: float, seconds: float) -> None:
        self._messages = messages
        self._places = places
        self._rate = rate
        self._seconds = seconds
        self._all: dict[Stage, tuple[str, int, int]] = {}

    async def prepare(self, stage: Stage) -> None:
        """Messages as any client sends them: sealed, numbered, and acked one by one."""
        seats = await stage.seat(2, [[0, 1]])
        [room] = seats.rooms
        await stage.open(seats.credentials, stage.crew.size)
        first = stage.heads[room.encode()] + 1
        for done in range(0, self._messages, FILLED_AT_ONCE):
            stage.display.say(f"filling: {done:,} of {self._messages:,} messages")
            await stage.crew.one(0, fill, room, min(FILLED_AT_ONCE, self._messages - done))
        await rested(stage, VACUUM_SECONDS if self._messages > VACUUMED else 0.0)
        await stage.leave()
        await stage.crew.all(talk)
        await stage.open(seats.credentials, SESSIONS * stage.crew.size)
        self._all[stage] = room, first, stage.heads[room.encode()]

    async def runs(self, stage: Stage) -> list[Run]:
        """Each place, over sockets and by REST."""
        return [await self._run(stage, place, rest) for rest in (False, True) for place in self._places]

    async def _run(self, stage: Stage, place: str, rest: bool) -> Run:
        size = stage.crew.size
        pages = Pages(*self._all[stage], place, self._rate / size, rest)
        title = f"{'REST' if rest else 'socket'}, {place}"
        return await stage.measure(title, read, lambda: [timed(self._seconds)] * size, pages)
