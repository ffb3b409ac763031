"""What a plugin declares: frozen, and made of names and import strings, so that listing plugins costs nothing.

An import string is `"package.module:Name"`. A malformed spec raises `ValueError` where it is made, which
marks its plugin as broken.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import ClassVar, Literal, TypeAlias

from msgspec import Struct

StoreKind: TypeAlias = Literal["task_queue", "result_store", "event_store"]
Kind: TypeAlias = Literal["task_queue", "result_store", "event_store", "worker", "command"]

Status: TypeAlias = Literal["active", "broken", "incompatible", "conflict", "disabled"]

By: TypeAlias = Literal["name", "URL scheme"]
Claim: TypeAlias = tuple[Kind, By, str]

_NAME = re.compile(r"[a-z][a-z0-9_.+-]*")
_IMPORT = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


class Spec(Struct, frozen=True):
    """What all specs have."""

    kind: ClassVar[Kind]
    imports: ClassVar[tuple[str, ...]]
    """The fields that hold import strings."""

    name: str
    """The name under which configuration and commands know it: lower case, such as "sqlite"."""

    @classmethod
    def title(cls) -> str:
        """What such a thing is called."""
        return cls.kind.replace("_", " ")

    @property
    def names(self) -> tuple[str, ...]:
        """All names by which it is found."""
        return (self.name, *getattr(self, "aliases", ()))

    @property
    def schemes(self) -> tuple[str, ...]:
        """The URL schemes by which it is found."""
        return getattr(self, "url_schemes", ())

    @property
    def claims(self) -> Iterator[Claim]:
        """What it is found by, for each of which there is one owner only."""
        yield from ((self.kind, "name", name) for name in self.names)
        yield from ((self.kind, "URL scheme", scheme) for scheme in self.schemes)

    def __post_init__(self) -> None:
        for name in (*self.names, *self.schemes):
            self._check(_NAME, name, "a lower-case name such as 'sqlite'")
        for field in self.imports:
            self._check(_IMPORT, getattr(self, field), "an import string 'package.module:Name'")
        self._check(re.compile(".*"), getattr(self, "help", ""), "a line of help")

    def _check(self, pattern: re.Pattern[str], text: object, expected: str) -> None:
        if not isinstance(text, str) or pattern.fullmatch(text) is None:
            raise ValueError(f"{type(self).__name__}: expected {expected}, got {text!r}")


class StoreSpec(Spec, frozen=True):
    """A store and how it is configured."""

    kind: ClassVar[StoreKind]
    imports: ClassVar[tuple[str, ...]] = ("store", "config")

    store: str
    """The class that implements the contract, and declares its capabilities; it is called with one `config` struct."""
    config: str
    """The struct that configures it: a subclass of `omniq.models.config.ComponentConfig`."""
    aliases: tuple[str, ...] = ()
    """Further names."""
    url_schemes: tuple[str, ...] = ()
    """The schemes of the URLs that `config.from_url` understands, such as ("postgresql", "postgres")."""


class TaskQueueSpec(StoreSpec, frozen=True):
    """A task queue: `store` is a `BaseTaskQueue`, `config` a `TaskQueueConfig`."""

    kind: ClassVar[StoreKind] = "task_queue"


class ResultStoreSpec(StoreSpec, frozen=True):
    """A result store: `store` is a `BaseResultStorage`, `config` a `ResultStorageConfig`."""

    kind: ClassVar[StoreKind] = "result_store"


class EventStoreSpec(StoreSpec, frozen=True):
    """An event store: `store` is a `BaseEventStorage`, `config` an `EventStorageConfig`."""

    kind: ClassVar[StoreKind] = "event_store"


class WorkerSpec(Spec, frozen=True):
    """A way to run tasks; one class serves blocking and async use."""

    kind: ClassVar[Kind] = "worker"
    imports: ClassVar[tuple[str, ...]] = ("worker_class",)

    worker_class: str
    """A subclass of `omniq.workers.base.Worker`."""
    aliases: tuple[str, ...] = ()
    """Further names."""


class CommandSpec(Spec, frozen=True):
    """A sub-command of `omniq`."""

    kind: ClassVar[Kind] = "command"
    imports: ClassVar[tuple[str, ...]] = ("command",)

    command: str
    """A `click.Command`."""
    help: str = ""
    """The line that `omniq --help` shows beside its name."""


STORES: Mapping[StoreKind, type[StoreSpec]] = {t.kind: t for t in (TaskQueueSpec, ResultStoreSpec, EventStoreSpec)}
TYPES: Mapping[Kind, type[Spec]] = {**dict(STORES.items()), "worker": WorkerSpec, "command": CommandSpec}
HOOKS: Mapping[str, type[Spec]] = {f"omniq_{kind}s": type_ for kind, type_ in TYPES.items()}


APPLICATION = "the application"


class PluginRecord(Struct, frozen=True):
    """A plugin and what became of it."""

    name: str
    """The name of its entry point, or under which it was registered."""
    distribution: str
    """The one that declares it; `APPLICATION` if it was registered."""
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
