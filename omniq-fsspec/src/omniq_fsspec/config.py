"""The configuration of the components on files and in memory: where they keep what, and how it is reached."""

from __future__ import annotations

import os
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, Final, Self
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode

import msgspec
from msgspec import Struct, field
from omniq.config.convert import read_url, url_scheme
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
    make_absolute,
    mask_url,
)
from omniq.texts import did_you_mean

DEFAULT_BASE_DIR: Final = ".omniq"
SURELY: Final = 0.9
"""How much alike an option and a field of ours are, of 1, if the field was meant: `project` isn't `project_name`."""
ENDPOINTS: Final = ("endpoint_url", "account_name", "account_host")
"""Storage options that say which server is meant."""


BUCKETS: Final = ("s3", "gs", "gcs", "abfs", "abfss", "az")
"""Kinds of filesystems whose URLs name a bucket, or a container, first."""


class Address(Struct, frozen=True):
    """Where a project's files are, and how they are reached: the key of what its stores share."""

    root: str
    """The project's own folder: an absolute path, or a URL of fsspec's."""
    options: str = "{}"
    """fsspec's storage options, as JSON."""
    fsync: bool = True
    trust_owner: bool = False

    def __repr__(self) -> str:
        return f"Address({self.location!r})"

    @property
    def protocol(self) -> str:
        """What fsspec calls the kind of filesystem."""
        return self.root.partition("://")[0] if "://" in self.root else "file"

    @property
    def is_memory(self) -> bool:
        """Whether it is in this process's memory."""
        return self.protocol == "memory"

    @property
    def is_networked(self) -> bool:
        """Whether others than this machine's users may reach it."""
        return self.protocol not in ("file", "memory")

    @property
    def storage_options(self) -> dict[str, Any]:
        """What fsspec is told besides the URL."""
        return msgspec.json.decode(self.options, type=dict[str, Any])

    @property
    def location(self) -> str:
        """As `Store.location`."""
        if "://" not in self.root:
            return f"file:{self.root}"
        server = [str(self.storage_options[name]) for name in ENDPOINTS if name in self.storage_options]
        return " at ".join([mask_url(self.root), *map(mask_url, server)])


class FileConfig(ComponentConfig, frozen=True, kw_only=True):
    """Where the files are. Each project has a folder of its own there."""

    base_dir: str | None = None
    """A directory, `.omniq` by default; "~" is the home directory. Or a URL that fsspec knows, such as
    "s3://bucket/prefix"."""
    storage_options: dict[str, Any] = field(default_factory=dict)
    """What fsspec is told besides, such as `{"key": …, "secret": …}`; plain data only."""
    fsync: bool = True
    """On local disks: whether what is acknowledged survives a loss of power, not only the death of every process."""
    trust_owner: bool = False
    """Use a local directory though it belongs to another user, who then decides what workers run."""

    def __post_init__(self) -> None:
        scheme, is_url, place = (self.base_dir or "").partition("://")
        is_nowhere = not place.strip("/") or (scheme in BUCKETS and place.startswith("/"))
        if self.base_dir == "/" or (is_url and is_nowhere):
            raise ConfigError(f"base_dir: expected a directory or s3://bucket/prefix, got {self.base_dir!r}")
        try:
            msgspec.json.encode(self.storage_options)
        except (TypeError, msgspec.MsgspecError) as error:
            raise ConfigError(f"storage_options: expected plain data, such as text and numbers: {error}") from None
        make_absolute(self, "base_dir")

    @property
    def asks_for(self) -> tuple[str, ...]:
        return ("survives_power_loss",) if self.fsync else ()

    @property
    def settings(self) -> Address:
        """What a connection needs to know; stores with equal settings share their connections.

        Symbolic links are resolved here and never again, so that none that is put there later is followed.
        """
        base = self.base_dir or DEFAULT_BASE_DIR
        if "://" not in base:
            base = os.path.realpath(base)
        options = msgspec.json.encode(self.storage_options, order="sorted").decode()
        return Address(f"{base.rstrip('/')}/{self.project}", options, self.fsync, self.trust_owner)

    @classmethod
    def from_url(cls, url: str) -> Self:
        """`file:///absolute/path`, `s3://bucket/prefix`, `abfs://…`, `gs://…`.

        Of its query, what is no field of this configuration is a storage option, as in
        `s3://bucket/prefix?endpoint_url=http://host:8333`. Raises `ConfigError`, for what is nearly one, too.
        """
        url_scheme(url)
        place, _, query = url.partition("?")
        given = parse_qsl(query, keep_blank_values=True)
        own = urlencode([(name, value) for name, value in given if name in cls.__struct_fields__])
        options = {name: value for name, value in given if name not in cls.__struct_fields__}
        for name in options:
            if meant := get_close_matches(name, cls.__struct_fields__, n=1, cutoff=SURELY):
                raise ConfigError(f"url.{name}: unknown name, did you mean {meant[0]!r}?")
        return read_url(f"{place}?{own}" if own else place, cls, lambda parts: _place_of(parts, options))


def _place_of(parts: SplitResult, options: Mapping[str, str]) -> dict[str, Any]:
    if parts.scheme != "file":
        _check_protocol(parts.scheme)
        return {"base_dir": f"{parts.scheme}://{parts.netloc}{parts.path}", "storage_options": options}
    if parts.netloc or not parts.path.strip("/"):
        raise ConfigError("url: expected file:///absolute/path; for a relative one, give base_dir instead")
    return {"base_dir": unquote(parts.path), **options}


def _check_protocol(scheme: str) -> None:
    """Raise `ConfigError` for a protocol that fsspec doesn't know, installed or not."""
    from fsspec.registry import available_protocols  # only who has such a URL pays for it

    if scheme not in available_protocols():
        raise ConfigError(f"url: fsspec knows no {scheme}://{did_you_mean(scheme, ('file', *BUCKETS))}")


class FileTaskQueueConfig(FileConfig, TaskQueueConfig, frozen=True, kw_only=True):
    """Where a task queue in files keeps its tasks. It adds the queues to the fields of `FileConfig`."""

    queues: list[Name] = field(default_factory=default_queues)
    serializer: Serializer = "auto"
    max_body: Bytes = DEFAULT_MAX_BODY


class FileResultStorageConfig(FileConfig, ResultStorageConfig, frozen=True, kw_only=True):
    """Where a result storage in files keeps its results. The fields are those of `FileConfig`."""


class FileEventStorageConfig(FileConfig, EventStorageConfig, frozen=True, kw_only=True):
    """Where an event storage in files keeps its events. The fields are those of `FileConfig`."""


class MemoryConfig(ComponentConfig, frozen=True, kw_only=True):
    """Which memory: what has the same name and project is shared within a process."""

    base_dir: str = DEFAULT_BASE_DIR
    """A name that says which memory is meant; it is no directory of any disk."""

    @property
    def settings(self) -> Address:
        """What a connection needs to know."""
        return Address(f"memory://{self.base_dir.removeprefix('memory://').strip('/')}/{self.project}")

    @classmethod
    def from_url(cls, url: str) -> Self:
        """`memory://` or `memory://name`. Raises `ConfigError`."""
        return read_url(url, cls, lambda parts: {"base_dir": unquote(parts.netloc + parts.path) or DEFAULT_BASE_DIR})


class MemoryTaskQueueConfig(MemoryConfig, TaskQueueConfig, frozen=True, kw_only=True):
    """Which memory keeps a task queue's tasks. It adds the queues to the fields of `MemoryConfig`."""

    queues: list[Name] = field(default_factory=default_queues)
    serializer: Serializer = "auto"
    max_body: Bytes = DEFAULT_MAX_BODY


class MemoryResultStorageConfig(MemoryConfig, ResultStorageConfig, frozen=True, kw_only=True):
    """Which memory keeps a result storage's results. The fields are those of `MemoryConfig`."""


class MemoryEventStorageConfig(MemoryConfig, EventStorageConfig, frozen=True, kw_only=True):
    """Which memory keeps an event storage's events. The fields are those of `MemoryConfig`."""
