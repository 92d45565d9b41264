"""The connection to Redis (or Valkey), which only ever carries hints: what fails here must not fail chat.

Nothing is retried: a repeated PUBLISH would be heard twice, and whatever got lost
is found in PostgreSQL.
"""

from __future__ import annotations

from typing import Any, TypeAlias, cast
from urllib.parse import SplitResult, unquote, urlsplit

from redis.asyncio import Redis
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

RedisClient: TypeAlias = "Redis"
"""Also stands for a Cluster, which has the same commands."""

CONNECT_SECONDS = 1.0
"""How long a connection may take to open."""
ANSWER_SECONDS = 1.0
"""How long an answer may take; longer means that the server is gone without a word."""

AWAY = (RedisError, OSError, RuntimeError)
"""What a call raises when Redis cannot be reached or used. TimeoutError is an OSError.

RuntimeError is uvloop's word for a connection that was closed while the driver was about to write.
"""

CLUSTER, SENTINEL = "cluster", "sentinel"
PORTS = {CLUSTER: 6_379, SENTINEL: 26_379}
"""Where a server listens if the URL does not say."""

FORMS = (
    "redis://:password@host:6379/0, rediss://… for TLS, unix:///path, redis+sentinel://:password@host:26379,host/service"
    " or redis+cluster://:password@host:6379,host"
)


class RedisUrlError(Exception):
    """REDIS_URL cannot be used; the message says what it has to look like."""


class Cluster(RedisCluster):
    """A Redis Cluster: its keys and its channels are spread over several servers by their slots."""

    def __init__(self, addresses: list[tuple[str, int]], options: dict[str, Any]) -> None:
        super().__init__(
            startup_nodes=[ClusterNode(*address) for address in addresses],
            require_full_coverage=False,  # some of it is better than nothing
            dynamic_startup_nodes=False,  # a name may stand for other servers tomorrow, those it stood for may be gone
            **options,
        )
        self._options = options

    async def refresh(self) -> None:
        """Learns anew which server has which slots. Raises AWAY."""
        await self.initialize()
        await self.nodes_manager.initialize()

    def owner(self, slot: int) -> str | None:
        """The name of the server that has a slot, as of the last refresh."""
        nodes: list[ClusterNode] | None = self.nodes_manager.slots_cache.get(slot)
        return nodes[0].name if nodes else None

    def server(self, name: str) -> RedisClient:
        """A client for one of its servers alone."""
        node = self.get_node(node_name=name)
        assert node is not None
        return Redis(host=node.host, port=int(node.port), **self._options)


class Primary(Redis):
    """Whichever server Sentinel says is the primary now; it is asked whenever a connection opens."""

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        """Closes the connections to Sentinel, too."""
        await super().aclose(close_connection_pool)
        if isinstance(self.connection_pool, SentinelConnectionPool):
            await self.connection_pool.sentinel_manager.aclose()


def connect(url: str) -> RedisClient:
    """A client for this URL; it connects when it is first used. Raises RedisUrlError."""
    try:
        parts = urlsplit(url)
        scheme, _, kind = parts.scheme.partition("+")
        if kind:
            return _connect_many(parts, secure={"redis": False, "rediss": True}[scheme], kind=kind)
        return Redis.from_url(url, **_options())
    except (ValueError, KeyError):  # its words may quote the password
        raise RedisUrlError(f"REDIS_URL is not a URL as in {FORMS}.") from None


def _options() -> dict[str, Any]:
    return {
        "retry": Retry(NoBackoff(), 0),
        "socket_connect_timeout": CONNECT_SECONDS,
        "socket_timeout": ANSWER_SECONDS,
        "protocol": 2,
    }


def _connect_many(parts: SplitResult, *, secure: bool, kind: str) -> RedisClient:
    """A client for several servers. Raises ValueError or KeyError."""
    user_info, _, hosts = parts.netloc.rpartition("@")
    username, _, password = map(unquote, user_info.partition(":"))
    addresses = [_address(host, PORTS[kind]) for host in hosts.split(",")]
    path = parts.path.strip("/")
    options = _options() | {"username": username or None, "password": password or None}
    if secure:
        options["ssl"] = True
    if kind == SENTINEL:
        return _behind_sentinels(addresses, path, options)
    if path:
        raise ValueError("a cluster has one database")
    return cast("RedisClient", Cluster(addresses, options))


def _behind_sentinels(addresses: list[tuple[str, int]], path: str, options: dict[str, Any]) -> RedisClient:
    """A client for whichever server is the primary now. The password is the servers'; Sentinels are asked without."""
    service, _, database = path.partition("/")
    if not service:
        raise ValueError("Sentinel has to be told the service")
    sentinel = Sentinel(addresses, sentinel_kwargs=_options())  # type: ignore[no-untyped-call]
    client: RedisClient = sentinel.master_for(service, Primary, db=int(database or 0), **options)
    return client


def _address(text: str, port: int) -> tuple[str, int]:
    """Raises ValueError."""
    parts = urlsplit(f"//{text}")
    if not parts.hostname or parts.path:
        raise ValueError("a server has a name")
    return parts.hostname, parts.port or port
