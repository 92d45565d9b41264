"""A day in the life of a server, in one generator process: most only hear, some write, read, come and go.

In each chatroom of ten two have it open and do things; the others hear, are at times cut and come back, or leave.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from itertools import cycle
from typing import Any
from uuid import UUID

import msgspec

from bench.clock import now_us
from bench.dialect import Send
from bench.errands import MESSAGE, Errand, Errands
from bench.generator import Generator, Plan
from bench.http import Http
from bench.load import Window
from bench.parley import ParleyDialect
from bench.session import Session
from bench.talking import anew, attend, received, resume
from bench.target import TargetError
from protocol.commands import Command, FetchMessages, JoinChatroom, MessageRead, Ping, TypingStart

PEOPLE = 10
"""Members of a chatroom."""
ACTIVE = 2
"""Those of them who have it open and do things."""
RATES = {
    MESSAGE: 10.0,
    "typing": 10.0,
    "read": 20.0,
    "page": 2.0,
    "reconnect": 2.0,
    "return": 0.5,
    "upload": 0.1,
    "download": 0.4,
    "ping": 40.0,
}
"""How often a second a thousand sessions do each."""
PAGE = 50
"""Messages of a page of history."""
CUT_SECONDS = 0.5
"""How long one has no network who is cut."""
FILE = os.urandom(100_000)
"""A picture as a phone sends it."""
PATIENCE = 10.0
"""Seconds that an answer may take after the end."""


@dataclass(frozen=True)
class Day:
    """`busy` is by how much the rates are multiplied; who leaves stays `away` so many seconds."""

    busy: float
    away: float


async def open_chatrooms(generator: Generator) -> None:
    """Those who do things have their chatrooms open."""
    errands = Errands(Window(0, 0), 0, generator.next)
    attend(generator, errands)
    people = People(generator, errands, 0.0)
    for number in people.active:
        errands.begin(Errand("open", 0.0, lambda id, due: people.open(number, id)), now_us())  # noqa: B023  called at once
    await errands.ended(PATIENCE)
    generator.next += errands.sent


async def live(generator: Generator, plan: Plan, day: Day) -> dict[str, int]:
    """A part of a day. How many messages went into each chatroom."""
    errands = Errands(Window(plan.begin, plan.end), plan.start, generator.next)
    attend(generator, errands)
    people = People(generator, errands, day.away)
    errands.plan(people.errands(day.busy * len(generator.sessions) / 1000))
    try:
        await generator.drive(errands, plan)
        await errands.ended(PATIENCE + day.away)
    finally:
        people.close()
    return people.sent


class People:
    """Those in one process. `sent` counts messages by chatroom; who is `active` does things in theirs."""

    def __init__(self, generator: Generator, errands: Errands, away: float) -> None:
        self.sent: Counter[str] = Counter()
        self.active = [number for number in generator.sessions if number % PEOPLE < ACTIVE]
        self._generator = generator
        self._errands = errands
        self._away = away
        self._senders: dict[str, Send] = {}
        self._files = Files(generator)
        self._turns = cycle(list(generator.sessions))
        self._gone: set[int] = set()
        idle = [number for number in generator.sessions if number % PEOPLE >= ACTIVE]
        random.shuffle(idle)
        self._idle: asyncio.Queue[int] = asyncio.Queue()  # who was cut last is the last to be cut again
        for number in idle:
            self._idle.put_nowait(number)

    def errands(self, thousands: float) -> Iterator[Errand]:
        """What so many thousand sessions do."""
        work = {
            MESSAGE: self.write,
            "typing": self.type,
            "read": self.read,
            "page": self.page,
            "reconnect": self.reconnect,
            "return": self.leave,
            "upload": self.upload,
            "download": self.download,
            "ping": self.ping,
        }
        return (Errand(kind, rate * thousands, work[kind]) for kind, rate in RATES.items())

    def close(self) -> None:
        """No more files."""
        self._files.close()

    # --- who has the chatroom open -----------------------------------------------------------

    def open(self, number: int, id: int) -> None:
        """Opens the chatroom."""
        session = self._generator.sessions[number]
        self._ask(session, id, "join_chatroom", JoinChatroom(chatroom_id=_room(session)))

    def write(self, id: int, due: int) -> None:
        """A message."""
        session = self._somebody()
        room = str(_room(session))
        if room not in self._senders:
            self._senders[room] = self._generator.dialect.sender(room)
        session.send(self._senders[room](id, due))
        self.sent[room] += 1

    def type(self, id: int, due: int) -> None:
        """Others who have it open see it."""
        session = self._somebody()
        self._ask(session, id, "typing_start", TypingStart(chatroom_id=_room(session)))

    def read(self, id: int, due: int) -> None:
        """All that there is."""
        session = self._somebody()
        room = _room(session)
        seq = session.checks[str(room).encode()].last
        self._ask(session, id, "message_read", MessageRead(chatroom_id=room, seq=seq))

    def page(self, id: int, due: int) -> None:
        """The newest messages, which have to be at least those that the session has heard."""
        session = self._somebody()
        room = _room(session)
        heard = session.checks[str(room).encode()].last if session.delivered else 0
        self._errands.expect(id, lambda data: newest(data, heard))
        self._ask(session, id, "fetch_messages", FetchMessages(chatroom_id=room, limit=PAGE))

    def _somebody(self) -> Session:
        return self._generator.sessions[random.choice(self.active)]

    def _ask(self, session: Session, id: int, event: str, command: Command) -> None:
        assert isinstance(self._generator.dialect, ParleyDialect)
        session.send(self._generator.dialect.command(event, command, str(id)))

    # --- who only hears ----------------------------------------------------------------------

    def ping(self, id: int, due: int) -> None:
        """The next one who is there says how much has come, so that the server may forget that."""
        number = next(number for number in self._turns if number not in self._gone)
        session = self._generator.sessions[number]
        session.kept["pinging"] = id
        self._errands.expect(id, lambda _data: _ponged(session))
        self._ask(session, id, "ping", Ping(received=received(session)))

    async def _go(self) -> int:
        """Who was there for the longest time does not do anything any more."""
        number = await self._idle.get()
        self._gone.add(number)
        while "pinging" in self._generator.sessions[number].kept:
            await asyncio.sleep(0.01)
        return number

    def _back(self, number: int, session: Session) -> None:
        self._generator.sessions[number] = session
        self._gone.discard(number)
        self._idle.put_nowait(number)

    async def reconnect(self, id: int, due: int) -> None:
        """The network goes; timed is the way back."""
        number = await self._go()
        former = self._generator.sessions[number]
        former.close()
        await asyncio.sleep(CUT_SECONDS)
        self._errands.rest(id)
        self._back(number, await resume(self._generator, former))

    async def leave(self, id: int, due: int) -> None:
        """Goes, long enough to be offline, and opens a new session; timed is the opening."""
        number = await self._go()
        former = self._generator.sessions[number]
        former.say_goodbye()
        await asyncio.sleep(self._away)
        former.close()
        self._errands.rest(id)
        self._back(number, await anew(self._generator, former))
        if wrong := sum(check.repeated + check.reordered + len(check.missing) for check in former.checks.values()):
            raise TargetError(f"{wrong} events were lost, repeated or reordered before")

    # --- files -------------------------------------------------------------------------------

    async def upload(self, id: int, due: int) -> None:
        """A file."""
        await self._files.upload()

    async def download(self, id: int, due: int) -> None:
        """The first one. Timed is the download alone, should it have to be uploaded yet."""
        if not self._files.kept:
            await self._files.upload()
            self._errands.rest(id)
        await self._files.download()


class Files:
    """One user's, and a connection for each direction: a transfer waits for the one before it."""

    def __init__(self, generator: Generator) -> None:
        self.kept = ""
        self._generator = generator
        self._credential = next(iter(generator.sessions.values())).credential
        self._up: Http | None = None
        self._down: Http | None = None
        self._turns = asyncio.Lock(), asyncio.Lock()

    async def upload(self) -> None:
        """Sends a file."""
        async with self._turns[0]:
            self._up = self._up or await self._open()
            answer = await self._up.post("/upload/file?filename=picture", self._credential, FILE, len(FILE))
        _check(answer.status, HTTPStatus.CREATED)
        self.kept = self.kept or msgspec.json.decode(answer.body)["data"]["file"]["encrypted_url"]

    async def download(self) -> None:
        """Fetches the one that is there."""
        async with self._turns[1]:
            self._down = self._down or await self._open()
            answer = await self._down.get(self.kept, self._credential)
        _check(answer.status, HTTPStatus.OK)
        if answer.size != len(FILE) or not FILE.startswith(answer.body):
            raise TargetError("a file is not what it was")

    async def _open(self) -> Http:
        assert isinstance(self._generator.dialect, ParleyDialect)
        return await Http.open(self._generator.dialect.made_of[0])

    def close(self) -> None:
        """Drops the connections."""
        for http in (self._up, self._down):
            if http is not None:
                http.close()


def _check(status: int, wanted: int) -> None:
    if status != wanted:
        raise TargetError(f"answered with {status}")


def _ponged(session: Session) -> None:
    session.kept.pop("pinging", None)


def _room(session: Session) -> UUID:
    return UUID(next(iter(session.checks)).decode())


def newest(data: Any, heard: int) -> str | None:
    """What is wrong with the newest page, asked for when the last message that was heard had this seq."""
    seqs = [message["seq"] for message in data["messages"]]
    last = seqs[0] if seqs else 0
    if last < heard or seqs != list(range(last, last - len(seqs), -1)):
        return "a page is not what it should be"
    return None
