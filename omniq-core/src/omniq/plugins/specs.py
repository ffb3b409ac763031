"""What a plugin declares: frozen, and made of names and import strings, so that listing plugins costs nothing.

An import string is `"package.module:Name"`. A malformed spec raises `ValueError` where it is made, which
marks its plugin as broken.
"""

from __future__ import annotations

import re
from typing import ClassVar, Literal, Protocol, TypeAlias

from msgspec import Struct

StoreKind: TypeAlias = Literal["task_queue", "result_store", "event_store"]
Kind: TypeAlias = Literal["task_queue", "result_store", "event_store", "worker", "command"]

Status: TypeAlias = Literal["active", "broken", "incompatible", "conflict", "disabled"]

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
    """The class that implements the contract, and declares its capabilities; it is called with one `config` struct."""
    config: str
    """The struct that configures it: a subclass of `omniq.models.config.ComponentConfig`."""
    aliases: tuple[str, ...] = ()
    url_schemes: tuple[str, ...] = ()
    """The schemes of the URLs that `config.from_url` understands, such as ("postgresql", "postgres")."""

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name, *self.aliases)

    @property
    def schemes(self) -> tuple[str, ...]:
        return self.url_schemes

    def __post_init__(self) -> None:
        _check_names(self, *self.names, *self.schemes)
        _check_imports(self, self.store, self.config)


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
        if not isinstance(path, str) or _IMPORT.fullmatch(path) is None:
            raise ValueError(f"{type(spec).__name__}: expected an import string 'package.module:Name', got {path!r}")


class PluginRecord(Struct, frozen=True, kw_only=True):
    """An installed plugin and what became of it."""

    name: str
    """The name of its entry point."""
    distribution: str
    version: str
    value: str
    """The module that its entry point names."""
    status: Status = "active"
    """`broken`: it can't be loaded; `incompatible`: written for another version of the hooks; `conflict`:
    something else has its name, or one that it provides; `disabled`: by OMNIQ_DISABLE_PLUGINS."""
    error: str | None = None
    """Why it isn't active."""
    specs: tuple[Spec, ...] = ()
    """What it provides, or would if it were active, as far as that is known."""

    def __str__(self) -> str:
        return f"plugin {self.name!r} ({self.distribution} {self.version})"


class Distribution(Protocol):
    """The part of `importlib.metadata.Distribution` that is used."""

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str: ...


class EntryPoint(Protocol):
    """The part of `importlib.metadata.EntryPoint` that is used."""

    @property
    def name(self) -> str: ...

    @property
    def value(self) -> str: ...

    @property
    def dist(self) -> Distribution | None: ...

    def load(self) -> object: ...
