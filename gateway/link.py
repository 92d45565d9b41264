"""What stands between a session and its socket: what the hub, and what a connection, asks of a transport."""

from __future__ import annotations

import asyncio
from typing import Protocol

from protocol.errors import CloseCode


class Link(Protocol):
    """The socket of a session, as the hub sees it."""

    @property
    def paused(self) -> bool:
        """Whether the socket takes no more for now."""
        ...

    def write(self, data: bytes) -> None:
        """Sends frames, in one write."""
        ...

    def stuck(self) -> None:
        """The session behind this socket has begun to lag."""
        ...

    def finish(self) -> asyncio.Task[None] | None:
        """Takes no more commands, and returns the work on those that were taken, if there is any."""
        ...

    def close(self, code: CloseCode, reason: str) -> None:
        """Closes the socket; the client is told why."""
        ...


class Socket(Link, Protocol):
    """What a pump gives its connection, beyond what the hub needs."""

    def ping(self) -> None:
        """Asks the other end for a sign of life."""
        ...

    def pause_reading(self) -> None:
        """Takes no more from the client for now."""
        ...

    def resume_reading(self) -> None:
        """Goes on reading."""
        ...

    def abort(self) -> None:
        """Drops the socket without a word."""
        ...

    def send_close(self, code: CloseCode, reason: str) -> None:
        """Tells the client why and begins to close."""
        ...

    def hang_up(self) -> None:
        """Closes after the client's goodbye."""
        ...
