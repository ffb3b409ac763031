"""From a configuration to the components that it describes."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any, Final, Literal, Protocol, TypeAlias, TypedDict, TypeVar, Unpack, cast, overload

from msgspec.structs import replace

from omniq.backend import AsyncComponent, BaseBackend
from omniq.config.convert import convert, describe, given_fields, url_scheme
from omniq.config.loader import ComponentChoice, ConfigProvider, OmniQConfig, Resolved, Security
from omniq.config.settings import Settings
from omniq.errors import ConfigError, UnknownBackend
from omniq.events.storage import AsyncEventStorage, EventStorage
from omniq.models.config import (
    ComponentConfig,
    EventStorageConfig,
    ResultStorageConfig,
    Serializer,
    TaskQueueConfig,
    mask_url,
)
from omniq.plugins.registry import Registry, capabilities, load_class, registry
from omniq.plugins.specs import STORES, EventStoreSpec, ResultStoreSpec, StoreKind, StoreSpec, TaskQueueSpec
from omniq.queue.engine import AsyncTaskQueue, TaskQueue
from omniq.results import AsyncResultStorage, ResultStorage
from omniq.storage.base import BaseEventStorage, BaseResultStorage, BaseTaskQueue, Capability, Store
from omniq.sync import Blocking
from omniq.texts import install_command
from omniq.workers.base import WorkerPool
from omniq.workers.pool import AsyncWorkerPool

DEFAULT_STORE: Final = "sqlite"
FSSPEC_STORES: Final = ("file", "memory")
"""Those that `OMNIQ_FSSPEC_URI` can mean."""
CONFIGS: Final[Mapping[StoreKind, type[ComponentConfig]]] = {
    "task_queue": TaskQueueConfig,
    "result_store": ResultStorageConfig,
    "event_store": EventStorageConfig,
}

_SERIALIZER: Final[Any] = Serializer
_IN_URL: Final = re.compile(r"\Aurl(: |\.)")

C = TypeVar("C", bound=ComponentConfig)

Source: TypeAlias = OmniQConfig | Resolved | Mapping[str, Any] | str | os.PathLike[str]
"""A whole configuration."""
Place: TypeAlias = str | Mapping[str, Any] | ComponentChoice | ComponentConfig | BaseBackend
"""Where a component keeps what it has: a URL or a name, `url`, `type` and `config`, a config struct, or a backend."""
Given: TypeAlias = dict[StoreKind, Any]
"""Components as they were given, by kind: a `Place`, a component or its blocking facade, or None."""
COMPONENTS: Final[Mapping[StoreKind, type[AsyncComponent[Any, Any]]]] = {
    "task_queue": AsyncTaskQueue,
    "result_store": AsyncResultStorage,
    "event_store": AsyncEventStorage,
}


def configured(source: Source | None, project_name: str | None, given: Given) -> tuple[OmniQConfig, Given]:
    """The configuration, with what was given in words; and the components that were given in another way.

    Raises `ConfigError` or `PluginError`.
    """
    words: dict[str, Any] = {
        kind: part for kind, part in given.items() if isinstance(part, str | Mapping | ComponentChoice)
    }
    made: Given = {kind: None if kind in words else _component(kind, part) for kind, part in given.items()}
    if isinstance(source, Resolved):
        if not words:
            return source.config, made
        source = source.config
    return ConfigProvider(source).load(project_name=project_name, **words), made


def _component(kind: StoreKind, part: object) -> AsyncComponent[Any, Any] | None:
    """The component that is meant. Raises `ConfigError`."""
    core = part.aio if isinstance(part, Blocking) else part
    if core is None or isinstance(core, COMPONENTS[kind]):
        return core
    if isinstance(core, BaseBackend):
        if kind == "event_store" and not core.has_events:
            raise ConfigError(f"{kind}: {core.name} keeps no events")
        made: AsyncComponent[Any, Any] = COMPONENTS[kind].from_backend(core)  # type: ignore[attr-defined]
        return made
    if isinstance(core, ComponentConfig):
        return COMPONENTS[kind](load_class(_configured_by(kind, type(core)).store, Store), core)
    name = COMPONENTS[kind].__name__
    expected = f"a URL, a store's name, a dict, a config struct, a backend, an {name} or its blocking facade"
    raise ConfigError(f"{kind}: expected {expected}, got {type(core).__name__}")


def _configured_by(kind: StoreKind, struct: type[ComponentConfig]) -> StoreSpec:
    """The spec of the store that this struct configures. Raises `ConfigError`."""
    plugins = registry()
    for spec in (plugins.store(kind, name) for name in plugins.names(kind)):
        if spec.config == f"{struct.__module__}:{struct.__qualname__}":
            return spec
    title = STORES[kind].title()
    raise ConfigError(f"{kind}: {struct.__name__} isn't the configuration of an installed {title}")


def security(config: OmniQConfig) -> Security:
    """Whose keys, and which limits. Raises `ConfigError`."""
    queue = {} if config.task_queue is None else config.task_queue.config
    until = config.accept_unsigned_until
    return Security(
        serializer=convert(queue.get("serializer", "auto"), _SERIALIZER, "task_queue.config.serializer"),
        signing_key=config.signing_key,
        allowed_modules=config.allowed_modules,
        accept_unsigned_until=None if until is None else until.timestamp(),
    )


def task_queue(config: OmniQConfig) -> AsyncTaskQueue[Any]:
    """The configured task queue, else the default one. Raises `ConfigError` or `PluginError`."""
    spec, settings = resolve("task_queue", config.task_queue, config.project_name, **_fallbacks(config))
    store = load_class(spec.store, BaseTaskQueue)  # type: ignore[type-abstract]
    return AsyncTaskQueue(store, settings, defaults=config.defaults, security=security(config))


def result_store(config: OmniQConfig) -> AsyncResultStorage[Any] | None:
    """The configured result storage; None where nothing was said: results go where the queue is."""
    if config.result_store is None:
        return None
    spec, settings = resolve("result_store", config.result_store, config.project_name, **_fallbacks(config))
    store = load_class(spec.store, BaseResultStorage)  # type: ignore[type-abstract]
    return AsyncResultStorage(store, settings)


def event_store(config: OmniQConfig) -> AsyncEventStorage[Any] | None:
    """The configured event storage; None where nothing was said: there are no events."""
    if config.event_store is None:
        return None
    spec, settings = resolve("event_store", config.event_store, config.project_name, **_fallbacks(config))
    return AsyncEventStorage(load_class(spec.store, BaseEventStorage), settings)  # type: ignore[type-abstract]


def _fallbacks(config: OmniQConfig) -> Fallbacks:
    return {"base_dir": config.base_dir, "fsspec_uri": config.fsspec_uri}


# ── the components of a blocking OmniQ ───────────────────────────────────────────


class Assembled(Protocol):
    """An `AsyncOmniQ`, as far as its components are concerned."""

    config: OmniQConfig
    task_queue: AsyncTaskQueue[Any]
    event_store: AsyncEventStorage[Any] | None

    @property
    def result_store(self) -> AsyncResultStorage[Any]: ...

    def worker_pool(self, worker_type: str | None = None, **worker_config: Any) -> AsyncWorkerPool: ...


class BlockingParts:
    """What a blocking `OmniQ` works with, as blocking facades."""

    @property
    def config(self) -> OmniQConfig:
        """The whole configuration."""
        return _core_of(self).config

    @property
    def task_queue(self) -> TaskQueue:
        """Where tasks are kept."""
        return TaskQueue(_core_of(self).task_queue)

    @property
    def result_store(self) -> ResultStorage:
        """Where results are kept."""
        return ResultStorage(_core_of(self).result_store)

    @property
    def event_store(self) -> EventStorage | None:
        """Where events are kept; None where they aren't."""
        events = _core_of(self).event_store
        return None if events is None else EventStorage(events)

    def worker_pool(self, worker_type: str | None = None, **worker_config: Any) -> WorkerPool:
        """A worker that isn't started yet; arguments win over those of the constructor and the configuration."""
        return WorkerPool(_core_of(self).worker_pool(worker_type, **worker_config))


def _core_of(facade: object) -> Assembled:
    core: Assembled = cast("Any", facade).aio
    return core


# ── which store is meant, and how it is configured ─────────────────────────────


class Fallbacks(TypedDict, total=False):
    """What holds where a choice says nothing."""

    base_dir: str
    """`OmniQConfig.base_dir`: where a store that keeps files goes if it isn't told where."""
    fsspec_uri: str | None
    """`OmniQConfig.fsspec_uri`: the same, before `base_dir`, for the stores that take such URLs; and which store is
    meant, where nothing is said of a component."""
    plugins: Registry
    """Stands in for the process's registry."""


@overload
def resolve(
    kind: Literal["task_queue"],
    choice: ComponentChoice | None,
    project_name: str | None = None,
    **fallbacks: Unpack[Fallbacks],
) -> tuple[TaskQueueSpec, TaskQueueConfig]: ...
@overload
def resolve(
    kind: Literal["result_store"],
    choice: ComponentChoice | None,
    project_name: str | None = None,
    **fallbacks: Unpack[Fallbacks],
) -> tuple[ResultStoreSpec, ResultStorageConfig]: ...
@overload
def resolve(
    kind: Literal["event_store"],
    choice: ComponentChoice | None,
    project_name: str | None = None,
    **fallbacks: Unpack[Fallbacks],
) -> tuple[EventStoreSpec, EventStorageConfig]: ...
def resolve(
    kind: StoreKind, choice: ComponentChoice | None, project_name: str | None = None, **fallbacks: Unpack[Fallbacks]
) -> tuple[StoreSpec, ComponentConfig]:
    """The chosen store's spec and configuration; without a choice, the default store's.

    Imports the module of its config struct and nothing else of it. Raises `ConfigError` beginning with the
    path, such as `task_queue.config.port`, and `PluginError` for a backend that is missing or unusable.
    """
    plugins = fallbacks.get("plugins") or registry()
    choice = choice or ComponentChoice()
    spec = _spec(kind, choice, plugins, fallbacks.get("fsspec_uri"))
    type_ = load_class(spec.config, CONFIGS[kind])
    config = _placed(kind, spec, type_, choice, fallbacks)
    return spec, replace(config, project_name=project_name) if config.project_name is None else config


def _spec(kind: StoreKind, choice: ComponentChoice, plugins: Registry, fsspec_uri: str | None) -> StoreSpec:
    path, url = f"{kind}.url", choice.url
    if url is None and choice.type is None and "base_dir" not in choice.config:
        path, url = "fsspec_uri", fsspec_uri
    if url is None:
        return plugins.store(kind, choice.type or default_type(kind, plugins))
    try:
        scheme = url_scheme(url)
    except ConfigError as error:
        raise ConfigError(f"{path}{str(error).removeprefix('url')}") from None
    if choice.type is None:
        spec = plugins.by_scheme(kind, scheme)
        if path == "fsspec_uri" and spec.name not in FSSPEC_STORES:
            raise ConfigError(f"fsspec_uri: {scheme}:// is for {spec.name!r}; expected file://, s3:// or the like")
        return spec
    spec = plugins.store(kind, choice.type)
    if scheme not in spec.url_schemes:
        takes = " or ".join(f"{known}://" for known in spec.url_schemes) or "no URL"
        raise ConfigError(f"{kind}.url: {scheme}:// doesn't fit type {choice.type!r}, which takes {takes}")
    return spec


def _placed(kind: StoreKind, spec: StoreSpec, type_: type[C], choice: ComponentChoice, fallbacks: Fallbacks) -> C:
    """As the choice says; where it names no place itself, its store is at that of the fallbacks."""
    path, url, given = f"{kind}.url", choice.url, choice.config
    if url is None and "base_dir" not in given:
        path, url = "fsspec_uri", _fitting(fallbacks.get("fsspec_uri"), spec)
        if url is None and "base_dir" in type_.__struct_fields__:
            given = {"base_dir": fallbacks.get("base_dir", Settings.BASE_DIR), **given}
    if url is None:
        return convert(given, type_, f"{kind}.config")
    config = _from_url(path, type_, url)
    given = {name: value for name, value in given.items() if name != "base_dir"}  # the URL says where
    return convert({**given_fields(config), **given}, type_, f"{kind}.config") if given else config


def _fitting(uri: str | None, spec: StoreSpec) -> str | None:
    """The URI, if the store takes such ones."""
    return uri if uri is not None and uri.partition("://")[0].lower() in spec.url_schemes else None


def _from_url(path: str, type_: type[C], url: str) -> C:
    """What the URL says. Raises `ConfigError`, such as `task_queue.url.port: expected int, got str`."""
    try:
        return type_.from_url(url)
    except ConfigError as error:
        reason = _IN_URL.sub("", str(error), count=1).replace(url, mask_url(url))
    except ValueError:  # of the standard library, which may quote a piece of the password
        reason = f"not a URL that {type_.__name__} understands: {mask_url(url)}"
    raise ConfigError(mask_url(describe(reason, type_, path)))


def default_type(kind: StoreKind, plugins: Registry) -> str:
    """The store that is used where nothing is configured: SQLite, else the only one that keeps its data.

    Raises `PluginError` if there is none or SQLite is broken, `ConfigError` if there are several.
    """
    try:
        return plugins.store(kind, DEFAULT_STORE).name
    except UnknownBackend:
        names = plugins.names(kind)
    if len(names) > 1:  # a memory store isn't what anybody wants without having said so
        names = [name for name in names if Capability.PERSISTENT in capabilities(plugins.store(kind, name))] or names
    if len(names) == 1:
        return names[0]
    if names:
        raise ConfigError(f"{kind}.type: not given, and several are installed: {', '.join(names)}")
    raise UnknownBackend(f"no {STORES[kind].title()} is installed: {install_command(DEFAULT_STORE)}")
