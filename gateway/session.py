"""A session: what it has sent, what it keeps for resume, what waits for its reader. No I/O in here.

Counting follows XMPP's stream management (XEP-0198): both ends count frames and
no number goes into a frame, so that all receivers can share the same bytes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Literal
from uuid import UUID

from gateway.limits import Bucket
from gateway.wire import Chunk, Wire
from protocol.models import Scope, User
from storage.hints import KeptFrames, SessionState

if TYPE_CHECKING:
    from gateway.room import Room

Refused = Literal["received_too_high", "buffer_exceeded"]


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """Bounds of one session's memory, in bytes and frames."""

    ephemeral: int
    outbox: int
    replay_frames: int
    replay_bytes: int


class Session:
    """One client's place in the hub; it outlives its socket by the resume window."""

    __slots__ = (
        "__weakref__",
        "attached",
        "bucket",
        "cuts",
        "dirty",
        "fence",
        "handled",
        "id",
        "lagging",
        "limits",
        "moved",
        "open_rooms",
        "opening",
        "outbox",
        "pending",
        "queued",
        "replay",
        "replay_bytes",
        "replay_frames",
        "resume_token",
        "rooms",
        "scopes",
        "sent",
        "sign_in_id",
        "stuck",
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
        self.id = id
        self.resume_token = resume_token
        self.user = user
        self.sign_in_id = sign_in_id
        self.token_expires_at = token_expires_at
        self.wire = wire
        self.limits = limits
        self.scopes = scopes
        self.attached = True
        self.opening = True
        self.rooms: dict[UUID, Room] = {}
        self.open_rooms: set[UUID] | None = None
        self.sent = 0
        self.handled = 0
        # Most sessions are idle: what only busy ones need is made when it is needed.
        self.replay: deque[Chunk] | None = None
        self.replay_frames = 0
        self.replay_bytes = 0
        self.outbox: list[Chunk] = []
        self.queued = 0
        self.stuck = False
        self.lagging: dict[UUID, int] | None = None
        self.dirty = False
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

    # --- frames out --------------------------------------------------------------------------

    def push_uncounted(self, chunk: Chunk) -> None:
        """A frame of the connection itself, which resume leaves out."""
        if self.attached:
            self.outbox.append(chunk)
            self.queued += len(chunk.data)

    def push(self, chunk: Chunk) -> None:
        """Frames that must arrive: they are counted, kept for resume, and sent if there is a socket."""
        size = len(chunk.data)
        count = len(chunk.ends)
        self.sent += count
        if self.replay is None:
            self.replay = deque()
        self.replay.append(chunk)
        self.replay_frames += count
        self.replay_bytes += size
        limits = self.limits
        if self.replay_frames > limits.replay_frames or self.replay_bytes > limits.replay_bytes:
            self._trim()
        if self.attached:
            self.outbox.append(chunk)
            self.queued += size

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

    def take(self) -> list[Chunk]:
        """What waits for the socket; the caller writes it."""
        chunks = self.outbox
        self.outbox = []
        self.queued = 0
        return chunks

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

    def _trim(self) -> None:
        replay = self.replay
        assert replay is not None
        limits = self.limits
        while replay and (self.replay_frames > limits.replay_frames or self.replay_bytes > limits.replay_bytes):
            self._forget(replay.popleft())

    def _forget(self, chunk: Chunk) -> None:
        self.replay_frames -= len(chunk.ends)
        self.replay_bytes -= len(chunk.data)

    def acknowledge(self, received: int) -> bool:
        """The client has had `received` frames: forget them. False when it can't have had so many."""
        if received > self.sent:
            return False
        replay = self.replay
        while replay and self.sent - self.replay_frames + len(replay[0].ends) <= received:
            self._forget(replay.popleft())
        if not replay:
            self.replay = None
        return True

    def resume(self, received: int, members_of: Container[UUID]) -> list[Chunk] | Refused:
        """The frames after the `received`-th, less those of chatrooms the user has left, to be sent first.

        The buffer then holds just these, and `sent` agrees with what the client will have counted.
        """
        if received > self.sent:
            return "received_too_high"
        skip = received - (self.sent - self.replay_frames)
        if skip < 0:
            return "buffer_exceeded"
        missed = [c for c in self._after(skip) if c.chatroom_id is None or c.chatroom_id in members_of]
        self.replay = deque(missed) if missed else None
        self.replay_frames = sum(len(chunk.ends) for chunk in missed)
        self.replay_bytes = sum(len(chunk.data) for chunk in missed)
        self.sent = received + self.replay_frames
        return missed

    def _after(self, skip: int) -> list[Chunk]:
        missed: list[Chunk] = []
        for chunk in self.replay or ():
            if skip >= len(chunk.ends):
                skip -= len(chunk.ends)
                continue
            missed.append(chunk.after(skip))
            skip = 0
        return missed

    # --- from node to node -------------------------------------------------------------------

    def state(self) -> SessionState:
        """All that another node needs to go on with it. The chatrooms are live, so their heads say how far it is."""
        return SessionState(
            id=self.id,
            resume_token=self.resume_token,
            user=self.user,
            sign_in_id=self.sign_in_id,
            token_expires_at=self.token_expires_at,
            scopes=None if self.scopes is None else tuple(self.scopes),
            sent=self.sent,
            handled=self.handled,
            replay=tuple(KeptFrames(c.data, c.ends, c.chatroom_id, c.seq) for c in self.replay or ()),
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
        session.sent, session.handled = state.sent, state.handled
        session.replay = deque(Chunk(k.data, k.ends, k.chatroom_id, k.seq) for k in state.replay) or None
        session.replay_frames = sum(len(kept.ends) for kept in state.replay)
        session.replay_bytes = sum(len(kept.data) for kept in state.replay)
        return session

    # --- sockets come and go -----------------------------------------------------------------

    def attach(self, wire: Wire) -> None:
        """A socket is there again."""
        self.attached = True
        self.wire = wire
        self.outbox = []
        self.queued = 0

    def detach(self) -> None:
        """The socket is gone; what waited for it is in the replay buffer."""
        self.attached = False
        self.cuts += 1
        self.outbox = []
        self.queued = 0
        self.stuck = False
