"""The configuration of the SQLite components: which file, and how durable its commits are."""

from __future__ import annotations

import os
from typing import Literal, Self
from urllib.parse import SplitResult, unquote

from msgspec import field
from msgspec.structs import replace
from omniq.config.convert import read_url
from omniq.errors import ConfigError
from omniq.models.config import (
    DEFAULT_MAX_BODY,
    Bytes,
    ComponentConfig,
    EventStorageConfig,
    Name,
    NotNegative,
    ResultStorageConfig,
    Serializer,
    TaskQueueConfig,
    absolute,
    default_queues,
    make_absolute,
)

DEFAULT_BASE_DIR = ".omniq"

Synchronous = Literal["FULL", "NORMAL"]


class SQLiteConfig(ComponentConfig, frozen=True, kw_only=True):
    """Which file, and how durable its commits are. One file belongs to one project."""

    base_dir: str | None = None
    """The directory in which the project has its file, `.omniq` by default; "~" is the home directory."""
    path: str | None = None
    """The file itself; it wins over `base_dir`."""
    synchronous: Synchronous = "FULL"
    """FULL: a commit survives a power loss; NORMAL: the death of the process only, but it's faster."""
    busy_timeout: NotNegative = 10.0
    """Seconds to wait for another process's write lock before `StoreUnavailable`."""
    trust_owner: bool = False
    """Use the file though it or its directory belongs to another user, who then decides what workers run."""

    def __post_init__(self) -> None:
        if self.path is not None and (self.path in ("", ":memory:") or self.path.startswith("file:")):
            raise ConfigError(
                f"path: {self.path!r} isn't the name of a file. A database in memory belongs to one connection, "
                f'and a queue needs several: use the backend "memory", or give a file'
            )
        make_absolute(self, "base_dir", "path")

    @property
    def file(self) -> str:
        """The absolute path of the database: `path`, else `{base_dir}/{project_name}.db`."""
        path = self.path or os.path.join(self.base_dir or DEFAULT_BASE_DIR, f"{self.project}.db")
        return absolute(path)

    @property
    def settings(self) -> SQLiteConfig:
        """What a connection needs to know; stores with equal settings share their connections.

        Symbolic links are resolved here and never again, so that none that is put there later is followed.
        """
        return self.shared(SQLiteConfig, base_dir=None, path=os.path.realpath(self.file))

    @property
    def location(self) -> str:
        """As `Store.location`."""
        return f"sqlite:{self.file}"

    @property
    def asks_for(self) -> tuple[str, ...]:
        return ("survives_power_loss",) if self.synchronous == "FULL" else ()

    def for_project(self, name: str) -> Self:
        stem, end = os.path.splitext(self.path or "")
        return replace(self, project_name=name, path=f"{stem}-{name}{end}" if self.path else None)

    @classmethod
    def from_url(cls, url: str) -> Self:
        """`sqlite:///relative/file.db` or `sqlite:////absolute/file.db`, with `?synchronous=NORMAL` if wanted.

        Raises `ConfigError` for anything else.
        """
        return read_url(url, cls, _place_of)


class SQLiteTaskQueueConfig(SQLiteConfig, TaskQueueConfig, frozen=True, kw_only=True):
    """Where a SQLite task queue keeps its tasks. It adds the queues to the fields of `SQLiteConfig`."""

    queues: list[Name] = field(default_factory=default_queues)
    serializer: Serializer = "auto"
    max_body: Bytes = DEFAULT_MAX_BODY


class SQLiteResultStorageConfig(SQLiteConfig, ResultStorageConfig, frozen=True, kw_only=True):
    """Where a SQLite result storage keeps its results. The fields are those of `SQLiteConfig`."""


class SQLiteEventStorageConfig(SQLiteConfig, EventStorageConfig, frozen=True, kw_only=True):
    """Where a SQLite event storage keeps its events. The fields are those of `SQLiteConfig`."""


def _place_of(parts: SplitResult) -> dict[str, str]:
    if parts.scheme != "sqlite" or parts.netloc:
        raise ConfigError("url: expected sqlite:///relative/file.db or sqlite:////absolute/file.db")
    return {"path": unquote(parts.path[1:])}
