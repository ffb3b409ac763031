"""The configuration of the Redis components: which server, cluster or sentinels, and how to talk to them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Self
from urllib.parse import SplitResult, unquote, urlsplit

from msgspec import Meta, field
from omniq.config.convert import hosts_of, read_url, user_of
from omniq.errors import ConfigError
from omniq.models.config import (
    DEFAULT_MAX_BODY,
    Bytes,
    ComponentConfig,
    Name,
    Positive,
    ResultStorageConfig,
    Serializer,
    TaskQueueConfig,
    default_queues,
    make_absolute,
)

DEFAULT_PORT = 6379

Port = Annotated[int, Meta(ge=1, le=65_535)]
Database = Annotated[int, Meta(ge=0)]
Prefix = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.:/-]{1,64}\Z")]

_EXPECTED = (
    "expected redis://user:password@host:port/db, rediss:// for TLS, "
    "unix:///path/of/socket?db=0, "
    "redis+sentinel://host:port,host:port/master/db or redis+cluster://host:port,host:port"
)


class RedisConfig(ComponentConfig, frozen=True, kw_only=True):
    """Which server, cluster or sentinels, and how to talk to them. The keys of a project are apart from all others."""

    host: str = "localhost"
    port: Port = DEFAULT_PORT
    unix_socket_path: str | None = None
    """The server's Unix socket; it takes the place of host and port."""
    db: Database = 0
    username: str | None = None
    password: str | None = None
    nodes: Sequence[str] = ()
    """Some nodes of a cluster, or the sentinels, as "host:port"; by default `host` and `port`."""
    cluster: bool = False
    """The server is a node of a cluster. A project is kept on one of its nodes."""
    sentinel_master: str | None = None
    """The servers are sentinels, and this is the name of the master they watch over."""
    sentinel_username: str | None = None
    sentinel_password: str | None = None
    ssl: bool = False
    """Encrypt the connection, and verify the server's certificate."""
    ssl_ca_certs: str | None = None
    """A file of certificates to trust, besides the system's."""
    ssl_certfile: str | None = None
    ssl_keyfile: str | None = None
    """This client's own certificate and its key, where the server asks for one."""
    prefix: Prefix = "omniq"
    """What the names of all keys begin with, before the project's name."""
    timeout: Positive = 10.0
    """Seconds to wait for the server's answer before `StoreUnavailable`."""

    def __post_init__(self) -> None:
        if self.unix_socket_path is not None and (self.cluster or self.sentinel_master is not None or self.ssl):
            raise ConfigError(
                "unix_socket_path: leave out cluster, sentinel_master and ssl, or connect by host and port"
            )
        make_absolute(self, "unix_socket_path", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
        if self.cluster and self.sentinel_master is not None:
            raise ConfigError("cluster: sentinels don't watch over clusters: give either this or sentinel_master")
        if self.cluster and self.db:
            raise ConfigError("db: a cluster has no database but 0")
        if self.nodes and not self.cluster and self.sentinel_master is None:
            raise ConfigError("nodes: are those of a cluster or the sentinels: give cluster or sentinel_master too")
        for address in self.nodes:
            _node(address)

    @property
    def addresses(self) -> tuple[tuple[str, int], ...]:
        """Host and port of the server; or of some nodes of the cluster, or of the sentinels."""
        return tuple(map(_node, self.nodes)) or ((self.host.lower(), self.port),)

    @property
    def namespace(self) -> str:
        """What all keys begin with. Its braces keep a project on one node of a cluster."""
        return f"{{{self.prefix}:{self.project}}}:"

    @property
    def settings(self) -> RedisConfig:
        """What a connection needs to know; stores with equal settings share their connections."""
        given = {"host": "", "port": DEFAULT_PORT} if self.unix_socket_path else {"host": self.host.lower()}
        return self.shared(RedisConfig, nodes=tuple(self.nodes), **given)

    @property
    def location(self) -> str:
        """Where it is, without a secret."""
        nodes = self.unix_socket_path or ",".join(f"{host}:{port}" for host, port in sorted(self.addresses))
        kind = "redis+cluster" if self.cluster else "redis+sentinel" if self.sentinel_master else "redis"
        return "/".join(filter(None, [f"{kind}:{nodes}", self.sentinel_master, str(self.db), self.namespace[:-1]]))

    @classmethod
    def from_url(cls, url: str) -> Self:
        """`redis://user:password@host:port/db`, with `rediss` for TLS; the other fields are options: `?timeout=5`.

        `redis+sentinel://host:port,host:port/master/db` names sentinels and the master's name,
        `redis+cluster://host:port,host:port` nodes of a cluster, `unix://user:password@/path?db=1` the server's
        Unix socket. Raises `ConfigError` for anything else.
        """
        return read_url(url, cls, _place_of)


class RedisTaskQueueConfig(RedisConfig, TaskQueueConfig, frozen=True, kw_only=True):
    """Where a Redis task queue keeps its tasks. It adds the queues to the fields of `RedisConfig`."""

    queues: list[Name] = field(default_factory=default_queues)
    serializer: Serializer = "auto"
    max_body: Bytes = DEFAULT_MAX_BODY


class RedisResultStorageConfig(RedisConfig, ResultStorageConfig, frozen=True, kw_only=True):
    """Where a Redis result storage keeps its results. The fields are those of `RedisConfig`."""


def _node(address: str, otherwise: str = "nodes: expected addresses such as 'localhost:6379'") -> tuple[str, int]:
    """Host and port of an address such as `host:6379`. Raises `ConfigError` with that message."""
    parts = urlsplit(f"//{address}")
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if host is None or parts.netloc != address or set("@,") & set(address):
        raise ConfigError(otherwise)
    return host, port or DEFAULT_PORT


def _place_of(parts: SplitResult) -> dict[str, Any]:
    """Nodes, user, database and the kind of server, as far as they are given."""
    transport, _, kind = parts.scheme.partition("+")
    if parts.scheme == "unix":
        return _socket_of(parts)
    if transport not in ("redis", "rediss") or kind not in ("", "sentinel", "cluster"):
        raise ConfigError(f"url: {_EXPECTED}")
    hosts = hosts_of(parts)
    given = {"ssl": transport == "rediss", **user_of(parts)}
    given |= _server(hosts) if kind == "" else {"nodes": [host for host in hosts.split(",") if host]}
    given |= _path_of(kind, [unquote(part) for part in parts.path.split("/")[1:]])
    return {name: value for name, value in given.items() if value}


def _socket_of(parts: SplitResult) -> dict[str, Any]:
    if hosts_of(parts) or not parts.path.strip("/"):
        raise ConfigError(f"url: {_EXPECTED}")
    return {"unix_socket_path": unquote(parts.path), **user_of(parts)}


def _server(address: str) -> dict[str, Any]:
    host, port = _node(address, f"url: {_EXPECTED}") if address else ("", None)
    return {"host": host, "port": port}


def _path_of(kind: str, parts: list[str]) -> dict[str, Any]:
    """What the path says: the database, and before it the name of the sentinels' master."""
    master = parts.pop(0) if kind == "sentinel" and parts else ""
    if kind == "sentinel" and not master:
        raise ConfigError("url: sentinels need the master's name: redis+sentinel://host:port/master")
    if len(parts) > 1:
        raise ConfigError(f"url: {_EXPECTED}")
    return {"cluster": kind == "cluster", "sentinel_master": master, "db": "".join(parts)}
