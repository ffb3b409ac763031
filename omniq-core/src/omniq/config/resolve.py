"""From a choice (type, URL, dict) to the spec of a component and the struct that configures it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, Literal, TypedDict, Unpack, overload

from omniq.config.choices import ComponentChoice
from omniq.config.convert import convert, describe
from omniq.config.env import EnvConfig
from omniq.config.layers import given_fields
from omniq.errors import ConfigError, UnknownBackend
from omniq.models.config import ComponentConfig, EventStorageConfig, ResultStorageConfig, TaskQueueConfig
from omniq.models.redaction import mask_url
from omniq.plugins.registry import STORES, Registry, load_class, registry, url_scheme
from omniq.plugins.specs import EventStoreSpec, ResultStoreSpec, StoreKind, StoreSpec, TaskQueueSpec
from omniq.storage.capabilities import Capability
from omniq.suggest import install_command

DEFAULT_STORE: Final = "sqlite"
CONFIGS: Final[Mapping[StoreKind, type[ComponentConfig]]] = {
    "task_queue": TaskQueueConfig,
    "result_store": ResultStorageConfig,
    "event_store": EventStorageConfig,
}

_IN_URL: Final = re.compile(r"\Aurl(: |\.)")


class Around(TypedDict, total=False):
    """What surrounds a choice; where it isn't given, the environment has the word."""

    base_dir: str
    """`OmniQConfig.base_dir`: where a store that keeps files goes if it isn't told where."""
    fsspec_uri: str | None
    """`OmniQConfig.fsspec_uri`: the same, before `base_dir`, for the stores that take such URLs."""
    plugins: Registry
    """Stands in for the process's registry."""


@overload
def resolve(
    kind: Literal["task_queue"],
    choice: ComponentChoice | None,
    project_name: str | None = None,
    **around: Unpack[Around],
) -> tuple[TaskQueueSpec, TaskQueueConfig]: ...
@overload
def resolve(
    kind: Literal["result_store"],
    choice: ComponentChoice | None,
    project_name: str | None = None,
    **around: Unpack[Around],
) -> tuple[ResultStoreSpec, ResultStorageConfig]: ...
@overload
def resolve(
    kind: Literal["event_store"],
    choice: ComponentChoice | None,
    project_name: str | None = None,
    **around: Unpack[Around],
) -> tuple[EventStoreSpec, EventStorageConfig]: ...
def resolve(
    kind: StoreKind, choice: ComponentChoice | None, project_name: str | None = None, **around: Unpack[Around]
) -> tuple[StoreSpec, ComponentConfig]:
    """The chosen store's spec and configuration; without a choice, the default store's.

    Imports the module of its config struct and nothing else of it. Raises `ConfigError` beginning with the
    path, such as `task_queue.config.port`, and `PluginError` for a backend that is missing or unusable.
    """
    plugins = around.get("plugins") or registry()
    choice = choice or ComponentChoice()
    spec = _spec(kind, choice, plugins)
    type_ = load_class(spec.config, CONFIGS[kind])
    data = _placed(kind, spec, type_, choice, around)
    if project_name is not None:
        data.setdefault("project_name", project_name)
    return spec, convert(data, type_, f"{kind}.config")


def _spec(kind: StoreKind, choice: ComponentChoice, plugins: Registry) -> StoreSpec:
    if choice.url is None:
        return plugins.store(kind, choice.type or default_type(kind, plugins))
    try:
        scheme = url_scheme(choice.url)
    except ConfigError as error:
        raise ConfigError(f"{kind}.{error}") from None
    if choice.type is None:
        return plugins.by_url(kind, choice.url)
    spec = plugins.store(kind, choice.type)
    if scheme not in spec.url_schemes:
        takes = " or ".join(f"{known}://" for known in spec.url_schemes) or "no URL"
        raise ConfigError(f"{kind}.url: {scheme}:// doesn't fit type {choice.type!r}, which takes {takes}")
    return spec


def _placed(
    kind: StoreKind, spec: StoreSpec, type_: type[ComponentConfig], choice: ComponentChoice, around: Around
) -> dict[str, Any]:
    """The choice's data with the place filled in: its own URL or `base_dir`, else that of what surrounds it."""
    if choice.url is not None:
        return {**_from_url(f"{kind}.url", type_, choice.url), **choice.config}
    if "base_dir" in choice.config:
        return dict(choice.config)
    settings = EnvConfig().settings()
    uri = around.get("fsspec_uri") or settings.FSSPEC_URI
    if uri is not None and uri.partition("://")[0].lower() in spec.url_schemes:
        return {**_from_url("fsspec_uri", type_, uri), **choice.config}
    base_dir = around.get("base_dir") or settings.BASE_DIR
    return {"base_dir": base_dir, **choice.config} if "base_dir" in type_.__struct_fields__ else dict(choice.config)


def _from_url(path: str, type_: type[ComponentConfig], url: str) -> dict[str, Any]:
    """What the URL says. Raises `ConfigError`, such as `task_queue.url.port: expected int, got str`."""
    try:
        return given_fields(type_.from_url(url))
    except ConfigError as error:
        reason = _IN_URL.sub("", str(error), count=1).replace(url, mask_url(url))
    except ValueError:  # of the standard library, which may quote a piece of the password
        reason = f"not a URL that {type_.__name__} understands: {mask_url(url)}"
    raise ConfigError(mask_url(describe(reason, type_, path)))


def default_choice(kind: StoreKind, plugins: Registry | None = None) -> ComponentChoice:
    """The store that is used where nothing is configured: SQLite, else the only one that keeps its data.

    Raises `PluginError` if there is none or SQLite is broken, `ConfigError` if there are several.
    """
    return ComponentChoice(type=default_type(kind, plugins or registry()))


def default_type(kind: StoreKind, plugins: Registry) -> str:
    """The type of `default_choice`. Raises as it does."""
    try:
        return plugins.store(kind, DEFAULT_STORE).name
    except UnknownBackend:
        names = _durable(kind, plugins) or plugins.names(kind)
    if len(names) == 1:
        return names[0]
    if names:
        raise ConfigError(f"{kind}.type: not given, and several are installed: {', '.join(names)}")
    raise UnknownBackend(f"no {STORES[kind].title} is installed: {install_command(DEFAULT_STORE)}")


def _durable(kind: StoreKind, plugins: Registry) -> list[str]:
    """The stores that outlive the process: a memory store isn't what anybody wants without having said so."""
    return [name for name in plugins.names(kind) if Capability.PERSISTENT in plugins.store(kind, name).capabilities]
