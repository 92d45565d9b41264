"""What the generator has to know of a server's wire: how to open, what to send, what to read of what comes.

`bench.parley` is Parley's. Another server takes another Dialect, and the sessions, the load
and the figures stay the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, Protocol

ID_WIDTH = 12
"""Digits of a message's number: all of the same width, so that a prebuilt frame's length never changes."""
STAMP_WIDTH = 16
"""Digits of the microseconds (of CLOCK_MONOTONIC) that a message's text begins with: when it should have gone."""
TEXT = ("The quick brown fox jumps over the lazy dog. " * 5)[: 200 - STAMP_WIDTH]
"""What follows them. Together 200 bytes, the length of a longish chat message."""

Send = Callable[[int, int], bytes]
"""Makes the bytes of the message with a number and a stamp."""


class Span(NamedTuple):
    """Events of one chatroom with seq `first`, `first + 1`, … `last`, one right after the other."""

    room: bytes
    first: int
    last: int


class Scan(NamedTuple):
    """What was found in some bytes. `acks` are message numbers; `end` is where the first incomplete frame begins.

    `others` is what is neither an event of a chatroom nor an ack, each with its opcode (0 where there are none).
    """

    spans: list[Span]
    acks: list[int]
    others: list[tuple[int, bytes]]
    end: int


class Line(Protocol):
    """The way of one session's bytes. `ready` once frames come and go.

    From then on a line that is not `sealed` changes no bytes, and is left out.
    """

    ready: bool
    sealed: bool

    def first(self) -> bytes:
        """What the client says first."""
        ...

    def take(self, data: bytes) -> tuple[bytes, bytes]:
        """Bytes of frames, and what has to be answered. Raises TargetError."""
        ...

    def pack(self, frames: bytes) -> bytes:
        """Frames as they go out."""
        ...


class Talk(Protocol):
    """What a Dialect may do with a session. `credential` is what it signs in with; `kept` is the dialect's own."""

    credential: str
    kept: dict[str, Any]

    def send(self, frames: bytes) -> None:
        """Writes frames."""
        ...

    def ready(self, heads: Mapping[bytes, int]) -> None:
        """The session is open, and hears these chatrooms, whose last seqs are given: the next event is one more."""
        ...

    def failed(self, what: str) -> None:
        """Something came that should not have: counted, or the end of opening."""
        ...


class Dialect(Protocol):
    """How one server is spoken to. Pickled once for every generator process, whose sessions share it."""

    host: str
    port: int
    tls: bool

    def line(self, credential: str) -> Line:
        """A new session's way to the server."""
        ...

    def sender(self, room: str) -> Send:
        """Prebuilt messages into a chatroom: a stamp and TEXT, with the number where the ack will show it."""
        ...

    def scan(self, data: bytes) -> Scan:
        """Reads what begins with a whole frame: seqs and acks. The hot path: nothing else is parsed.

        Sessions that have equal bytes get the same answer, so the last one may be remembered.
        """
        ...

    def other(self, session: Talk, opcode: int, payload: bytes) -> None:
        """Takes what is neither event nor ack: pings, what opens a session (then `session.ready`), errors."""
        ...

    def stamps(self, data: bytes, scan: Scan) -> Iterable[int]:
        """The stamps of the scanned events."""
        ...

    def read(self, data: bytes, scan: Scan) -> int:
        """Parses every scanned frame, and compares seqs and texts. How many events these were. Raises Wrong."""
        ...

    def goodbye(self) -> bytes:
        """What ends a session for good; nothing where the server has no such thing."""
        ...


class Wrong(Exception):
    """A frame does not say what it should; the message says how."""
