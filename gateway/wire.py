"""Encoded frames, made once and shared by every receiver that speaks the same codec over the same framing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any
from uuid import UUID

from protocol.codec import Codec, ServerFrame
from protocol.errors import ChatError
from storage.events import CommittedEvent

KIB = 1_024
"""Bytes that a frame counts for besides its own: by default as many frames as KiB are kept for a resume."""
SHARED = 16
"""Chunks in an outbox that others may come to share. A longer one is a slow reader's own."""


class Chunk:
    """One or more encoded frames, joined. `ends` says where each ends, so that a resume can begin in the middle.

    `weight` is what it counts for, in KiB: small numbers, which are not made anew for each session that counts.
    """

    __slots__ = ("chatroom_id", "data", "ends", "seq", "weight")

    def __init__(self, data: bytes, ends: tuple[int, ...], chatroom_id: UUID | None = None, seq: int = 0) -> None:
        self.data = data
        self.ends = ends
        self.weight = len(ends) + -(-len(data) // KIB)
        self.chatroom_id = chatroom_id
        self.seq = seq

    def after(self, frames: int) -> Chunk:
        """The chunk without its first `frames` frames."""
        if frames == 0:
            return self
        cut = self.ends[frames - 1]
        ends = tuple(end - cut for end in self.ends[frames:])
        return Chunk(self.data[cut:], ends, self.chatroom_id, self.seq)


class Outbox:
    """What waits for a socket, in order. It never changes: those for whom the same waits share it, joined once."""

    __slots__ = ("_data", "_next", "chunks", "size")

    def __init__(self, chunks: tuple[Chunk, ...], size: int) -> None:
        self.chunks = chunks
        self.size = size
        self._data: bytes | None = None
        self._next: Outbox | None = None

    @classmethod
    def of(cls, chunks: Sequence[Chunk]) -> Outbox | None:
        """These chunks, if there are any."""
        return cls(tuple(chunks), sum([len(chunk.data) for chunk in chunks])) if chunks else None

    def plus(self, chunk: Chunk) -> Outbox:
        """The same with one chunk more."""
        if self._next is not None and self._next.chunks[-1] is chunk:
            return self._next
        longer = Outbox((*self.chunks, chunk), self.size + len(chunk.data))
        if len(self.chunks) < SHARED:
            self._next = longer
        return longer

    @property
    def data(self) -> bytes:
        """The bytes to write."""
        if self._data is None:
            parts = [chunk.data for chunk in self.chunks]
            self._data = parts[0] if len(parts) == 1 else b"".join(parts)
        return self._data


class Wire:
    """A codec and a framing. There is one object per pair, so sessions can be grouped by it.

    Wires of the same `name` make the same bytes, on any node.
    """

    def __init__(self, codec: Codec, frame: Callable[[bytes], bytes], name: str = "") -> None:
        self.name = name
        self.codec = codec
        self._frame = frame

    def chunk(self, event: str, data: Any, *, id: str | None = None) -> Chunk:
        """One frame to one session, or an ephemeral event."""
        framed = self._frame(self.codec.encode(ServerFrame(event, data, id)))
        return Chunk(framed, (len(framed),))

    def error(self, error: ChatError, id: str | None = None) -> Chunk:
        """An `error` frame."""
        framed = self._frame(self.codec.error(error, id))
        return Chunk(framed, (len(framed),))

    def events(self, events: Sequence[CommittedEvent]) -> Chunk:
        """Durable events of one chatroom, in order."""
        frames = [
            self._frame(self.codec.encode(ServerFrame(e.kind, e.data, None, e.chatroom_id, e.seq))) for e in events
        ]
        last = events[-1]
        if len(frames) == 1:
            return Chunk(frames[0], (len(frames[0]),), last.chatroom_id, last.seq)
        return Chunk(b"".join(frames), tuple(accumulate(map(len, frames))), last.chatroom_id, last.seq)
