"""A session: what it has sent, what it keeps for resume, what waits for its reader. No I/O in here.

Counting follows XMPP's stream management (XEP-0198): both ends count frames and
no number goes into a frame, so that all receivers can share the same bytes.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Literal
from uuid import UUID

from gateway.limits import Bucket
from gateway.wire import KIB, Chunk, Outbox, Wire
from protocol.models import Scope, User
from storage.hints import KeptFrames, SessionState

if TYPE_CHECKING:
    from gateway.room import Room

SLACK = 8
"""The replay buffer is trimmed when it may be above its limits by an eighth: seldom, and many frames at a time."""

Refused = Literal["received_too_high", "buffer_exceeded"]


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """Bounds of one session's memory, in bytes and frames."""

    ephemeral: int
    outbox: int
    replay_frames: int
    replay_bytes: int
    slack: int = field(init=False)
    """What may be kept, by weight, before it is looked at whether that is too much."""

    def __post_init__(self) -> None:
        weight = min(self.replay_bytes // KIB, self.replay_frames)
        object.__setattr__(self, "slack", weight // SLACK)


class Receiver:
    """What is looked at in each session for each event.

    It is a class of its own because the attributes of a base class lie first in an object, side by side: when the
    next event comes, nothing of a thousand sessions is in the processor's cache any more, and each look costs.
    """

    __slots__ = ("_slack", "attached", "lagging", "outbox", "replay", "stuck")

    def __init__(self) -> None:
        self.attached = True
        self.outbox: Outbox | None = None
        self.stuck = False
        self.lagging: dict[UUID, int] | None = None
        self.replay: list[Chunk] = []
        self._slack = 0


class Session(Receiver):
    """One client's place in the hub; it outlives its socket by the resume window."""

    __slots__ = (
        "__weakref__",
        "_counted",
        "_replay_bytes",
        "_replay_frames",
        "_sent",
        "bucket",
        "cuts",
        "fence",
        "handled",
        "id",
        "limits",
        "moved",
        "open_rooms",
        "opening",
        "pending",
        "resume_token",
        "rooms",
        "scopes",
        "sign_in_id",
        "token_expires_at",
        "user",
        "wire",
    )

    def __init__(
        self,
        id: UUID,
        resume_token: str,
        user: User,
        sign_in_id: UUID,
        token_expires_at: datetime | None,
        wire: Wire,
        limits: SessionLimits,
        scopes: frozenset[Scope] | None = None,
    ) -> None:
        super().__init__()
        self.id = id
        self.resume_token = resume_token
        self.user = user
        self.sign_in_id = sign_in_id
        self.token_expires_at = token_expires_at
        self.wire = wire
        self.limits = limits
        self.scopes = scopes
        self.opening = True
        self.rooms: dict[UUID, Room] = {}
        self.open_rooms: set[UUID] | None = None
        self.handled = 0
        self._counted = 0  # chunks of it, from the oldest, that are in the next three
        self._sent = 0
        self._replay_frames = 0
        self._replay_bytes = 0
        self._trim()
        self.bucket: Bucket | None = None
        self.cuts = 0
        self.pending = 0
        """Commands that were taken and have no answer yet."""
        self.moved = False
        """Whether another node has it now, and this one must not act for it any more."""
        self.fence = 0
        """The number of the claim by which this node has the session; 0 while nobody but its home ever claimed it."""

    @property
    def hears(self) -> bool:
        """Whether it hears chatrooms at all. A bot may be there to write only."""
        return self.scopes is None or "read" in self.scopes

    @property
    def queued(self) -> int:
        """Bytes that wait for the socket."""
        return 0 if self.outbox is None else self.outbox.size

    # --- frames out --------------------------------------------------------------------------

    def push_uncounted(self, chunk: Chunk) -> None:
        """A frame of the connection itself, which resume leaves out."""
        if self.attached:
            self.outbox = Outbox((chunk,), len(chunk.data)) if self.outbox is None else self.outbox.plus(chunk)

    def push(self, chunk: Chunk) -> None:
        """Frames that must arrive: they are counted, kept for resume, and sent if there is a socket."""
        self._keep(chunk)
        self.push_uncounted(chunk)

    @staticmethod
    def push_all(sessions: Iterable[Session], chunk: Chunk) -> list[Session]:
        """`push_room` where nothing else waits, which is nearly everywhere. Returns those that need a closer look."""
        outbox = Outbox((chunk,), len(chunk.data))
        others = []
        for session in sessions:
            if session.outbox is None and session.attached and session.lagging is None and not session.stuck:
                session.outbox = outbox
                session._keep(chunk)
            else:
                others.append(session)
        return others

    def push_room(self, chunk: Chunk) -> bool:
        """Live events of a chatroom. Returns False when the reader is too slow and they were left out."""
        if self.queued > self.limits.outbox:
            self.stuck = True
        if self.stuck or (self.lagging is not None and chunk.chatroom_id in self.lagging):
            self._lag(chunk)
            return False
        self.push(chunk)
        return True

    def push_ephemeral(self, chunk: Chunk) -> bool:
        """An event that is told once. Returns False when it was dropped for a slow or absent reader."""
        if not self.attached or self.stuck or self.queued > self.limits.ephemeral:
            return False
        self.push(chunk)
        return True

    def take(self) -> bytes:
        """What waits for the socket; the caller writes it."""
        outbox, self.outbox = self.outbox, None
        return b"" if outbox is None else outbox.data

    def drained(self) -> dict[UUID, int] | None:
        """Called when the reader has caught up: the chatrooms it has to sync, the first time it is asked."""
        if not self.stuck:
            return None
        self.stuck = False
        return dict(self.lagging or {})

    def _lag(self, chunk: Chunk) -> None:
        if chunk.chatroom_id is None:
            return
        if self.lagging is None:
            self.lagging = {}
        self.lagging[chunk.chatroom_id] = chunk.seq

    def caught_up(self, chatroom_id: UUID) -> None:
        """The chatroom was synced: its live events go on."""
        if self.lagging is not None:
            self.lagging.pop(chatroom_id, None)
            if not self.lagging:
                self.lagging = None

    # --- counting ----------------------------------------------------------------------------

    @property
    def sent(self) -> int:
        """How many frames the client has had, or will have had once all have arrived."""
        self._count()
        return self._sent

    def _keep(self, chunk: Chunk) -> None:
        """All that a frame costs while it is sent; it is counted when somebody asks, or when there may be too many."""
        self.replay.append(chunk)
        self._slack -= chunk.weight
        if self._slack < 0:
            self._trim()

    def _count(self) -> None:
        new = self.replay[self._counted :]
        frames = sum([len(chunk.ends) for chunk in new])
        self._sent += frames
        self._replay_frames += frames
        self._replay_bytes += sum([len(chunk.data) for chunk in new])
        self._counted += len(new)

    def _trim(self) -> None:
        self._count()
        limits, over = self.limits, 0
        frames, size = self._replay_frames - limits.replay_frames, self._replay_bytes - limits.replay_bytes
        while frames > 0 or size > 0:
            frames -= len(self.replay[over].ends)
            size -= len(self.replay[over].data)
            over += 1
        self._forget(over)
        self._slack = limits.slack

    def _forget(self, count: int) -> None:
        """Lets the oldest chunks go, which are counted."""
        old = self.replay[:count]
        self._replay_frames -= sum([len(chunk.ends) for chunk in old])
        self._replay_bytes -= sum([len(chunk.data) for chunk in old])
        self._counted -= count
        del self.replay[:count]

    def acknowledge(self, received: int) -> bool:
        """The client has had `received` frames: forget them. False when it can't have had so many."""
        if received > self.sent:
            return False
        known, had = received - (self._sent - self._replay_frames), 0
        for chunk in self.replay:
            known -= len(chunk.ends)
            if known < 0:
                break
            had += 1
        self._forget(had)
        return True

    def resume(self, received: int, members_of: Container[UUID]) -> list[Chunk] | Refused:
        """The frames after the `received`-th, less those of chatrooms the user has left, to be sent first.

        The buffer then holds just these, and `sent` agrees with what the client will have counted.
        """
        self._trim()
        if received > self._sent:
            return "received_too_high"
        skip = received - (self._sent - self._replay_frames)
        if skip < 0:
            return "buffer_exceeded"
        missed = [c for c in self._after(skip) if c.chatroom_id is None or c.chatroom_id in members_of]
        self._begin_again(received, missed)
        return missed

    def _begin_again(self, sent: int, kept: Sequence[Chunk]) -> None:
        """After `sent` frames, which are not kept any more, these were sent."""
        self.replay = list(kept)
        self._sent, self._counted, self._replay_frames, self._replay_bytes = sent, 0, 0, 0
        self._trim()

    def _after(self, skip: int) -> list[Chunk]:
        missed: list[Chunk] = []
        for chunk in self.replay:
            if skip >= len(chunk.ends):
                skip -= len(chunk.ends)
                continue
            missed.append(chunk.after(skip))
            skip = 0
        return missed

    # --- from node to node -------------------------------------------------------------------

    def state(self) -> SessionState:
        """All that another node needs to go on with it. The chatrooms are live, so their heads say how far it is."""
        self._trim()
        return SessionState(
            id=self.id,
            resume_token=self.resume_token,
            user=self.user,
            sign_in_id=self.sign_in_id,
            token_expires_at=self.token_expires_at,
            scopes=None if self.scopes is None else tuple(self.scopes),
            sent=self._sent,
            handled=self.handled,
            replay=tuple(KeptFrames(c.data, c.ends, c.chatroom_id, c.seq) for c in self.replay),
            rooms={room_id: room.head or 0 for room_id, room in self.rooms.items()},
            open_rooms=tuple(self.open_rooms or ()),
            lagging=tuple(self.lagging or ()),
        )

    @classmethod
    def from_state(cls, state: SessionState, wire: Wire, limits: SessionLimits) -> Session:
        """The session on its new node: without a socket, and in no chatroom yet."""
        scopes = None if state.scopes is None else frozenset(state.scopes)
        session = cls(
            state.id,
            state.resume_token,
            state.user,
            state.sign_in_id,
            state.token_expires_at,
            wire,
            limits,
            scopes,
        )
        session.attached = False
        session.handled = state.handled
        kept = [Chunk(k.data, k.ends, k.chatroom_id, k.seq) for k in state.replay]
        session._begin_again(state.sent - sum(len(chunk.ends) for chunk in kept), kept)
        return session

    # --- sockets come and go -----------------------------------------------------------------

    def attach(self, wire: Wire) -> None:
        """A socket is there again."""
        self.attached = True
        self.wire = wire
        self.outbox = None

    def detach(self) -> None:
        """The socket is gone; what waited for it is in the replay buffer."""
        self.attached = False
        self.cuts += 1
        self.outbox = None
        self.stuck = False
