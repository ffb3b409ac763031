"""The configuration of the LMDB components: which folder, and how large it may become."""

from __future__ import annotations

import os
from typing import Self
from urllib.parse import unquote

from msgspec import field
from omniq.config.convert import read_url
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
GIB = 1 << 30


class LMDBConfig(ComponentConfig, frozen=True, kw_only=True):
    """Which folder, and how large it may become."""

    base_dir: str | None = None
    """The directory in which each project has a folder; `.omniq` by default."""
    max_size: int = 16 * GIB
    """Bytes to which the file may grow; it takes only what it holds."""

    @property
    def path(self) -> str:
        """The absolute path of the project's folder."""
        folder = os.path.join(self.base_dir or DEFAULT_BASE_DIR, f"{self.project}.lmdb")
        return os.path.realpath(os.path.expanduser(folder))

    @property
    def settings(self) -> LMDBConfig:
        """What an environment needs to know; stores with equal settings share one."""
        return self.shared(LMDBConfig, base_dir=os.path.dirname(self.path))

    @property
    def location(self) -> str:
        """As `Store.location`."""
        return f"lmdb:{self.path}"

    @classmethod
    def from_url(cls, url: str) -> Self:
        """`lmdb:///relative/dir` or `lmdb:////absolute/dir`, with `?max_size=BYTES` if wanted."""
        return read_url(url, cls, lambda parts: {"base_dir": unquote(parts.path[1:])})


class LMDBTaskQueueConfig(LMDBConfig, TaskQueueConfig, frozen=True, kw_only=True):
    """Where an LMDB task queue keeps its tasks."""

    queues: list[Name] = field(default_factory=default_queues)
    serializer: Serializer = "auto"
    max_body: Bytes = DEFAULT_MAX_BODY


class LMDBResultStorageConfig(LMDBConfig, ResultStorageConfig, frozen=True, kw_only=True):
    """Where an LMDB result storage keeps its results."""


class LMDBEventStorageConfig(LMDBConfig, EventStorageConfig, frozen=True, kw_only=True):
    """Where an LMDB event storage keeps its events."""
