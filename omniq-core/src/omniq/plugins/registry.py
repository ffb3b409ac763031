"""The registry: names and URL schemes on one side, what plugins declare on the other.

Plugins are loaded at the first look-up, never at `import omniq`; the module of a store or a worker is
imported only by `load_object`, when it is used.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from operator import attrgetter
from typing import TYPE_CHECKING, Final, TypeVar

from omniq.errors import PluginError, UnknownBackend
from omniq.models.config import mask_url
from omniq.plugins.specs import (
    CommandSpec,
    EntryPoint,
    EventStoreSpec,
    Kind,
    PluginRecord,
    ResultStoreSpec,
    Spec,
    StoreKind,
    StoreSpec,
    TaskQueueSpec,
    WorkerSpec,
)
from omniq.texts import did_you_mean, install_command

if TYPE_CHECKING:
    from omniq.plugins.manager import Index
    from omniq.storage.base import Capability

STRICT = "OMNIQ_PLUGINS_STRICT"
_OFF = frozenset({"", "0", "false", "no", "off"})
TYPES: Mapping[Kind, type[Spec]] = {
    type_.kind: type_ for type_ in (TaskQueueSpec, ResultStoreSpec, EventStoreSpec, WorkerSpec, CommandSpec)
}
STORES: Mapping[StoreKind, type[StoreSpec]] = {
    type_.kind: type_ for type_ in (TaskQueueSpec, ResultStoreSpec, EventStoreSpec)
}
_EVENT_STORES: Final[Mapping[str, str]] = {
    "sqlite": "sqlite",
    "postgres": "postgres",
    "postgresql": "postgres",
    "file": "fsspec",
    "memory": "fsspec",
    "s3": "fsspec",
    "gs": "fsspec",
    "gcs": "fsspec",
    "abfs": "fsspec",
    "abfss": "fsspec",
    "az": "fsspec",
}
_STORES: Final = {**_EVENT_STORES, "redis": "redis", "rediss": "redis", "nats": "nats"}
_WORKERS: Final[Mapping[str, str]] = {"gevent": "gevent", "gevent_pool": "gevent"}

EXTRAS: Final[Mapping[Kind, Mapping[str, str]]] = {
    "task_queue": _STORES,
    "result_store": _STORES,
    "event_store": _EVENT_STORES,
    "worker": _WORKERS,
    "command": {},
}
"""For each kind: a name, alias or URL scheme, and the extra of omniq-core that brings it, for errors to say so."""
DISTRIBUTIONS: Final = frozenset(f"omniq-{extra}" for words in EXTRAS.values() for extra in words.values())
"""OmniQ's own, but for omniq-core."""

S = TypeVar("S", bound=Spec)
T = TypeVar("T")


@dataclass(frozen=True)
class _Loaded:
    records: list[PluginRecord]
    index: Index


class Registry:
    """What the installed plugins provide. Loaded once, at the first look-up, by whichever thread comes first.

    A plugin that is broken, incompatible, in conflict or disabled is recorded and disturbs nobody else:
    `PluginError` reaches only whoever asks for what it would provide, unless OMNIQ_PLUGINS_STRICT=1.
    """

    def __init__(
        self, entry_points: Iterable[EntryPoint] | None = None, *, environ: Mapping[str, str] | None = None
    ) -> None:
        """`entry_points` and `environ` stand in for the installed ones and the process's, for tests."""
        self._entry_points = None if entry_points is None else list(entry_points)
        self._environ = os.environ if environ is None else environ
        self._lock = threading.RLock()
        self._loading = False
        self._loaded: _Loaded | None = None

    # ── look-ups ─────────────────────────────────────────────────────────────

    def task_queue(self, name: str) -> TaskQueueSpec:
        """The task queue of that name or alias. Raises `UnknownBackend`, or `PluginError` if it is unusable."""
        return self._named(TaskQueueSpec, name)

    def result_store(self, name: str) -> ResultStoreSpec:
        """The result store of that name or alias. Raises as `task_queue` does."""
        return self._named(ResultStoreSpec, name)

    def event_store(self, name: str) -> EventStoreSpec:
        """The event store of that name or alias. Raises as `task_queue` does."""
        return self._named(EventStoreSpec, name)

    def worker(self, name: str) -> WorkerSpec:
        """The worker of that name or alias. Raises as `task_queue` does."""
        return self._named(WorkerSpec, name)

    def commands(self) -> list[CommandSpec]:
        """The sub-commands that plugins add, by name."""
        return self._usable().index.all(CommandSpec)

    def store(self, kind: StoreKind, name: str) -> StoreSpec:
        """The store of that kind, and name or alias. Raises as `task_queue` does."""
        return self._named(STORES[kind], name)

    def by_scheme(self, kind: StoreKind, scheme: str) -> StoreSpec:
        """The store of that kind that understands URLs of that scheme. Raises as `task_queue` does."""
        loaded = self._usable()
        spec = loaded.index.by_scheme(STORES[kind], scheme)
        if spec is None:
            raise not_found(STORES[kind], scheme, loaded.index, loaded.records)
        return spec

    def names(self, kind: Kind) -> list[str]:
        """The names of what is usable of that kind, without aliases."""
        return [spec.name for spec in self._usable().index.all(TYPES[kind])]

    def plugins(self) -> list[PluginRecord]:
        """Every installed plugin with its state, OmniQ's own components first. Never raises `PluginError`."""
        return list(self._load().records)

    def distribution_of(self, module: str) -> str:
        """The distribution whose plugin lives in the same top-level package, else that package's name."""
        root = module.partition(".")[0]
        owners = (record.distribution for record in self.plugins() if record.value.partition(".")[0] == root)
        return next(owners, root)

    # ── loading ──────────────────────────────────────────────────────────────

    def _named(self, type_: type[S], name: str) -> S:
        loaded = self._usable()
        spec = loaded.index.named(type_, name)
        if spec is None:
            raise not_found(type_, name, loaded.index, loaded.records)
        return spec

    def _usable(self) -> _Loaded:
        loaded = self._load()
        failed = [record for record in loaded.records if record.status not in ("active", "disabled")]
        if failed and self._environ.get(STRICT, "").lower() not in _OFF:
            raise inactive(*failed)
        return loaded

    def _load(self) -> _Loaded:
        if self._loaded is None:
            with self._lock:
                if self._loading:
                    raise PluginError("a plugin can't look components up while plugins are being loaded")
                if self._loaded is None:
                    self._loading = True
                    try:
                        self._loaded = self._load_all()
                    finally:
                        self._loading = False
        return self._loaded

    def _load_all(self) -> _Loaded:
        from omniq.plugins import manager  # it imports pluggy, which `import omniq` doesn't pay for

        entries = manager.installed() if self._entry_points is None else self._entry_points
        index = manager.Index()
        candidates = [manager.builtin(), *manager.candidates(entries, self._environ)]
        return _Loaded([index.add(manager.load(candidate)) for candidate in candidates], index)


_registry = Registry()


def registry() -> Registry:
    """The registry of this process."""
    return _registry


def capabilities(spec: StoreSpec) -> frozenset[Capability]:
    """What a store declares; its class is imported for it. Raises `PluginError`."""
    from omniq.storage.base import Store  # it imports asyncio, which listing plugins doesn't pay for

    return load_class(spec.store, Store).capabilities  # type: ignore[type-abstract]


def load_object(path: str) -> object:
    """What an import string, `"package.module:Name"`, stands for.

    Raises `PluginError` naming the distribution and the cause.
    """
    module, _, name = path.partition(":")
    try:
        return attrgetter(name)(import_module(module))
    except Exception as error:
        owner = registry().distribution_of(module)
        raise PluginError(f"{owner} can't load {path}: {type(error).__name__}: {error}") from error


def load_class(path: str, base: type[T]) -> type[T]:
    """The class that an import string stands for.

    Raises `PluginError` as `load_object` does, and if it isn't a subclass of `base`.
    """
    found = load_object(path)
    if not isinstance(found, type) or not issubclass(found, base):
        owner = registry().distribution_of(path.partition(":")[0])
        raise PluginError(f"{owner}: {path} isn't a subclass of {base.__name__}")
    return found


# ── why nothing was found ────────────────────────────────────────────────────


def not_found(type_: type[Spec], word: str, index: Index, records: Sequence[PluginRecord]) -> PluginError:
    """The error for whoever asked for this name or URL scheme.

    A plugin that isn't active has the say if it goes by that name or would provide it.
    """
    for record in records:
        if record.status != "active" and _would_provide(record, type_, word):
            return inactive(record)
    return UnknownBackend(_unknown(type_, word, index))


def inactive(*records: PluginRecord) -> PluginError:
    """The error for whoever asked for something that these plugins would provide."""
    return PluginError("; ".join(f"{record} is {_state(record)}: {record.error}" for record in records))


def _state(record: PluginRecord) -> str:
    return "in conflict" if record.status == "conflict" else record.status


def _would_provide(record: PluginRecord, type_: type[Spec], word: str) -> bool:
    if record.specs:
        return any(word in (*spec.names, *spec.schemes) for spec in record.specs if isinstance(spec, type_))
    extra = EXTRAS[type_.kind].get(word)
    return record.name == word or (extra is not None and record.distribution == f"omniq-{extra}")


def _unknown(type_: type[Spec], word: str, index: Index) -> str:
    word = mask_url(word)  # somebody may have put a URL in the place of a name
    names = ", ".join(spec.name for spec in index.all(type_)) or "none"
    if index.knows(word):
        return f"{word!r} provides no {type_.title}; installed: {names}"
    what = "backend" if issubclass(type_, StoreSpec) else type_.title
    extras = EXTRAS[type_.kind]
    if word in extras:
        owner, command = f"omniq-{extras[word]}", install_command(extras[word])
        return f"unknown {what} {word!r}, installed: {names}; {owner} provides it: {command}"
    guess = did_you_mean(word, [*index.words(type_), *extras])
    return f"unknown {what} {word!r}{guess or ','} installed: {names}"
