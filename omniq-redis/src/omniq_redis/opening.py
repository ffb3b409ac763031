"""A client for a server, a cluster or sentinels, what becomes of its errors, and what the server says of itself."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, suppress
from typing import Any, TypeAlias

import msgspec
from omniq.errors import StoreError, StoreFull, StoreUnavailable, ValueRefused
from omniq.loops import close_transport
from omniq.storage import connected
from omniq.storage.base import Guarantees
from omniq.storage.connected import Rule, tls_advice
from omniq.texts import get_logger
from redis import exceptions as redis_errors
from redis.asyncio import Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff

from omniq_redis.config import RedisConfig

Client: TypeAlias = Redis | RedisCluster

RETRIES = 0
"""Nothing is sent twice: after a lost reply only the caller knows whether to ask again."""
TLS_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
UNKNOWN = "unknown"
LONGEST = 512 * 1024 * 1024
"""Bytes of `proto-max-bulk-len` where nobody has changed it."""
SHORTEST = 1024 * 1024
"""Bytes of the smallest one that a server accepts."""
PRECISION = 16 * 1024
"""Bytes by which a limit that was found by trying may be too low."""
TRIES = 3
"""Times that the server must hang up on a string before the string is at fault, and not the network."""

_reported: set[str] = set()
_limits: dict[str, int] = {}
"""By location: bytes of the longest string that the server takes."""

_log = get_logger("omniq.redis")

# ── errors ───────────────────────────────────────────────────────────────────

_REDIS = (redis_errors.RedisError, redis_errors.RedisClusterException)
_PASSING = (
    redis_errors.ConnectionError,
    redis_errors.TimeoutError,
    redis_errors.InvalidResponse,
    redis_errors.ReadOnlyError,
    redis_errors.TryAgainError,
    redis_errors.ClusterDownError,
    redis_errors.NoScriptError,
)
# In scripts, old servers put their codes into the midst of the message.
_PASSING_CODES = r"\b(BUSY|CLUSTERDOWN|LOADING|MASTERDOWN|MISCONF|NOREPLICAS|READONLY|TRYAGAIN)\b"
_RULES: tuple[Rule, ...] = (
    (_REDIS, r"OutOfMemoryError|\bOOM\b", StoreFull),
    (_REDIS, r"exceeds maximum allowed size|proto-max-bulk-len", ValueRefused),
    ((redis_errors.AuthenticationError, redis_errors.AuthorizationError), "", StoreError),
    (_PASSING, "", StoreUnavailable),
    (_REDIS, rf"{_PASSING_CODES}|\bcannot be connected\b|\bProtocol error\b", StoreUnavailable),
    (Exception, r"^hiredis\.", StoreUnavailable),
    ((*_REDIS, msgspec.DecodeError), "", StoreError),
)


def store_errors(settings: RedisConfig) -> AbstractContextManager[None]:
    """Turn what redis-py and the event loop raise into the `StoreError` that it amounts to."""
    return connected.store_errors(settings, _RULES, lambda error: _tls_advice(error, settings))


def _tls_advice(error: BaseException, settings: RedisConfig) -> str | None:
    if not settings.ssl:
        return None
    if isinstance(error, redis_errors.TimeoutError) and "connecting" in str(error):
        return f"{error}: if it does no TLS on this port, leave ssl out (redis://)"
    files = {name: getattr(settings, name) for name in TLS_FILES}
    return tls_advice(error, files, other_host="give a host that is in it")


# ── clients ──────────────────────────────────────────────────────────────────


def open_client(settings: RedisConfig) -> Client:
    """A client for the running loop, which connects at its first command."""
    options = _options(settings)
    if settings.cluster:
        cluster = RedisCluster(startup_nodes=[ClusterNode(*node) for node in settings.addresses], **options)
        cluster.connection_kwargs["connection_class"] = _watchful(cluster.connection_kwargs["connection_class"])
        return cluster
    if settings.unix_socket_path is not None:
        client = Redis(unix_socket_path=settings.unix_socket_path, db=settings.db, **options)
    elif settings.sentinel_master is None:
        host, port = settings.addresses[0]
        client = Redis(host=host, port=port, db=settings.db, **options)
    else:
        own = {"username": settings.sentinel_username, "password": settings.sentinel_password}
        sentinels = Sentinel(settings.addresses, sentinel_kwargs={**options, **own})  # type: ignore[no-untyped-call]
        client = sentinels.master_for(settings.sentinel_master, db=settings.db, **options)
    client.connection_pool.connection_class = _watchful(client.connection_pool.connection_class)
    return client


def _options(settings: RedisConfig) -> dict[str, Any]:
    encryption = {name: getattr(settings, name) for name in ("ssl", *TLS_FILES)}
    return {
        "username": settings.username,
        "password": settings.password,
        "socket_timeout": settings.timeout,
        "socket_connect_timeout": settings.timeout,
        "retry": Retry(NoBackoff(), RETRIES),
        "protocol": 2,
        **(encryption if settings.ssl else {}),
    }


class _Watchful(AbstractConnection):
    """A connection that notices before it is used again that it was reset meanwhile."""

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        if self._reader is not None and self._reader.exception() is not None:
            await self.disconnect(nowait=True)
        await super().send_packed_command(command, check_health)


def _watchful(connection_class: Any) -> Any:
    """The same kind of connection, watchful."""
    return type("WatchfulConnection", (_Watchful, connection_class), {})


def _with_sentinels(client: Client) -> list[Client]:
    """The client, and those of the sentinels that it asks."""
    pool = getattr(client, "connection_pool", None)
    return [client, *(pool.sentinel_manager.sentinels if isinstance(pool, SentinelConnectionPool) else ())]


async def close_client(client: Client) -> None:
    """Close its connections, those to sentinels too."""
    for each in _with_sentinels(client):
        await each.aclose()


def hang_up(client: Client) -> None:
    """Close its connections at once, though their loop may have been closed."""
    for connection in [connection for each in _with_sentinels(client) for connection in _connections(each)]:
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
    return [*pool._available_connections, *pool._in_use_connections]


# ── what the server says ─────────────────────────────────────────────────────


class Server:
    """The server that holds a project's keys. Its methods raise `StoreUnavailable` or `StoreError`."""

    def __init__(self, client: Client, settings: RedisConfig) -> None:
        self._client = client
        self._settings = settings

    async def node(self) -> ClusterNode | None:
        """In a cluster, the node that has the keys. Raises what redis-py raises."""
        if not isinstance(self._client, RedisCluster):
            return None
        await self._client.initialize()
        node = self._client.get_node_from_key(self._settings.namespace)
        if node is None:
            raise redis_errors.ClusterDownError("no node has the project's keys")
        return node

    async def _ask(self, *command: str | bytes) -> Any:
        node = await self.node()
        return await self._client.execute_command(*command, **({} if node is None else {"target_nodes": node}))

    async def _set_to(self) -> dict[str, str]:
        """What it is set to."""
        with suppress(redis_errors.ResponseError):  # managed servers and narrow ACLs forbid it
            return dict(await self._ask("CONFIG GET", "*"))
        return {}

    async def _facts(self) -> dict[str, str]:
        """Its version, and the settings on which it depends what survives."""
        with store_errors(self._settings):
            info, settings = await self._ask("INFO"), await self._set_to()
        return {
            "version": str(info.get("valkey_version", info.get("redis_version"))),
            "appendonly": {0: "no", 1: "yes"}.get(info.get("aof_enabled"), UNKNOWN),
            "appendfsync": settings.get("appendfsync", UNKNOWN),
            "maxmemory-policy": info.get("maxmemory_policy", UNKNOWN),
        }

    async def guarantees(self) -> Guarantees:
        """What can be relied upon."""
        return _guarantees_of(await self._facts())

    async def report(self) -> None:
        """Log once what can be relied upon, and what the server's operator should know."""
        location = self._settings.location
        if location in _reported:
            return
        _reported.add(location)
        facts = await self._facts()
        policy = facts["maxmemory-policy"]
        _log.info("%s: version %s, %s", location, facts["version"], _guarantees_of(facts))
        if facts["appendonly"] == "no":
            _log.warning("%s: it keeps no append-only file: what it holds dies with it; set appendonly yes", location)
        if policy not in ("noeviction", UNKNOWN):
            _log.warning("%s: out of memory, it drops tasks: set maxmemory-policy noeviction, not %s", location, policy)

    async def learn_limit(self) -> bool:
        """Ask for the longest string that it takes; whether it may be asked."""
        with store_errors(self._settings):
            limit = (await self._set_to()).get("proto-max-bulk-len")
        if limit is not None:
            _limits[self._settings.location] = int(limit)
        return limit is not None

    async def explain_cut(self, size: int) -> None:
        """See whether it hangs up on strings of that size, without a word, so that a repeat is split."""
        for _ in range(TRIES if size > SHORTEST else 0):
            with suppress(StoreError):  # the client's connections may have been cut off too
                if not await self.learn_limit():
                    await self._find_limit(size)
                return

    async def _find_limit(self, size: int) -> None:
        """Try, if it doesn't take a string of that size, which one it takes."""
        if await self._takes(size) or not await self._takes(0):
            return
        low, high = SHORTEST, size
        while high - low > PRECISION:
            middle = (low + high) // 2
            low, high = (middle, high) if await self._takes(middle) else (low, middle)
        _limits[self._settings.location] = low

    async def _takes(self, size: int) -> bool:
        for _ in range(TRIES):
            with suppress(StoreUnavailable, ValueRefused), store_errors(self._settings):
                with suppress(redis_errors.NoPermissionError):  # it was read, though it may not be said
                    await self._ask("ECHO", bytes(size))
                return True
        return False


def limit_of(location: str) -> int:
    """Bytes of the longest string that the server there takes, as far as is known."""
    return _limits.get(location, LONGEST)


def _guarantees_of(facts: Mapping[str, str]) -> Guarantees:
    """What can be relied upon. What isn't known isn't promised."""
    appends = facts["appendonly"] == "yes"
    return Guarantees(
        survives_process_kill=appends,
        survives_power_loss=appends and facts["appendfsync"] == "always",
        survives_failover=False,  # replication is asynchronous
        clock="server",
        push=True,
        atomic_results=True,
        evidence=tuple(f"{name}={value}" for name, value in facts.items()),
    )
