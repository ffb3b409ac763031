"""`ConfigProvider`: one configuration from arguments, the environment, a file and the defaults, in this order."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final, get_args
from urllib.parse import parse_qs

from msgspec import Struct

from omniq.config.convert import check_bounds, convert, given_fields, url_scheme
from omniq.config.model import OmniQConfig
from omniq.config.settings import EnvConfig, Layer, environment, from_settings
from omniq.errors import ConfigError, PluginError
from omniq.models.redaction import mask_url
from omniq.plugins.registry import Registry, registry
from omniq.plugins.specs import StoreKind

STORE_KINDS: Final[tuple[StoreKind, ...]] = get_args(StoreKind)
COMMON: Final[Mapping[StoreKind, frozenset[str]]] = {
    "task_queue": frozenset({"project_name", "queues", "serializer", "max_body"}),
    "result_store": frozenset({"project_name"}),
    "event_store": frozenset({"project_name"}),
}
"""What the configurations of all stores of a kind have."""

PROTECTIONS: Final = frozenset({"ACCEPT_UNSIGNED_UNTIL", "ALLOWED_MODULES", "SERIALIZER", "SIGNING_KEY"})
"""The settings that hold beside a complete `OmniQConfig` that doesn't mention them."""


class ConfigProvider:
    """Loads the configuration, anew at every `load`.

    `source` is the path of a YAML file or a dict; without one, the file that OMNIQ_CONFIG names is read, if any.
    Or it is an `OmniQConfig`, which says everything: then the environment adds nothing but the protections that it
    has, such as a signing key. `environ` and `plugins` stand in for the process's own.
    """

    def __init__(
        self,
        source: str | os.PathLike[str] | Mapping[str, Any] | OmniQConfig | None = None,
        *,
        environ: Mapping[str, str] | None = None,
        plugins: Registry | None = None,
    ) -> None:
        self._environ = environment() if environ is None else environ
        self._source = source if source is not None else EnvConfig(self._environ).config_file()
        self._registry = plugins or registry()

    def load(self, **arguments: Any) -> OmniQConfig:
        """What holds: argument over environment over source over default.

        The arguments are named as the fields of `OmniQConfig`; None is as good as not given. Where the
        environment or an argument gives a store's URL, or another type, what the source says of that store
        is dropped, but for what all stores have: `project_name`, `queues` and `serializer`. Who turns dill off,
        by `serializer="msgspec"`, is overruled by nobody.

        Raises `ConfigError`, whose message begins with the variable or with the path of the entry.
        """
        merged: Layer = {}
        given = [*self._lower_layers(), _checked(arguments)]
        for layer in given:
            merged = merge(merged, layer, self._registry)
        if any(map(_turns_dill_off, given)):
            merged["task_queue"].setdefault("config", {})["serializer"] = "msgspec"
        return convert(merged, OmniQConfig)

    def _lower_layers(self) -> tuple[Layer, Layer]:
        given = EnvConfig(self._environ).given()
        if not isinstance(self._source, OmniQConfig):
            return _read(self._source), from_settings(given)
        protections = {name: given[name] for name in PROTECTIONS & given.keys()}
        return from_settings(protections), _checked(self._source)


def _read(source: str | os.PathLike[str] | Mapping[str, Any] | None) -> Layer:
    if source is None or isinstance(source, Mapping):
        return _checked_source(source or {})
    if not isinstance(source, str | os.PathLike):
        raise ConfigError(f"config: expected a file's path, a mapping or an OmniQConfig, got {type(source).__name__}")
    from omniq.config.files import load_yaml  # it imports yaml, which few need

    try:
        return _checked_source(load_yaml(source))
    except ConfigError as error:
        name = mask_url(os.fspath(source))
        raise ConfigError(str(error) if name in str(error) else f"{error} (in {name})") from None


def _checked_source(source: Mapping[str, Any]) -> Layer:
    """A file's or dict's layer, in which protections aren't turned off by values that turned out empty."""
    empty = next((name for name in ("signing_key", "allowed_modules") if source.get(name, "") is None), None)
    if empty is not None:
        raise ConfigError(f"{empty}: it is empty; leave it out where nothing is meant")
    return _checked(source)


def _checked(source: Mapping[str, Any] | OmniQConfig) -> Layer:
    """The layer, if it is valid on its own, so that layers can be merged without looking twice."""
    layer = from_source(source)
    unknown: Layer = {}
    if isinstance(source, Mapping):  # a name with nothing behind it may be a protection that is misspelt
        unknown = {name: value for name, value in source.items() if name not in OmniQConfig.__struct_fields__}
    convert({**unknown, **layer}, OmniQConfig)
    return layer


# ── layers, laid over one another ──────────────────────────────────────────────


def from_source(source: Mapping[str, Any] | Struct) -> Layer:
    """A dict, a struct or arguments as a layer: what is None isn't given, "redis://…" and "redis" are short forms."""
    check_bounds(source)
    layer = {key: value for key, value in _plain(source).items() if value is not None}
    for kind in STORE_KINDS:
        if isinstance(text := layer.get(kind), str):
            layer[kind] = {"url": text} if "://" in text else {"type": text}
    if isinstance(text := layer.get("worker"), str):
        layer["worker"] = {"type": text}
    return layer


def _plain(value: Any) -> Any:
    """Mappings as dicts, structs as dicts of what differs from their defaults."""
    if isinstance(value, Struct):
        return _plain(given_fields(value))
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return value


def merge(lower: Layer, upper: Layer, registry: Registry) -> Layer:
    """Both, with the upper one's word where they disagree. Each must be valid on its own."""
    merged = _merge(lower, upper)
    for kind in STORE_KINDS:
        if kind in lower and kind in upper:
            merged[kind] = _component(kind, lower[kind], upper[kind], registry)
    if "max_workers" in upper.get("worker", {}).get("config", {}):
        merged["worker"]["sizes"] = upper["worker"].get("sizes", {})
    return merged


def _turns_dill_off(layer: Layer) -> bool:
    """Whether it says `serializer="msgspec"`, in the task queue's configuration or in its URL."""
    queue = layer.get("task_queue", {})
    in_url = parse_qs(str(queue.get("url", "")).partition("?")[2]).get("serializer", [])
    return "msgspec" in (queue.get("config", {}).get("serializer"), *in_url)


def _merge(lower: Layer, upper: Layer) -> Layer:
    merged = dict(lower)
    for key, value in upper.items():
        both = isinstance(value, Mapping) and isinstance(lower.get(key), Mapping)
        merged[key] = _merge(lower[key], value) if both else value
    return merged


def _component(kind: StoreKind, lower: Layer, upper: Layer, registry: Registry) -> Layer:
    """A URL, or another backend, replaces the choice below; of its configuration, only what all stores have stays."""
    if upper.get("url") is not None or _differ(_backend(kind, lower, registry), _backend(kind, upper, registry)):
        config = lower.get("config", {})
        lower = {"config": {key: config[key] for key in config.keys() & COMMON[kind]}}
    return _merge(lower, upper)


def _differ(lower: str | None, upper: str | None) -> bool:
    return None not in (lower, upper) and lower != upper


def _backend(kind: StoreKind, choice: Layer, registry: Registry) -> str | None:
    """The name of the chosen backend, aliases resolved; what was given, where that can't be found out."""
    type_, url = choice.get("type"), choice.get("url")
    try:
        if type_ is not None:
            return registry.store(kind, type_).name
        return None if url is None else registry.by_scheme(kind, url_scheme(url)).name
    except (PluginError, ConfigError):
        return type_ or url
