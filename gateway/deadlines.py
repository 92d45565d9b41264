"""What a connection has to do by when: say who it is, show life, read, renew its token. Times are passed in."""

from __future__ import annotations

from typing import Literal

from gateway.config import Config
from protocol.errors import CloseCode

Due = Literal["ping", "warn"] | CloseCode
"""`ping`: ask for a sign of life. `warn`: the token runs out. A close code: the deadline was missed."""

REASONS = {
    CloseCode.auth_timeout: "no authentication in time",
    CloseCode.no_pong: "no sign of life",
    CloseCode.slow_consumer: "the client does not read",
    CloseCode.token_expired: "the access token has expired",
    CloseCode.draining: "the server is stopping",
}
"""What the client is told with the close."""


class Deadlines:
    """The deadlines of one connection. All times are seconds of the loop's clock."""

    __slots__ = ("_opened_at", "_pinged", "_stuck_since", "_warned", "last_seen")

    def __init__(self, now: float) -> None:
        self._opened_at = self.last_seen = now
        self._pinged = False
        self._warned = False
        self._stuck_since = 0.0

    def entered(self) -> None:
        """There is a session: how long it took is of no interest any more, and a number less to keep."""
        self._opened_at = 0.0

    def touch(self, now: float) -> None:
        """Something came from the client: it lives."""
        self.last_seen = now
        self._pinged = False

    def stuck(self, now: float) -> bool:
        """The reader lags. True when it has only now begun to."""
        begun = not self._stuck_since
        if begun:
            self._stuck_since = now
        return begun

    def drained(self) -> None:
        """The reader has caught up."""
        self._stuck_since = 0.0

    def renewed(self) -> None:
        """There is a new token."""
        self._warned = False

    def due(self, config: Config, now: float, token_left: float | None) -> Due | None:
        """What is due first. `token_left`: the seconds the token is good for, perhaps without end.

        It is None before there is a session.
        """
        if token_left is None:
            return CloseCode.auth_timeout if now >= self._opened_at + config.auth_deadline else None
        if now >= self._silent_at(config) + config.heartbeat_timeout:
            return CloseCode.no_pong
        if self._stuck_since and now >= self._stuck_since + config.slow_consumer:
            return CloseCode.slow_consumer
        if token_left <= -config.token_grace:
            return CloseCode.token_expired
        if token_left <= config.token_warning and not self._warned:
            self._warned = True
            return "warn"
        if now >= self._silent_at(config) and not self._pinged:
            self._pinged = True
            return "ping"
        return None

    def next(self, config: Config, now: float, token_left: float | None) -> float:
        """When to look again."""
        if token_left is None:
            return self._opened_at + config.auth_deadline
        times = [
            self._silent_at(config) + (config.heartbeat_timeout if self._pinged else 0.0),
            now + token_left + (config.token_grace if self._warned else -config.token_warning),
        ]
        if self._stuck_since:
            times.append(self._stuck_since + config.slow_consumer)
        return max(min(times), now)

    def _silent_at(self, config: Config) -> float:
        return self.last_seen + config.heartbeat_interval
