"""Who writes and hears in a run, whatever they talk with: what all of them do alike."""

from __future__ import annotations

import asyncio
import random
import ssl
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal
from uuid import UUID

from bench.faults.history import Ack, Attempt, Delivery, Follow, Gap, History, Refusal, Wrong

IN_FLIGHT = 64
"""Messages of one member that may wait for their acks; beyond that it writes no more until one has come."""


@dataclass(frozen=True, slots=True)
class Member:
    """Who takes part: a name for the report, an access token or API key, and where to connect.

    A `raw` one talks by a socket of its own (bench/faults/raw.py), JSON over a WebSocket;
    the others by the Python client.
    """

    name: str
    token: str
    url: str
    codec: Literal["json", "msgpack"] = "json"
    raw: bool = False
    tls: ssl.SSLContext | None = None


class Talker(ABC):
    """One member of the chatrooms. `seqs` is how far it has come in each, `acks` counts its messages on disk."""

    def __init__(self, member: Member, rooms: Sequence[UUID], history: History, seed: int, rate: float) -> None:
        self.member = member
        self.rooms = list(rooms)
        self.history = history
        self.seqs: dict[UUID, int] = {}
        self.acks = 0
        self.opened = asyncio.Event()
        self.dice = random.Random(f"{seed} {member.name}")
        self._seed = seed
        self._rate = rate
        self._count = 0

    @abstractmethod
    async def run(self, writing: asyncio.Event, stop: asyncio.Event) -> None:
        """Hears from its opening on, and writes between the two moments. Ends when it is cancelled."""

    @abstractmethod
    def waits(self) -> int:
        """How many messages have no answer yet."""

    @abstractmethod
    def begin_send(self, room: UUID, key: str) -> None:
        """Sends a message until it is answered for good."""

    async def write(self, writing: asyncio.Event, stop: asyncio.Event) -> None:
        """Sends at random moments (a Poisson process), as long as that is wanted."""
        await writing.wait()
        while not stop.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(self.dice.expovariate(self._rate)):
                    await stop.wait()
            if self.waits() < IN_FLIGHT and not stop.is_set():
                self._count += 1
                room, key = self.dice.choice(self.rooms), f"{self._seed:x}-{self.member.name}-{self._count}"
                self.history.add(Attempt(client=self.member.name, room=str(room), key=key))
                self.begin_send(room, key)

    # --- what is written down ------------------------------------------------------------------

    def follow(self, room: UUID, seq: int) -> None:
        """Every event of the chatroom above this is to come."""
        self.seqs[room] = seq
        self.history.add(Follow(client=self.member.name, room=str(room), seq=seq))

    def heard(self, room: UUID, seq: int, key: str | None) -> None:
        """An event has come."""
        self.seqs[room] = max(self.seqs[room], seq)
        self.history.add(Delivery(client=self.member.name, room=str(room), seq=seq, key=key))

    def gap(self, room: UUID, from_seq: int, to_seq: int) -> None:
        """These will not come, as was told."""
        self.seqs[room] = max(self.seqs[room], to_seq)
        self.history.add(Gap(client=self.member.name, room=str(room), from_seq=from_seq, to_seq=to_seq))

    def acked(self, room: UUID, key: str, seq: int) -> None:
        """A message is on disk."""
        self.acks += 1
        self.history.add(Ack(client=self.member.name, room=str(room), key=key, seq=seq))

    def refused(self, room: UUID, key: str, code: str) -> None:
        """A message is not taken, for good."""
        self.history.add(Refusal(client=self.member.name, room=str(room), key=key, code=code))

    def wrong(self, told: str) -> None:
        """Something that must never happen."""
        self.history.add(Wrong(client=self.member.name, told=told))
