"""Encoded frames, made once and shared by every receiver that speaks the same codec over the same framing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any
from uuid import UUID

from protocol.codec import Codec, ServerFrame
from protocol.errors import ChatError
from storage.events import CommittedEvent


class Chunk:
    """One or more encoded frames, joined. `ends` says where each ends, so that a resume can begin in the middle."""

    __slots__ = ("chatroom_id", "data", "ends", "seq")

    def __init__(self, data: bytes, ends: tuple[int, ...], chatroom_id: UUID | None = None, seq: int = 0) -> None:
        self.data = data
        self.ends = ends
        self.chatroom_id = chatroom_id
        self.seq = seq

    def after(self, frames: int) -> Chunk:
        """The chunk without its first `frames` frames."""
        if frames == 0:
            return self
        cut = self.ends[frames - 1]
        ends = tuple(end - cut for end in self.ends[frames:])
        return Chunk(self.data[cut:], ends, self.chatroom_id, self.seq)


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
