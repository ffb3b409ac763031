"""The configuration of the PostgreSQL components: which server, database and schema, and how to talk to it."""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, Literal, Self
from urllib.parse import SplitResult, unquote, urlsplit

from msgspec import Meta, field
from msgspec.structs import replace
from omniq.config.convert import hosts_of, read_url, user_of
from omniq.errors import ConfigError
from omniq.models.config import (
    DEFAULT_MAX_BODY,
    DEFAULT_PROJECT,
    Bytes,
    ComponentConfig,
    EventStorageConfig,
    Name,
    Positive,
    ResultStorageConfig,
    Serializer,
    TaskQueueConfig,
    default_queues,
    make_absolute,
)

DEFAULT_SCHEMA = "omniq"
MAX_IDENTIFIER = 63
"""Bytes of a name that PostgreSQL keeps."""

Port = Annotated[int, Meta(ge=1, le=65_535)]
SchemaName = Annotated[str, Meta(pattern=rf"^[A-Za-z_][A-Za-z0-9_.-]{{0,{MAX_IDENTIFIER - 1}}}\Z")]
PoolSize = Annotated[int, Meta(ge=1, le=1000)]
CacheSize = Annotated[int, Meta(ge=0, le=10_000)]
SSLMode = Literal["disable", "allow", "prefer", "require", "verify-ca", "verify-full"]


class PostgresConfig(ComponentConfig, frozen=True, kw_only=True):
    """Which server, database and schema, and how to talk to it. One schema belongs to one project."""

    host: str = "localhost"
    """A name, an address, the directory of a Unix socket, or several of them separated by commas."""
    port: Port = 5432
    username: str = "postgres"
    password: str | None = None
    """Without one, `PGPASSWORD` and `~/.pgpass` are asked."""
    database: str | None = None
    """By default the one that is named as the user."""
    schema: SchemaName | None = None
    """By default `omniq`, or `omniq_{project_name}`; it is created where it is missing."""
    pool_size: PoolSize = 4
    """Connections that an event loop opens at most, beside the one that listens."""
    statement_cache_size: CacheSize | None = None
    """Prepared statements kept per connection; by default 100, and 0 behind a pooler such as pgbouncer."""
    notify: bool | None = None
    """Whether to be woken by LISTEN on a connection of its own; by default yes, but not behind a pooler."""
    timeout: Positive = 30.0
    """Seconds after which a statement, or an attempt to connect, is given up."""
    sslmode: SSLMode | None = None
    """As in libpq, and by default `prefer`."""
    sslrootcert: str | None = None
    sslcert: str | None = None
    sslkey: str | None = None

    def __post_init__(self) -> None:
        make_absolute(self, "sslrootcert", "sslcert", "sslkey")

    @property
    def schema_name(self) -> str:
        """The schema, also where none was given."""
        return self.schema or schema_of(self.project)

    def for_project(self, name: str) -> Self:
        return replace(self, project_name=name, schema=self.schema and schema_of(name, self.schema))

    @property
    def settings(self) -> PostgresConfig:
        """What a connection needs to know; stores with equal settings share their connections."""
        return self.shared(PostgresConfig, schema=self.schema_name, database=self.database or self.username)

    @property
    def location(self) -> str:
        """Where it is, without a secret."""
        return f"postgres:{self.host}:{self.port}/{self.database or self.username}/{self.schema_name}"

    @classmethod
    def from_url(cls, url: str) -> Self:
        """`postgresql://user:password@host:port/database?schema=jobs`; the other fields are options too.

        Several hosts, separated by commas, are tried in turn; `%2Frun%2Fpostgresql` is the directory of a Unix socket.
        Raises `ConfigError` for anything else.
        """
        return read_url(url, cls, _place_of)


class PostgresTaskQueueConfig(PostgresConfig, TaskQueueConfig, frozen=True, kw_only=True):
    """Where a PostgreSQL task queue keeps its tasks. It adds the queues to the fields of `PostgresConfig`."""

    queues: list[Name] = field(default_factory=default_queues)
    serializer: Serializer = "auto"
    max_body: Bytes = DEFAULT_MAX_BODY


class PostgresResultStorageConfig(PostgresConfig, ResultStorageConfig, frozen=True, kw_only=True):
    """Where a PostgreSQL result storage keeps its results. The fields are those of `PostgresConfig`."""


class PostgresEventStorageConfig(PostgresConfig, EventStorageConfig, frozen=True, kw_only=True):
    """Where a PostgreSQL event storage keeps its events. The fields are those of `PostgresConfig`."""


def schema_of(project: str, stem: str = DEFAULT_SCHEMA) -> str:
    """The schema of a project that was given none: `omniq` for the default one, `omniq_shop` for "shop"."""
    if project == DEFAULT_PROJECT:
        return DEFAULT_SCHEMA
    name = f"{stem}_{project}"
    if len(name) <= MAX_IDENTIFIER:
        return name
    digest = hashlib.sha256(project.encode()).hexdigest()[:12]
    return f"{name[: MAX_IDENTIFIER - 13]}_{digest}"


def _host_and_port(text: str) -> tuple[str, int | None]:
    """Of one host. A percent-encoded one is the directory of a Unix socket, whose case counts."""
    one = urlsplit(f"//{text}")
    if "%" not in text:
        return one.hostname or "", one.port
    return unquote(text.removesuffix(f":{one.port}")), one.port


def _place_of(parts: SplitResult) -> dict[str, Any]:
    """Host, port, user and database, as far as they are given."""
    if parts.scheme not in ("postgresql", "postgres"):
        raise ConfigError("url: expected postgresql://user:password@host:port/database")
    hosts = hosts_of(parts)
    host, port = (unquote(hosts), None) if "," in hosts else _host_and_port(hosts)
    if {"/", "@"} & set(parts.path[1:]):
        raise ConfigError("url: '/' and '@' in a password or in a database's name are written as %2F and %40")
    given = {"host": host, "port": port, "database": unquote(parts.path[1:]), **user_of(parts)}
    return {name: value for name, value in given.items() if value}
