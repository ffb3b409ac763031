"""Where the data is: in code, in YAML, in the environment and in URLs."""

from __future__ import annotations

import os
from typing import Any, Self
from urllib.parse import SplitResult, unquote

from msgspec import field
from omniq.config.convert import read_url
from omniq.errors import ConfigError
from omniq.models.config import (
    DEFAULT_MAX_BODY,
    Bytes,
    ComponentConfig,
    EventStorageConfig,
    Name,
    ResultStorageConfig,
    Serializer,
    TaskQueueConfig,
    default_queues,
)

DEFAULT_BASE_DIR = ".omniq"


class ShelfConfig(ComponentConfig, frozen=True, kw_only=True):
    """Which directory.

    Put your own fields here, each with a default: `host`, `port`, `username`, `password`. What has "password", "secret",
    "token" or "key" in its name is masked in reprs and errors. A field named `base_dir` gets OMNIQ_BASE_DIR.
    """

    base_dir: str | None = None
    """The directory in which each project has a file; `.omniq` by default."""

    @property
    def path(self) -> str:
        """The absolute path of the project's file. Two projects must never share a place."""
        file = os.path.join(self.base_dir or DEFAULT_BASE_DIR, f"{self.project}.shelf")
        return os.path.realpath(os.path.expanduser(file))

    @property
    def location(self) -> str:
        """Where that is, without secrets: the same for all who share the place, and for nobody else."""
        return f"shelf:{self.path}"

    @property
    def settings(self) -> ShelfConfig:
        """What a connection needs to know: queue, results and events that agree in this share one."""
        return self.shared(ShelfConfig, base_dir=os.path.dirname(self.path))

    @classmethod
    def from_url(cls, url: str) -> Self:
        """`shelf:///relative/dir` or `shelf:////absolute/dir`; each field can be given as an option: `?name=value`."""
        return read_url(url, cls, _place_of)


def _place_of(parts: SplitResult) -> dict[str, Any]:
    # For a server: {"host": parts.hostname, "port": parts.port, **user_of(parts)}, without those that aren't given.
    if parts.netloc:
        raise ConfigError("url: expected a path and no host, such as shelf:///data")
    return {"base_dir": unquote(parts.path[1:])}


class ShelfTaskQueueConfig(ShelfConfig, TaskQueueConfig, frozen=True, kw_only=True):
    """Where a task queue keeps its tasks. A struct inherits fields from one base, so the queue's stand here again."""

    queues: list[Name] = field(default_factory=default_queues)
    serializer: Serializer = "auto"
    max_body: Bytes = DEFAULT_MAX_BODY


class ShelfResultStorageConfig(ShelfConfig, ResultStorageConfig, frozen=True, kw_only=True):
    """Where a result storage keeps its results."""


class ShelfEventStorageConfig(ShelfConfig, EventStorageConfig, frozen=True, kw_only=True):
    """Where an event storage keeps its events."""
