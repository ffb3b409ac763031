"""The configuration of the LMDB components: which folder, and how large it may become."""

from __future__ import annotations

import os
from typing import Self
from urllib.parse import unquote

from omniq.config.urls import read_url
from omniq.models.config import EventStorageConfig, ResultStorageConfig, TaskQueueConfig

DEFAULT_BASE_DIR = ".omniq"
GIB = 1 << 30


class LMDBConfig:
    """What the three configurations do with the fields they share."""

    __slots__ = ()

    base_dir: str | None
    max_size: int
    project: str

    @property
    def path(self) -> str:
        """The absolute path of the project's folder."""
        folder = os.path.join(self.base_dir or DEFAULT_BASE_DIR, f"{self.project}.lmdb")
        return os.path.realpath(os.path.expanduser(folder))

    @classmethod
    def from_url(cls, url: str) -> Self:
        """`lmdb:///relative/dir` or `lmdb:////absolute/dir`, with `?max_size=BYTES` if wanted."""
        return read_url(url, cls, lambda parts: {"base_dir": unquote(parts.path[1:])})


class LMDBTaskQueueConfig(LMDBConfig, TaskQueueConfig, frozen=True, kw_only=True):
    """Where an LMDB task queue keeps its tasks."""

    base_dir: str | None = None
    """The directory in which each project has a folder; `.omniq` by default."""
    max_size: int = 16 * GIB
    """Bytes to which the file may grow; it takes only what it holds."""


class LMDBResultStorageConfig(LMDBConfig, ResultStorageConfig, frozen=True, kw_only=True):
    """Where an LMDB result storage keeps its results."""

    base_dir: str | None = None
    max_size: int = 16 * GIB


class LMDBEventStorageConfig(LMDBConfig, EventStorageConfig, frozen=True, kw_only=True):
    """Where an LMDB event storage keeps its events."""

    base_dir: str | None = None
    max_size: int = 16 * GIB
