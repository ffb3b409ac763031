"""A client for a server, a cluster or sentinels, what becomes of its errors, and what a server says of itself."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeAlias

import msgspec
from msgspec import Struct
from omniq.errors import StoreError, StoreFull, StoreUnavailable, ValueRefused
from omniq.loops import close_transport
from omniq.storage.guarantees import Guarantees
from omniq.storage.transport import is_transport_error
from redis import exceptions as redis_errors
from redis.asyncio import Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff

from omniq_redis.config import RedisConfig
from omniq_redis.tls import tls_advice

RETRIES = 0
"""Nothing is sent twice: after a lost reply only the caller knows whether to ask again."""

_FOR_GOOD = (redis_errors.AuthenticationError, redis_errors.AuthorizationError)
_TRANSIENT = (
    redis_errors.ConnectionError,
    redis_errors.TimeoutError,
    redis_errors.InvalidResponse,
    redis_errors.ReadOnlyError,
    redis_errors.TryAgainError,
    redis_errors.ClusterDownError,
    redis_errors.MasterDownError,
    redis_errors.NoScriptError,
)
# In scripts, old servers put their codes into the midst of the message.
_TRANSIENT_TEXT = re.compile(
    r"\b(BUSY|CLUSTERDOWN|LOADING|MASTERDOWN|MISCONF|NOREPLICAS|READONLY|TRYAGAIN|cannot be connected|"
    r"Protocol error)\b"
)
_FULL_TEXT = re.compile(r"\bOOM\b")
_TOO_LARGE_TEXT = re.compile(r"exceeds maximum allowed size|proto-max-bulk-len")

Client: TypeAlias = Redis | RedisCluster


@contextmanager
def store_errors(settings: RedisConfig) -> Iterator[None]:
    """Turn what redis-py and the event loop raise into the `StoreError` that it amounts to."""
    try:
        yield
    except (Exception, asyncio.CancelledError) as error:
        kind = kind_of(error)
        if kind is None:
            raise
        words = tls_advice(error, settings) or str(error) or type(error).__name__
        raise kind(f"{settings.location}: {words}") from error


def kind_of(error: BaseException) -> type[StoreError] | None:
    """`StoreUnavailable` where a repeat may succeed, else `StoreError`; None for what isn't of driver or network."""
    if is_transport_error(error) or type(error).__module__ == "hiredis":
        return StoreUnavailable
    if isinstance(error, msgspec.DecodeError):
        return StoreError
    if not isinstance(error, redis_errors.RedisError | redis_errors.RedisClusterException):
        return None
    if isinstance(error, redis_errors.OutOfMemoryError) or _FULL_TEXT.search(str(error)):
        return StoreFull
    if _TOO_LARGE_TEXT.search(str(error)):
        return ValueRefused
    return StoreUnavailable if _is_transient(error) else StoreError


def _is_transient(error: Exception) -> bool:
    if isinstance(error, _FOR_GOOD):
        return False
    return isinstance(error, _TRANSIENT) or _TRANSIENT_TEXT.search(str(error)) is not None


def open_client(settings: RedisConfig) -> Client:
    """A client for the running loop, which connects at its first command."""
    options = _options(settings)
    if settings.cluster:
        nodes = [ClusterNode(host, port) for host, port in settings.addresses]
        cluster = RedisCluster(startup_nodes=nodes, **options)
        kind = cluster.connection_kwargs["connection_class"]
        cluster.connection_kwargs["connection_class"] = _watchful(kind)
        return cluster
    if settings.sentinel_master is not None:
        own = {"username": settings.sentinel_username, "password": settings.sentinel_password}
        sentinels = Sentinel(settings.addresses, sentinel_kwargs={**options, **own})  # type: ignore[no-untyped-call]
        client: Redis = sentinels.master_for(settings.sentinel_master, db=settings.db, **options)
    else:
        host, port = settings.addresses[0]
        client = Redis(host=host, port=port, db=settings.db, **options)
    client.connection_pool.connection_class = _watchful(client.connection_pool.connection_class)
    return client


class _Watchful(AbstractConnection):
    """A connection that notices before it is used again that it was reset meanwhile."""

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        if self._reader is not None and self._reader.exception() is not None:
            await self.disconnect(nowait=True)
        await super().send_packed_command(command, check_health)


def _watchful(connection_class: Any) -> Any:
    """The same kind of connection, watchful."""
    return type("WatchfulConnection", (_Watchful, connection_class), {})


async def close_client(client: Client) -> None:
    """Close its connections, those to sentinels too."""
    await client.aclose()
    pool = getattr(client, "connection_pool", None)
    if isinstance(pool, SentinelConnectionPool):
        for sentinel in pool.sentinel_manager.sentinels:
            await sentinel.aclose()


def hang_up(client: Client) -> None:
    """Close its connections at once, though their loop may have been closed."""
    for connection in _connections(client):
        writer, connection._writer = connection._writer, None
        if writer is not None:
            close_transport(writer.transport)
    if isinstance(client, RedisCluster):
        client._initialize = True  # as after its own end


def _connections(client: Client) -> list[AbstractConnection]:
    """All that it has open: redis-py itself closes them in a running loop only."""
    if isinstance(client, RedisCluster):
        known = (client.nodes_manager.nodes_cache, client.nodes_manager.startup_nodes)
        return [connection for nodes in known for node in nodes.values() for connection in node._connections]
    pool = client.connection_pool
    sentinels = pool.sentinel_manager.sentinels if isinstance(pool, SentinelConnectionPool) else ()
    others = [connection for sentinel in sentinels for connection in _connections(sentinel)]
    return [*pool._available_connections, *pool._in_use_connections, *others]


async def open_subscriber(settings: RedisConfig) -> Redis:
    """A client for subscriptions: in a cluster, of the node that has the project's keys."""
    client = open_client(settings)
    if not isinstance(client, RedisCluster):
        return client
    try:
        await client.initialize()
        node = client.get_node_from_key(settings.namespace)
        if node is None:
            raise redis_errors.ClusterDownError("no node has the project's keys")
        return Redis(host=node.host, port=int(node.port), **_options(settings))
    finally:
        await close_client(client)


def _options(settings: RedisConfig) -> dict[str, Any]:
    encryption = {
        "ssl": True,
        "ssl_ca_certs": settings.ssl_ca_certs,
        "ssl_certfile": settings.ssl_certfile,
        "ssl_keyfile": settings.ssl_keyfile,
    }
    return {
        "username": settings.username,
        "password": settings.password,
        "socket_timeout": settings.timeout,
        "socket_connect_timeout": settings.timeout,
        "retry": Retry(NoBackoff(), RETRIES),
        "protocol": 2,
        **(encryption if settings.ssl else {}),
    }


class Server(Struct, frozen=True):
    """What a server says of itself; None where it doesn't."""

    version: str
    evicts: str | None
    """What it does when memory is short: noeviction, or what it drops."""
    appends: bool | None
    """Whether it writes an append-only file."""
    syncs: str | None
    """When it syncs that: always, everysec or no."""

    @property
    def guarantees(self) -> Guarantees:
        """What that amounts to. What isn't known isn't promised."""
        appends = self.appends is True
        return Guarantees(
            survives_process_kill=appends,
            survives_power_loss=appends and self.syncs == "always",
            survives_failover=False,  # replication is asynchronous
            clock="server",
            push=True,
            atomic_results=True,
            evidence=(
                f"version={self.version}",
                f"appendonly={_said(self.appends)}",
                f"appendfsync={_said(self.syncs)}",
                f"maxmemory-policy={_said(self.evicts)}",
            ),
        )

    @property
    def warnings(self) -> list[str]:
        """What its operator should know."""
        found = []
        if self.appends is False:
            found.append("it keeps no append-only file: what is acknowledged dies with it; set appendonly yes")
        if self.evicts not in (None, "noeviction"):
            found.append(f"it drops tasks when memory is short: set maxmemory-policy noeviction, not {self.evicts}")
        return found


def _said(value: str | bool | None) -> str:
    return "unknown" if value is None else str(value)


async def ask_server(client: Client, namespace: str) -> Server:
    """What the server that holds the keys says of itself."""
    node = await node_of(client, namespace)
    info = await client.execute_command("INFO", **node)
    settings: dict[str, str] = {}
    with suppress(redis_errors.ResponseError):  # managed servers and narrow ACLs forbid it
        settings = await client.execute_command("CONFIG GET", "appendfsync", **node)
    return Server(
        version=str(info.get("valkey_version", info.get("redis_version"))),
        evicts=info.get("maxmemory_policy"),
        appends=None if "aof_enabled" not in info else bool(info["aof_enabled"]),
        syncs=settings.get("appendfsync"),
    )


async def node_of(client: Client, namespace: str) -> dict[str, Any]:
    """The options that send a command to the node that has the namespace's keys."""
    if not isinstance(client, RedisCluster):
        return {}
    await client.initialize()
    return {"target_nodes": client.get_node_from_key(namespace)}
