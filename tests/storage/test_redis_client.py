from __future__ import annotations

import pytest
from redis.asyncio.connection import SSLConnection
from redis.asyncio.sentinel import SentinelConnectionPool, SentinelManagedSSLConnection

from storage.redis_client import Cluster, RedisUrlError, connect


def test_sentinels() -> None:
    """A URL of Sentinels names several, with their ports or the usual one, the service, and perhaps a database."""
    client = connect("redis+sentinel://ann:p%40ss@one,[::1]:5,three:6/main/2")
    pool = client.connection_pool
    assert isinstance(pool, SentinelConnectionPool)
    assert pool.service_name == "main"
    assert [pool.connection_kwargs[name] for name in ("username", "password", "db")] == ["ann", "p@ss", 2]
    asked = [sentinel.connection_pool.connection_kwargs for sentinel in pool.sentinel_manager.sentinels]
    assert [(it["host"], it["port"], it.get("password")) for it in asked] == [
        ("one", 26_379, None),
        ("::1", 5, None),
        ("three", 6, None),
    ]
    assert [it["retry"].get_retries() for it in asked] == [0, 0, 0], "one that is down costs no time"


def test_cluster() -> None:
    """A URL of a cluster names some of its servers."""
    client = connect("redis+cluster://:secret@one:7,two")
    assert isinstance(client, Cluster)
    assert [(node.host, node.port) for node in client.startup_nodes] == [("one", 7), ("two", 6_379)]
    assert client.startup_nodes[0].connection_kwargs["password"] == "secret"


def test_tls() -> None:
    """With rediss the connections to all servers are under TLS."""
    assert connect("rediss://one").connection_pool.connection_class is SSLConnection
    assert connect("rediss+sentinel://one/main").connection_pool.connection_class is SentinelManagedSSLConnection
    cluster = connect("rediss+cluster://one")
    assert isinstance(cluster, Cluster)
    assert cluster.startup_nodes[0].connection_class is SSLConnection


@pytest.mark.parametrize(
    "url",
    [
        "one:6379",
        "http://:secret@one",
        "redis://:secret@one:port",
        "redis+sentinel://:secret@one",
        "redis+sentinel://:secret@/main",
        "redis+sentinel://:secret@one/main/two",
        "redis+cluster://:secret@one/1",
        "redis+cluster://:secret@one:port",
        "redis+cluster://:secret@one,,two",
        "redis+other://:secret@one",
        "http+cluster://:secret@one",
    ],
)
def test_no_url(url: str) -> None:
    """What is no URL of Redis is refused with the forms that are, and the password is not told."""
    with pytest.raises(RedisUrlError, match=r"REDIS_URL .* redis\+cluster") as refused:
        connect(url)
    assert "secret" not in str(refused.value)
