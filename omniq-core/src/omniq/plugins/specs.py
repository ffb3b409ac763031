"""What a plugin declares: frozen, and made of names and import strings, so that listing plugins costs nothing.

An import string is `"package.module:Name"`. A malformed spec raises `ValueError` where it is made, which
marks its plugin as broken.
"""

from __future__ import annotations

import re
from typing import ClassVar, Literal, TypeAlias

from msgspec import Struct

StoreKind: TypeAlias = Literal["task_queue", "result_store", "event_store"]
Kind: TypeAlias = Literal["task_queue", "result_store", "event_store", "worker", "command"]

_NAME = re.compile(r"[a-z][a-z0-9_.+-]*")
_IMPORT = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


class Spec(Struct, frozen=True):
    """What all specs have."""

    kind: ClassVar[Kind]
    title: ClassVar[str]

    name: str
    """The name under which configuration and commands know it: lower case, such as "sqlite"."""

    @property
    def names(self) -> tuple[str, ...]:
        """All names by which it is found."""
        return (self.name,)

    @property
    def schemes(self) -> tuple[str, ...]:
        """The URL schemes by which it is found."""
        return ()


class StoreSpec(Spec, frozen=True):
    """A store and how it is configured."""

    kind: ClassVar[StoreKind]

    store: str
    """The class that implements the contract; it is called with one `config` struct."""
    config: str
    """The struct that configures it: a subclass of `omniq.models.config.ComponentConfig`."""
    aliases: tuple[str, ...] = ()
    url_schemes: tuple[str, ...] = ()
    """The schemes of the URLs that `config.from_url` understands, such as ("postgresql", "postgres")."""
    capabilities: frozenset[str] = frozenset()
    """What it declares among `omniq.storage.capabilities.Capability`, to be seen without an import."""
    async_class: str | None = None
    """The component's own async class, if it has one; a third party needs none."""
    blocking_class: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name, *self.aliases)

    @property
    def schemes(self) -> tuple[str, ...]:
        return self.url_schemes

    def __post_init__(self) -> None:
        _check_names(self, *self.names, *self.schemes)
        _check_imports(self, self.store, self.config, self.async_class, self.blocking_class)


class TaskQueueSpec(StoreSpec, frozen=True):
    """A task queue: `store` is a `BaseTaskQueue`, `config` a `TaskQueueConfig`."""

    kind: ClassVar[StoreKind] = "task_queue"
    title: ClassVar[str] = "task queue"


class ResultStoreSpec(StoreSpec, frozen=True):
    """A result store: `store` is a `BaseResultStorage`, `config` a `ResultStorageConfig`."""

    kind: ClassVar[StoreKind] = "result_store"
    title: ClassVar[str] = "result store"


class EventStoreSpec(StoreSpec, frozen=True):
    """An event store: `store` is a `BaseEventStorage`, `config` an `EventStorageConfig`."""

    kind: ClassVar[StoreKind] = "event_store"
    title: ClassVar[str] = "event store"


class WorkerSpec(Spec, frozen=True):
    """A way to run tasks; one class serves blocking and async use."""

    kind: ClassVar[Kind] = "worker"
    title: ClassVar[str] = "worker"

    worker_class: str
    aliases: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name, *self.aliases)

    def __post_init__(self) -> None:
        _check_names(self, *self.names)
        _check_imports(self, self.worker_class)


class CommandSpec(Spec, frozen=True):
    """A sub-command of `omniq`: `command` is a `click.Command`."""

    kind: ClassVar[Kind] = "command"
    title: ClassVar[str] = "command"

    command: str
    help: str = ""

    def __post_init__(self) -> None:
        _check_names(self, *self.names)
        _check_imports(self, self.command)


def _check_names(spec: Spec, *names: object) -> None:
    for name in names:
        if not isinstance(name, str) or _NAME.fullmatch(name) is None:
            raise ValueError(f"{type(spec).__name__}: expected a lower-case name such as 'sqlite', got {name!r}")


def _check_imports(spec: Spec, *imports: object) -> None:
    for path in imports:
        if path is not None and (not isinstance(path, str) or _IMPORT.fullmatch(path) is None):
            raise ValueError(f"{type(spec).__name__}: expected an import string 'package.module:Name', got {path!r}")
