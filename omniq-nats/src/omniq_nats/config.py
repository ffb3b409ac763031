"""The configuration of the NATS components: which servers, how to talk to them, and who one is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Self
from urllib.parse import SplitResult, quote, urlsplit

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

DEFAULT_PORT = 4222

Port = Annotated[int, Meta(ge=1, le=65_535)]
Replicas = Annotated[int, Meta(ge=1, le=5)]
Prefix = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}\Z")]

_EXPECTED = (
    "expected nats://user:password@host:port, nats://host,host:port for some servers of a cluster, tls:// for TLS"
)


class NATSConfig(ComponentConfig, frozen=True, kw_only=True):
    """Which servers, and how to talk to them. Each project has a stream of its own."""

    host: str = "localhost"
    port: Port = DEFAULT_PORT
    servers: Sequence[str] = ()
    """Some servers of a cluster, as "host:port"; by default `host` and `port`."""
    username: str | None = None
    password: str | None = None
    token: str | None = None
    credentials: str | None = None
    """A file with a user's JWT and seed, as `nsc` writes it (".creds")."""
    nkey_seed: str | None = None
    """A file with a user's nkey seed."""
    ssl: bool = False
    """Insist on TLS, and verify the server's certificate."""
    ssl_ca_certs: str | None = None
    """A file of certificates to trust, besides the system's."""
    ssl_certfile: str | None = None
    ssl_keyfile: str | None = None
    """This client's own certificate and its key, where the server asks for one."""
    prefix: Prefix = "omniq"
    """What the names of streams and subjects begin with, before the project's name."""
    replicas: Replicas = 1
    """On how many servers of a cluster the stream is kept, once it is created: 3 survive the loss of one."""
    monitor_url: str | None = None
    """Where the server tells of itself, such as "http://localhost:8222", to learn how often it syncs to disk."""
    timeout: Positive = 10.0
    """Seconds to wait for the server's answer before `StoreUnavailable`."""

    def __post_init__(self) -> None:
        for address in self.servers:
            _server(address, "servers: expected addresses such as 'localhost:4222'")
        given = [name for name in ("username", "token", "credentials", "nkey_seed") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ConfigError(f"{given[1]}: give either this or {given[0]}: both say who one is")
        if self.password is not None and self.username is None:
            raise ConfigError("password: give username, too; or token alone")
        make_absolute(self, "credentials", "nkey_seed", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile")

    @property
    def addresses(self) -> tuple[str, ...]:
        """The servers, as "host:port"."""
        given = [_server(address, "servers") for address in self.servers] or [(self.host.lower(), self.port)]
        return tuple(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in given)

    @property
    def subject(self) -> str:
        """What the project's subjects begin with: two projects never share one."""
        return f"{self.prefix}.{quote(self.project, safe='').replace('.', '%2E')}"

    @property
    def stream(self) -> str:
        """The stream's name: up to its first dash is the prefix, so that two projects never share one."""
        prefix, _, project = self.subject.partition(".")
        return f"{prefix.replace('-', '%2D')}-{project}"

    @property
    def settings(self) -> NATSConfig:
        """What a connection needs to know; stores with equal settings share their connections."""
        return self.shared(NATSConfig, host=self.host.lower(), servers=tuple(self.servers))

    @property
    def location(self) -> str:
        """Where it is, without a secret."""
        return f"nats:{','.join(sorted(self.addresses))}/{self.stream}"

    @classmethod
    def from_url(cls, url: str) -> Self:
        """`nats://user:password@host:port`, with `tls` for TLS; the other fields are options: `?replicas=3`.

        A user without a password is a token. `nats://host,host:port` names some servers of a cluster. Raises
        `ConfigError` for anything else.
        """
        return read_url(url, cls, _place_of)


class NATSTaskQueueConfig(NATSConfig, TaskQueueConfig, frozen=True, kw_only=True):
    """Where a NATS task queue keeps its tasks. It adds the queues to the fields of `NATSConfig`."""

    queues: list[Name] = field(default_factory=default_queues)
    serializer: Serializer = "auto"
    max_body: Bytes = DEFAULT_MAX_BODY


class NATSResultStorageConfig(NATSConfig, ResultStorageConfig, frozen=True, kw_only=True):
    """Where a NATS result storage keeps its results. The fields are those of `NATSConfig`."""


def _server(address: str, otherwise: str) -> tuple[str, int]:
    """Host and port of an address such as `host:4222`. Raises `ConfigError` with that message."""
    parts = urlsplit(f"//{address}")
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if host is None or parts.netloc != address or set("@,") & set(address):
        raise ConfigError(otherwise)
    return host, port or DEFAULT_PORT


def _place_of(parts: SplitResult) -> dict[str, Any]:
    """Servers and user, as far as they are given."""
    if parts.scheme not in ("nats", "tls") or parts.path.strip("/"):
        raise ConfigError(f"url: {_EXPECTED}")
    given: dict[str, Any] = {"ssl": parts.scheme == "tls"}
    servers = [urlsplit(f"//{server}") for server in parts.netloc.split(",") if server]
    user = next(filter(None, map(user_of, servers)), {})
    given |= {"token": user["username"]} if "username" in user and "password" not in user else user
    hosts = list(map(hosts_of, servers))
    found = [_server(host, f"url: {_EXPECTED}") for host in hosts]
    if len(found) > 1:
        return {**given, "servers": hosts}
    return given | {name: value for host in found for name, value in zip(("host", "port"), host, strict=True)}
