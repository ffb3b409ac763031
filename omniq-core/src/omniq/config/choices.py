"""Which store is meant, and how it is configured: from a choice, or from a component's own arguments; and the schema of
all that can be chosen."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, TypedDict, TypeVar, Unpack, overload

from msgspec.structs import asdict, replace

from omniq.config.convert import COMMON, PLACES, convert, describe, given_fields, url_scheme
from omniq.config.loader import ComponentChoice, OmniQConfig, ambient
from omniq.config.settings import Settings
from omniq.errors import ConfigError, UnknownBackend
from omniq.models.config import (
    ComponentConfig,
    EventStorageConfig,
    ResultStorageConfig,
    TaskQueueConfig,
    mask_url,
)
from omniq.plugins.registry import Registry, capabilities, load_class, registry
from omniq.plugins.specs import STORES, EventStoreSpec, ResultStoreSpec, StoreKind, StoreSpec, TaskQueueSpec
from omniq.storage.base import Capability
from omniq.texts import install_command

DEFAULT_STORE: Final = "sqlite"
FSSPEC_STORES: Final = ("file", "memory")
"""Those that `OMNIQ_FSSPEC_URI` can mean."""
CONFIGS: Final[Mapping[StoreKind, type[ComponentConfig]]] = {
    "task_queue": TaskQueueConfig,
    "result_store": ResultStorageConfig,
    "event_store": EventStorageConfig,
}

OF_QUEUES: Final = COMMON["task_queue"] - COMMON["result_store"]
"""The fields that only task queues have."""

_IN_URL: Final = re.compile(r"\Aurl(: |\.)")

C = TypeVar("C", bound=ComponentConfig)

# ── a choice ────────────────────────────────────────────────────────────────


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
        name = choice.type or default_type(kind, plugins)
        return _known(f"{kind}.type", lambda: plugins.store(kind, name))
    try:
        scheme = url_scheme(url)
    except ConfigError as error:
        raise ConfigError(f"{path}{str(error).removeprefix('url')}") from None
    if choice.type is None:
        spec = _known(path, lambda: plugins.by_scheme(kind, scheme))
        if path == "fsspec_uri" and spec.name not in FSSPEC_STORES:
            raise ConfigError(f"fsspec_uri: {scheme}:// is for {spec.name!r}; expected file://, s3:// or the like")
        return spec
    name = choice.type
    spec = _known(f"{kind}.type", lambda: plugins.store(kind, name))
    if scheme not in spec.url_schemes:
        takes = " or ".join(f"{known}://" for known in spec.url_schemes) or "no URL"
        raise ConfigError(f"{kind}.url: {scheme}:// doesn't fit type {choice.type!r}, which takes {takes}")
    return spec


def _known(path: str, find: Callable[[], StoreSpec]) -> StoreSpec:
    """What `find` returns; its `UnknownBackend` tells the path."""
    try:
        return find()
    except UnknownBackend as error:
        raise UnknownBackend(f"{path}: {error}") from None


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


def chosen(kind: StoreKind, config: OmniQConfig) -> tuple[StoreSpec, ComponentConfig]:
    """The store of a component, as a whole configuration says. Raises `ConfigError` or `PluginError`.

    Results are where the queue is unless it is said otherwise; there is no event store then.
    """
    choice: ComponentChoice | None = getattr(config, kind)
    if choice is None and kind == "event_store":
        raise ConfigError("event_store: none is configured")
    if choice is None and kind == "result_store" and config.task_queue is not None:
        given = {name: value for name, value in config.task_queue.config.items() if name not in OF_QUEUES}
        choice = replace(config.task_queue, config=given)
    return resolve(kind, choice, config.project_name, **fallbacks(config))


def fallbacks(config: OmniQConfig) -> Fallbacks:
    """What a whole configuration says for choices that say nothing."""
    return {"base_dir": config.base_dir, "fsspec_uri": config.fsspec_uri}


def spec_of(kind: StoreKind, struct: type[ComponentConfig]) -> StoreSpec:
    """The spec of the store that this struct configures. Raises `ConfigError`."""
    if (found := _find_spec(kind, struct)) is not None:
        return found
    title = STORES[kind].title()
    raise ConfigError(f"{kind}: {struct.__name__} isn't the configuration of an installed {title}")


def _find_spec(kind: StoreKind, struct: type[ComponentConfig]) -> StoreSpec | None:
    plugins = registry()
    for spec in (plugins.store(kind, name) for name in plugins.names(kind)):
        if spec.config == f"{struct.__module__}:{struct.__qualname__}":
            return spec
    return None


# ── a component that is made by hand ────────────────────────────────────────


def with_environment(type_: type[C], given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a component that is made by hand, over what the environment and the file of OMNIQ_CONFIG say.

    What all stores have is taken from there. Where the store is, and all else, is taken where the same store is meant
    there, unless an argument says where. Raises `ConfigError` or `PluginError`.
    """
    kind = next((kind for kind, base in CONFIGS.items() if issubclass(type_, base)), None)
    if kind is None:
        return {**given}
    config, spec = ambient(), _find_spec(kind, type_)
    choice: ComponentChoice = getattr(config, kind) or ComponentChoice()
    common = {name: value for name, value in choice.config.items() if name in COMMON[kind]}
    if spec is not None and PLACES.isdisjoint(given):
        if not _means(choice, spec):
            choice = ComponentChoice(type=spec.name)
        common |= given_fields(_placed(kind, spec, type_, choice, fallbacks(config)))
    known = {name: value for name, value in common.items() if name in type_.__struct_fields__}
    return {**known, **given}


def completed(config: C) -> C:
    """A struct that was given in code, which says everything but what is None: for that, the environment is asked.

    Raises `ConfigError` or `PluginError`.
    """
    given = {name: value for name, value in asdict(config).items() if value is not None}
    return replace(config, **with_environment(type(config), given))


def said_by_url(config: ComponentConfig) -> dict[str, Any]:
    """The fields that a URL says: where the store is, wholly, and what it mentions of what all stores have."""
    mentioned, everywhere = given_fields(config), COMMON["task_queue"]
    own = {name: value for name, value in asdict(config).items() if value is not None and name not in everywhere}
    return {**own, **mentioned}


def _means(choice: ComponentChoice, spec: StoreSpec) -> bool:
    """Whether the choice is this store."""
    if choice.type is not None:
        return choice.type in spec.names
    if choice.url is not None:
        return url_scheme(choice.url) in spec.url_schemes
    return False
