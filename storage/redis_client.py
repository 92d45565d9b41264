"""The connection to Redis (or Valkey), which only ever carries hints: what fails here must not fail chat.

Nothing is retried: a repeated PUBLISH would be heard twice, and whatever got lost
is found in PostgreSQL.
"""

from __future__ import annotations

from typing import TypeAlias

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

RedisClient: TypeAlias = "Redis"

CONNECT_SECONDS = 1.0
"""How long a connection may take to open."""
ANSWER_SECONDS = 1.0
"""How long an answer may take; longer means that the server is gone without a word."""

AWAY = (RedisError, OSError, RuntimeError)
"""What a call raises when Redis cannot be reached or used. TimeoutError is an OSError.

RuntimeError is uvloop's word for a connection that was closed while the driver was about to write.
"""


class RedisUrlError(Exception):
    """REDIS_URL cannot be used; the message says what it has to look like."""


def connect(url: str) -> RedisClient:
    """A client for this URL; it connects when it is first used. Raises RedisUrlError."""
    try:
        return Redis.from_url(
            url,
            retry=Retry(NoBackoff(), 0),
            socket_connect_timeout=CONNECT_SECONDS,
            socket_timeout=ANSWER_SECONDS,
            protocol=2,
        )
    except ValueError:  # its words may quote the password
        raise RedisUrlError("REDIS_URL is not a URL as in redis://:password@host:6379/0.") from None
