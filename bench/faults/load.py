"""Load that is judged: users who write at random moments and hear everything, by the Python client.

Everything random comes from one seed. What is sent when depends on it alone; what
the server makes of it, and when, does not.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Literal
from uuid import UUID

from bench.faults.checker import Report, check
from bench.faults.history import Ack, Attempt, Delivery, Follow, Gap, History, Reading, Refusal, Wrong
from gateway.client import ChatError, Client, ClientClosed, ClientEvent, HistoryGap, connect
from protocol.commands import GetChatroom
from protocol.errors import ERRORS

IN_FLIGHT = 64
"""Messages of one client that may wait for their acks; beyond that it writes no more until one has come."""
PAGE = 100
"""Messages in one page of history."""
LOOK = 0.05
"""Seconds between two looks at whether everything has come."""


@dataclass(frozen=True, slots=True)
class Member:
    """Who takes part: a name for the report, an access token or API key, and where to connect."""

    name: str
    token: str
    url: str
    codec: Literal["json", "msgpack"] = "json"


class Talker:
    """One member of the chatrooms. `seqs` is how far it has come in each."""

    def __init__(self, member: Member, rooms: Sequence[UUID], history: History, seed: int, rate: float) -> None:
        self._member = member
        self._rooms = list(rooms)
        self._history = history
        self._seed = seed
        self._rate = rate
        self._dice = random.Random(f"{seed} {member.name}")
        self._count = 0
        self._sending: set[asyncio.Task[None]] = set()
        self.client: Client | None = None
        self.opened = asyncio.Event()
        self.seqs: dict[UUID, int] = {}
        self.acks = 0

    async def run(self, writing: asyncio.Event, stop: asyncio.Event) -> None:
        """Hears from its opening on, and writes between the two moments. Ends when it is cancelled."""
        try:
            async with connect(self._member.url, self._member.token, codec=self._member.codec) as client:
                self._begin(client)
                hearing = asyncio.create_task(self._hear(client))
                try:
                    await self._write(client, writing, stop)
                    await hearing
                finally:
                    for task in (hearing, *self._sending):
                        task.cancel()
        except ClientClosed as closed:
            self._wrong(f"the client was ended: {closed}")
            self.opened.set()

    def _begin(self, client: Client) -> None:
        self.client = client
        for room in self._rooms:
            self.seqs[room] = client.chatrooms[room].seq
            self._history.add(Follow(client=self._member.name, room=str(room), seq=self.seqs[room]))
        self.opened.set()

    def _wrong(self, told: str) -> None:
        self._history.add(Wrong(client=self._member.name, told=told))

    # --- hearing -------------------------------------------------------------------------------

    async def _hear(self, client: Client) -> None:
        async for event in client:
            if event.chatroom_id in self.seqs:
                self._heard(event.chatroom_id, event)

    def _heard(self, room: UUID, event: ClientEvent) -> None:
        name = self._member.name
        if event.seq is not None:
            key = event.data.message.content if event.event == "message_received" else None
            self._history.add(Delivery(client=name, room=str(room), seq=event.seq, key=key))
            self.seqs[room] = max(self.seqs[room], event.seq)
        elif isinstance(event.data, HistoryGap):
            gap = event.data
            self._history.add(Gap(client=name, room=str(room), from_seq=gap.from_seq, to_seq=gap.to_seq))
            self.seqs[room] = max(self.seqs[room], gap.to_seq)
        elif event.event in ("chatroom_lost", "chatroom_gained"):
            self._wrong(f"{event.event}, though the membership never changed")

    # --- writing -------------------------------------------------------------------------------

    async def _write(self, client: Client, writing: asyncio.Event, stop: asyncio.Event) -> None:
        await writing.wait()
        while not stop.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(self._dice.expovariate(self._rate)):
                    await stop.wait()
            if len(self._sending) < IN_FLIGHT and not stop.is_set():
                task = asyncio.create_task(self._send(client, self._dice.choice(self._rooms)))
                self._sending.add(task)
                task.add_done_callback(self._sending.discard)

    async def _send(self, client: Client, room: UUID) -> None:
        """Sends a message until it is acked, or refused for good."""
        self._count += 1
        key = f"{self._seed:x}-{self._member.name}-{self._count}"
        attempt = Attempt(client=self._member.name, room=str(room), key=key)
        self._history.add(attempt)
        while True:
            try:
                sent = await client.send_message(room, key, client_id=key)
            except ClientClosed:
                return
            except ChatError as error:
                if error.code not in ERRORS or not error.kind.retryable:
                    refusal = Refusal(client=attempt.client, room=attempt.room, key=key, code=error.code)
                    self._history.add(refusal)
                    return
                await asyncio.sleep(min(error.retry_after or LOOK, 1.0))
            else:
                self.acks += 1
                self._history.add(Ack(client=attempt.client, room=attempt.room, key=key, seq=sent.message.seq))
                return

    def waits(self) -> bool:
        """Whether a message has no answer yet."""
        return bool(self._sending)

    # --- reading -------------------------------------------------------------------------------

    async def read(self, room: UUID) -> int:
        """Reads the whole history of a chatroom; the seq of its newest event."""
        assert self.client is not None
        head: int = (await self.client.call(GetChatroom(chatroom_id=room))).chatroom.seq
        messages: list[tuple[int, str]] = []
        more = True
        while more:
            page = await self.client.fetch_messages(room, after=messages[-1][0] if messages else 0, limit=PAGE)
            messages += [(message.seq, str(message.content)) for message in page.messages]
            more = page.pagination.has_more
        self._history.add(Reading(client=self._member.name, room=str(room), messages=messages, head=head))
        return head

    async def glance(self) -> None:
        """Reads the newest page of some chatroom."""
        assert self.client is not None
        room = self._dice.choice(self._rooms)
        page = await self.client.fetch_messages(room, limit=PAGE)
        messages = sorted((message.seq, str(message.content)) for message in page.messages)
        head = messages[-1][0] if messages else 0
        reading = Reading(client=self._member.name, room=str(room), messages=messages, head=head, whole=False)
        self._history.add(reading)


class Load:
    """All members of a run, writing `rate` messages a second together into chatrooms that all of them are in."""

    def __init__(self, members: Sequence[Member], rooms: Sequence[UUID], *, rate: float, seed: int) -> None:
        self.history = History()
        self._rooms = list(rooms)
        self.talkers = [Talker(member, rooms, self.history, seed, rate / len(members)) for member in members]
        self._writing, self._stop = asyncio.Event(), asyncio.Event()

    @property
    def acks(self) -> int:
        """How many messages are on disk, as far as anybody here knows."""
        return sum(talker.acks for talker in self.talkers)

    @asynccontextmanager
    async def running(self, *, settle: float = 60.0) -> AsyncIterator[None]:
        """Load inside the block; afterwards up to `settle` seconds until all is answered, read and heard.

        What is not there by then is the checker's to find.
        """
        tasks = [asyncio.create_task(talker.run(self._writing, self._stop)) for talker in self.talkers]
        try:
            for talker in self.talkers:
                await talker.opened.wait()
            self._writing.set()
            yield
            self._stop.set()
            with suppress(TimeoutError):
                async with asyncio.timeout(settle):
                    await self._settle()
        finally:
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
        for error in ended:
            if isinstance(error, Exception):
                raise error

    async def acked(self, more: int) -> None:
        """Waits until so many more messages are acked."""
        wanted = self.acks + more
        while self.acks < wanted:  # noqa: ASYNC110  it is the talkers who count
            await asyncio.sleep(LOOK / 10)

    def judge(self) -> Report:
        """What the checker says."""
        return check(self.history)

    async def _settle(self) -> None:
        while any(talker.waits() for talker in self.talkers):  # noqa: ASYNC110  it is the talkers who wait
            await asyncio.sleep(LOOK)
        heads = {room: await self.talkers[0].read(room) for room in self._rooms}
        for talker in self.talkers:
            while any(talker.seqs[room] < head for room, head in heads.items()):  # noqa: ASYNC110
                await asyncio.sleep(LOOK)
