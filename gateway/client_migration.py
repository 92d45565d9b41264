"""The second connection of a client whose node is stopping: when to open it, and whether it can take over.

planned ──ConnectNext──▸ connecting ──connected──▸ greeted by `hello`: takes over when there is a token
   ▴                         │                        │
   └── disconnected: after a backoff, until the overlap ends
"""

from __future__ import annotations

from collections.abc import Callable

from gateway.client_commands import backoff
from gateway.client_effects import ConnectNext, DropNext, Effect, FetchToken, typed
from protocol.codec import ServerFrame
from protocol.events import Hello, Migrate

HELLO_DEADLINE = 10.0
"""Seconds until `hello`: what the server, in turn, gives a client to say who it is."""


class NextConnection:
    """Stands by while the first connection serves. `random` returns a number in [0, 1)."""

    def __init__(self, random: Callable[[], float]) -> None:
        self._random = random
        self._forget()

    def _forget(self) -> None:
        self.hello: Hello | None = None
        self.greeted_at = 0.0
        self._under_way = False
        self._connect_at: float | None = None
        self._hello_by: float | None = None
        self._until = 0.0
        self._failures = 0

    # --- what the state machine asks of it -------------------------------------------------------

    def plan(self, told: Migrate, now: float) -> None:
        """The node is stopping. A plan that is being carried out stays."""
        if not self._under_way:
            self._forget()
            self._connect_at = now + told.after_ms / 1000
            self._until = self._connect_at + told.overlap_ms / 1000

    def take_over(self) -> Hello:
        """It is the connection from now on, and this was its `hello`."""
        hello = self.hello
        assert hello is not None
        self._forget()
        return hello

    def cancel(self, reason: str) -> list[Effect]:
        """There is nothing left to stand by for."""
        dropped: list[Effect] = [DropNext(reason)] if self._under_way else []
        self._forget()
        return dropped

    def unauthorized(self, reason: str) -> list[Effect]:
        """There is no token to resume with."""
        return [] if self.hello is None else [DropNext(reason)]

    @property
    def deadline(self) -> float | None:
        """When `tick` has something to do."""
        return self._connect_at if self._hello_by is None else self._hello_by

    def tick(self, now: float) -> list[Effect]:
        """Does what is due."""
        if self._connect_at is not None and now >= self._connect_at:
            self._connect_at = None
            self._under_way = True
            return [ConnectNext()]
        if self._hello_by is not None and now >= self._hello_by:
            self._hello_by = None
            return [DropNext("the other node says nothing")]
        return []

    # --- what the shell tells it -----------------------------------------------------------------

    def connected(self, now: float) -> list[Effect]:
        """The connection that `ConnectNext` asked for is open."""
        if self._under_way:
            self._hello_by = now + HELLO_DEADLINE
        return []

    def receive(self, frame: ServerFrame, now: float) -> list[Effect]:
        """A frame. Before the client has spoken, `hello` is the only one that matters.

        Raises msgspec.ValidationError if it is not of the shape its name promises.
        """
        data = typed(frame)
        if not self._under_way or not isinstance(data, Hello):
            return []
        self.hello, self.greeted_at, self._hello_by = data, now, None
        return [FetchToken()]

    def disconnected(self, now: float) -> list[Effect]:
        """It ended, or could not be made. Nothing is lost with it: try again while the first one serves."""
        if self._under_way:
            again = now + backoff(self._failures, self._random)
            self._under_way, self.hello, self._hello_by = False, None, None
            self._failures += 1
            self._connect_at = again if again < self._until else None
        return []
