"""A hub without sockets or a database, and what its tests say with it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from datetime import UTC, datetime
from uuid import UUID, uuid4

from gateway.hub import Hub
from gateway.metrics import Metrics
from gateway.room import Room
from gateway.session import Session, SessionLimits
from gateway.wire import Wire
from protocol.codec import JSON, MSGPACK
from protocol.errors import CloseCode
from protocol.events import Event, MemberUpdated
from protocol.framing import FrameReader, frame
from protocol.models import User
from storage.events import CommittedEvent

ROOM = UUID(int=1)
LIMITS = SessionLimits(ephemeral=1_000, outbox=2_000, replay_frames=100, replay_bytes=100_000)


class FakeLink:
    """A socket that keeps what it is given, and reads when told to."""

    def __init__(self, wire: Wire) -> None:
        self.paused = False
        self.frames: list[tuple[str, int | None]] = []
        self.written: list[bytes] = []
        self.closed: CloseCode | None = None
        self.stuck_told = 0
        self._wire = wire

    def write(self, data: bytes) -> None:
        """Keeps the frames."""
        self.written.append(data)
        for payload in FrameReader(len(data)).feed(data):
            told = self._wire.codec.decode_server(payload)
            self.frames.append((told.event, told.seq))

    def stuck(self) -> None:
        """Counts."""
        self.stuck_told += 1

    def finish(self) -> asyncio.Task[None] | None:
        """Has no work under way."""

    def close(self, code: CloseCode, reason: str) -> None:
        """Keeps the code."""
        self.closed = code


class World:
    """A hub without sockets or a database."""

    def __init__(self) -> None:
        self.hub = Hub(Metrics())
        self.json = Wire(JSON, frame)
        self.msgpack = Wire(MSGPACK, frame)
        self.gaps: list[Room] = []
        self.hub.on_gap = self.gaps.append

    def session(
        self, name: str = "ann", wire: Wire | None = None, user: User | None = None
    ) -> tuple[Session, FakeLink]:
        """A session that is about to open, and its socket."""
        wire = wire or self.json
        user = user or User(id=uuid4(), username=name, display_name=name)
        session = Session(uuid4(), "secret", user, uuid4(), datetime.now(UTC), wire, LIMITS)
        link = FakeLink(wire)
        self.hub.add(session, link)
        return session, link

    def member(self, seq: int, name: str = "ann", wire: Wire | None = None) -> tuple[Session, FakeLink]:
        """A session that hears the room from `seq` plus one."""
        session, link = self.session(name, wire)
        self.hub.hold(session, ROOM)
        self.open(session, seq)
        return session, link

    def open(self, session: Session, seq: int) -> None:
        """What the door does once it has read where the room stands."""
        session.opening = False
        self.hub.release(session, ROOM, seq)
        self.hub.release_rest(session)

    def deliver(self, *seqs: int) -> None:
        """Events of the room, as they come from the journal."""
        self.hub.deliver([event(seq) for seq in seqs])

    def flush(self) -> None:
        """The end of this turn of the loop."""
        self.hub.outboxes._flush()


def event(seq: int, adds: Iterable[UUID] = (), removes: Iterable[UUID] = ()) -> CommittedEvent:
    """A durable event of the room."""
    data: Event = MemberUpdated(chatroom_id=ROOM, user_id=UUID(int=9), role="member")
    return CommittedEvent(ROOM, seq, "member_updated", data, tuple(adds), tuple(removes))


def seqs(link: FakeLink) -> list[int]:
    """What a socket was sent, by seq."""
    return [seq for _, seq in link.frames if seq is not None]


def names(link: FakeLink) -> list[str]:
    """What a socket was sent, by name."""
    return [name for name, _ in link.frames]
