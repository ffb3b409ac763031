"""The registry: names and URL schemes on one side, what plugins declare on the other.

Plugins are loaded at the first look-up, never at `import omniq`, into one manager of pluggy's; whatever goes wrong
with one stays with it. The module of a store or a worker is imported only by `load_object`, when it is used.
"""

from __future__ import annotations

import inspect
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import import_module
from operator import attrgetter
from typing import Any, TypeVar

from msgspec.structs import replace

from omniq.errors import PluginError, UnknownBackend
from omniq.exports import FIRST_PARTY, extras
from omniq.models.config import mask_url
from omniq.plugins import specs
from omniq.plugins.specs import HOOKS, STORES, TYPES, By, Claim, Kind, PluginRecord, Spec, StoreKind
from omniq.texts import did_you_mean, install_command

DISABLE = "OMNIQ_DISABLE_PLUGINS"
STRICT = "OMNIQ_PLUGINS_STRICT"
_OFF = frozenset({"", "0", "false", "no", "off"})

S = TypeVar("S", bound=Spec)
T = TypeVar("T")


class Registry:
    """What the installed plugins provide. Loaded once, at the first look-up, by whichever thread comes first.

    A plugin that is broken, incompatible, in conflict or disabled is recorded and disturbs nobody else:
    `PluginError` reaches only whoever asks for what it would provide, unless OMNIQ_PLUGINS_STRICT=1.
    """

    def __init__(self, entry_points: Iterable[Any] | None = None, *, environ: Mapping[str, str] | None = None) -> None:
        """`entry_points` and `environ` stand in for the installed ones and the process's, for tests."""
        self._entry_points = entry_points
        self._environ = os.environ if environ is None else environ
        self._lock = threading.RLock()
        self._loading = False
        self._plugins: Plugins | None = None

    def task_queue(self, name: str) -> specs.TaskQueueSpec:
        """The task queue of that name or alias. Raises `UnknownBackend`, or `PluginError` if it is unusable."""
        return self._find(specs.TaskQueueSpec, "name", name)

    def result_store(self, name: str) -> specs.ResultStoreSpec:
        """The result store of that name or alias. Raises as `task_queue` does."""
        return self._find(specs.ResultStoreSpec, "name", name)

    def event_store(self, name: str) -> specs.EventStoreSpec:
        """The event store of that name or alias. Raises as `task_queue` does."""
        return self._find(specs.EventStoreSpec, "name", name)

    def worker(self, name: str) -> specs.WorkerSpec:
        """The worker of that name or alias. Raises as `task_queue` does."""
        return self._find(specs.WorkerSpec, "name", name)

    def store(self, kind: StoreKind, name: str) -> specs.StoreSpec:
        """The store of that kind, and name or alias. Raises as `task_queue` does."""
        return self._find(STORES[kind], "name", name)

    def by_scheme(self, kind: StoreKind, scheme: str) -> specs.StoreSpec:
        """The store of that kind that understands URLs of that scheme. Raises as `task_queue` does."""
        return self._find(STORES[kind], "URL scheme", scheme)

    def commands(self) -> list[specs.CommandSpec]:
        """The sub-commands that plugins add, by name."""
        return self._usable().all(specs.CommandSpec)

    def names(self, kind: Kind) -> list[str]:
        """The names of what is usable of that kind, without aliases."""
        return [spec.name for spec in self._usable().all(TYPES[kind])]

    def plugins(self) -> list[PluginRecord]:
        """Every plugin with its state, OmniQ's own components first. Never raises `PluginError`."""
        return list(self._load().records)

    def distribution_of(self, module: str) -> str:
        """The distribution whose plugin lives in the same top-level package, else that package's name."""
        root = module.partition(".")[0]
        return next((it.distribution for it in self.plugins() if it.value.partition(".")[0] == root), root)

    def register(self, plugin: object, name: str | None = None) -> PluginRecord:
        """Take in a plugin that no installed distribution declares: a module, or an object with hooks as methods.

        For applications and tests. It goes by `name`, else by its own. Raises `PluginError` if it can't be used.
        """
        value = getattr(plugin, "__name__", type(plugin).__qualname__)
        record = self._load().add(PluginRecord(name or value, specs.APPLICATION, "-", value), lambda: plugin)
        if record.status != "active":
            self.unregister(record)
            raise inactive(record)
        return record

    def unregister(self, record: PluginRecord) -> None:
        """Forget a plugin that `register` took in."""
        self._load().remove(record)

    def _find(self, type_: type[S], by: By, word: str) -> S:
        plugins = self._usable()
        spec, _ = plugins.owners.get((type_.kind, by, word), (None, None))
        if not isinstance(spec, type_):
            raise not_found(type_, word, plugins)
        return spec

    def _usable(self) -> Plugins:
        plugins = self._load()
        failed = [record for record in plugins.records if record.status not in ("active", "disabled")]
        if failed and self._environ.get(STRICT, "").lower() not in _OFF:
            raise inactive(*failed)
        return plugins

    def _load(self) -> Plugins:
        with self._lock:
            if self._loading:
                raise PluginError("a plugin can't look components up while plugins are being loaded")
            if self._plugins is None:
                self._loading = True
                try:
                    self._plugins = Plugins(self._entry_points, self._environ.get(DISABLE, ""))
                finally:
                    self._loading = False
            return self._plugins


class Plugins:
    """The plugins of one manager, what became of each, and who owns which name."""

    def __init__(self, entry_points: Iterable[Any] | None, disabled: str) -> None:
        # These cost more than all else that is imported to enqueue a task, and `import omniq` doesn't pay for them.
        from importlib.metadata import entry_points as installed

        from pluggy import PluginManager

        from omniq.plugins import hookspecs

        self._hooks = hookspecs
        self._manager = PluginManager(hookspecs.PROJECT)
        self._manager.add_hookspecs(hookspecs)
        self._disabled = {name.strip() for name in disabled.split(",")}
        self.records: list[PluginRecord] = []
        self.owners: dict[Claim, tuple[Spec, PluginRecord]] = {}
        self.add(PluginRecord("builtin", "omniq-core", hookspecs.VERSION, hookspecs.__name__), hookspecs.BuiltIn)
        entries = installed(group=hookspecs.GROUP) if entry_points is None else entry_points
        for record, load in self._in_order(entries):
            self.add(record, load)

    def add(self, record: PluginRecord, load: Callable[[], object]) -> PluginRecord:
        """Load a plugin, and enter its specs: all of them, or none if one of its names is taken."""
        if record.status == "active":
            record = self._loaded(record, load)
        if record.status == "active":
            record = self._entered(record)
        self.records.append(record)
        return record

    def remove(self, record: PluginRecord) -> None:
        """Forget a plugin and what it provides."""
        self.records.remove(record)
        self.owners = {claim: owner for claim, owner in self.owners.items() if owner[1] != record}
        self._manager.unregister(name=str(record))

    def all(self, type_: type[S]) -> list[S]:
        """All specs of a kind by name."""
        found = (spec for record in self.records if record.status == "active" for spec in record.specs)
        return sorted((spec for spec in found if isinstance(spec, type_)), key=attrgetter("name"))

    def _in_order(self, entries: Iterable[Any]) -> Iterator[tuple[PluginRecord, Callable[[], object]]]:
        """By name, but OmniQ's own distributions first, so that the alphabet lets nobody take their names."""
        found: dict[tuple[bool, str, str], tuple[PluginRecord, Callable[[], object]]] = {}
        for entry in entries:
            name, version = (entry.value, "?") if entry.dist is None else (entry.dist.name, entry.dist.version)
            record = PluginRecord(entry.name, name, version, entry.value)
            found.setdefault((name.removeprefix("omniq-") not in FIRST_PARTY, entry.name, name), (record, entry.load))
        for (_, name, owner), (record, load) in sorted(found.items()):
            rivals = " and ".join(sorted(other for _, rival, other in found if rival == name and other != owner))
            if name in self._disabled:
                record = _failed(record, "disabled", f"it is named in {DISABLE}")
            elif rivals:
                record = _failed(record, "conflict", f"{rivals} has a plugin of that name too: uninstall one")
            yield record, load

    def _loaded(self, record: PluginRecord, load: Callable[[], object]) -> PluginRecord:
        """The record with its specs, or with what is wrong. Whatever it raises but Ctrl-C makes it broken."""
        try:
            plugin = load()
            if reason := self._incompatible(getattr(plugin, "omniq_api_version", self._hooks.API_VERSION)):
                return _failed(record, "incompatible", reason)
            return replace(record, specs=tuple(self._specs(plugin, str(record))))
        except (Exception, SystemExit, GeneratorExit, BaseExceptionGroup) as error:
            self._manager.unregister(name=str(record))
            return _failed(record, "broken", f"{type(error).__name__}: {error}")

    def _incompatible(self, version: Any) -> str | None:
        known = self._hooks.API_VERSION
        ours = "this omniq-core has version {}.{} of the plugin API".format(*known)
        if not isinstance(version, tuple) or not version or not all(isinstance(part, int) for part in version):
            return f"its omniq_api_version isn't a tuple such as (1, 0); {ours}"
        return None if version[0] == known[0] else f"it was written for version {'.'.join(map(str, version))}; {ours}"

    def _specs(self, plugin: object, name: str) -> Iterator[Spec]:
        if not self._manager.is_registered(plugin):
            self._manager.register(plugin, name)
        self._manager.check_pending()  # only this finds misspelt hooks
        callers = self._manager.get_hookcallers(plugin)
        if not callers:
            raise TypeError("it implements no hook; is @hookimpl missing?")
        for caller in (caller for caller in callers if caller.name in HOOKS):
            for implementation in caller.get_hookimpls():
                if implementation.plugin is plugin:
                    yield from _checked(caller.name, implementation.function())

    def _entered(self, record: PluginRecord) -> PluginRecord:
        mine: dict[Claim, tuple[Spec, PluginRecord]] = {}
        for spec in record.specs:
            for claim in spec.claims:
                what = f"the {spec.title()} {claim[1]} {claim[2]!r}"
                if claim in mine:
                    return _failed(record, "conflict", f"it provides {what} twice")
                if claim in self.owners:
                    return _failed(record, "conflict", f"{self.owners[claim][1]} provides {what} already")
                mine[claim] = (spec, record)
        self.owners |= mine
        return record


def _failed(record: PluginRecord, status: specs.Status, error: str) -> PluginRecord:
    return replace(record, status=status, error=error)


def _checked(hook: str, answer: object) -> Iterator[Spec]:
    type_ = HOOKS[hook]
    if inspect.iscoroutine(answer):
        answer.close()  # else Python warns, much later, that it was never awaited
        raise TypeError(f"hook {hook} is async; hooks are plain functions")
    if isinstance(answer, str) or not isinstance(answer, Iterable):
        raise TypeError(f"hook {hook} gave {type(answer).__name__}; expected {type_.__name__}s")
    for spec in answer:
        if not isinstance(spec, type_):
            raise TypeError(f"hook {hook} yielded {type(spec).__name__}; expected {type_.__name__}")
        yield spec


_registry = Registry()


def registry() -> Registry:
    """The registry of this process."""
    return _registry


# ── import strings ───────────────────────────────────────────────────────────


def capabilities(spec: specs.StoreSpec) -> frozenset[str]:
    """What a store declares; its class is imported for it. Raises `PluginError`."""
    from omniq.storage.base import Store  # it imports asyncio, which listing plugins doesn't pay for

    declared: object = load_class(spec.store, Store).capabilities  # type: ignore[type-abstract]
    if not isinstance(declared, frozenset):
        raise _unfit(spec.store, f"declares capabilities of type {type(declared).__name__}, not frozenset")
    return declared


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
    if isinstance(found, type) and issubclass(found, base):
        return found
    raise _unfit(path, f"isn't a subclass of {base.__name__}")


def _unfit(path: str, why: str) -> PluginError:
    return PluginError(f"{registry().distribution_of(path.partition(':')[0])}: {path} {why}")


# ── why nothing was found ────────────────────────────────────────────────────


def not_found(type_: type[Spec], word: str, plugins: Plugins) -> PluginError:
    """The error for whoever asked for this name or URL scheme.

    A plugin that isn't active has the say if it goes by that name or would provide it.
    """
    for record in plugins.records:
        if record.status != "active" and _would_provide(record, type_, word):
            return inactive(record)
    return UnknownBackend(_unknown(type_, word, plugins))


def inactive(*records: PluginRecord) -> PluginError:
    """The error for whoever asked for something that these plugins would provide."""
    return PluginError("; ".join(f"{it} is {it.status.replace('con', 'in con')}: {it.error}" for it in records))


def _would_provide(record: PluginRecord, type_: type[Spec], word: str) -> bool:
    if record.specs:
        return any(word == claim[2] for spec in record.specs if isinstance(spec, type_) for claim in spec.claims)
    return word == record.name or record.distribution == f"omniq-{extras(type_.kind).get(word)}"


def _unknown(type_: type[Spec], word: str, plugins: Plugins) -> str:
    word = mask_url(word)  # somebody may have put a URL in the place of a name
    names = ", ".join(spec.name for spec in plugins.all(type_)) or "none"
    if any(claim[2] == word for claim in plugins.owners):
        return f"{word!r} provides no {type_.title()}; installed: {names}"
    what, ours = "backend" if issubclass(type_, specs.StoreSpec) else type_.title(), extras(type_.kind)
    if extra := ours.get(word):
        return f"unknown {what} {word!r}, installed: {names}; omniq-{extra} provides it: {install_command(extra)}"
    known = [claim[2] for claim in plugins.owners if claim[0] == type_.kind]
    return f"unknown {what} {word!r}{did_you_mean(word, [*known, *ours]) or ','} installed: {names}"
