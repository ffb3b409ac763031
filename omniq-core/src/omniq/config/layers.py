"""Layers of configuration, laid over one another. A layer is plain data in the shape of `OmniQConfig`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeAlias, get_args
from urllib.parse import parse_qs

from msgspec import NODEFAULT, Struct
from msgspec.structs import FieldInfo, fields

from omniq.config.bounds import check_bounds
from omniq.errors import ConfigError, PluginError
from omniq.plugins.registry import Registry
from omniq.plugins.specs import StoreKind

Layer: TypeAlias = dict[str, Any]

STORE_KINDS: Final[tuple[StoreKind, ...]] = get_args(StoreKind)
COMMON: Final[Mapping[StoreKind, frozenset[str]]] = {
    "task_queue": frozenset({"project_name", "queues", "serializer", "max_body"}),
    "result_store": frozenset({"project_name"}),
    "event_store": frozenset({"project_name"}),
}
"""What the configurations of all stores of a kind have."""

_SETTINGS: Final[Mapping[str, str]] = {
    "ACCEPT_UNSIGNED_UNTIL": "accept_unsigned_until",
    "ALLOWED_MODULES": "allowed_modules",
    "BASE_DIR": "base_dir",
    "COMPONENT_LOG_LEVELS": "logging.components",
    "DEFAULT_WORKER": "worker.type",
    "DISABLE_LOGGING": "logging.disable",
    "EVENT_STORAGE_TYPE": "event_store.type",
    "EVENT_STORAGE_URL": "event_store.url",
    "FSSPEC_URI": "fsspec_uri",
    "GEVENT_WORKERS": "worker.sizes.gevent",
    "LOG_LEVEL": "logging.level",
    "MAX_BODY": "task_queue.config.max_body",
    "MAX_WORKERS": "worker.config.max_workers",
    "PROCESS_WORKERS": "worker.sizes.process",
    "PROJECT_NAME": "project_name",
    "QUEUES": "task_queue.config.queues",
    "RESULT_STORAGE_TYPE": "result_store.type",
    "RESULT_STORAGE_URL": "result_store.url",
    "RESULT_TTL": "defaults.result_ttl",
    "RETRY_ATTEMPTS": "defaults.max_retries",
    "RETRY_DELAY": "defaults.retry_delay",
    "SERIALIZER": "task_queue.config.serializer",
    "SIGNING_KEY": "signing_key",
    "TASK_QUEUE_TYPE": "task_queue.type",
    "TASK_QUEUE_URL": "task_queue.url",
    "TASK_TIMEOUT": "defaults.timeout",
    "TASK_TTL": "defaults.ttl",
    "THREAD_WORKERS": "worker.sizes.thread",
}


def from_settings(given: Mapping[str, Any]) -> Layer:
    """The settings that were given, each at its place."""
    layer: Layer = {}
    for name, value in given.items():
        *parents, key = _SETTINGS[name].split(".")
        inner = layer
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[key] = value
    return layer


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


def given_fields(struct: Struct) -> dict[str, Any]:
    """The fields of a struct that differ from their defaults."""
    values = {field.name: (getattr(struct, field.name), _default(field)) for field in fields(struct)}
    return {name: value for name, (value, default) in values.items() if value != default}


def _default(field: FieldInfo) -> object:
    return field.default if field.default_factory is NODEFAULT else field.default_factory()


def merge(lower: Layer, upper: Layer, registry: Registry) -> Layer:
    """Both, with the upper one's word where they disagree. Each must be valid on its own."""
    merged = _merge(lower, upper)
    for kind in STORE_KINDS:
        if kind in lower and kind in upper:
            merged[kind] = _component(kind, lower[kind], upper[kind], registry)
    if "max_workers" in upper.get("worker", {}).get("config", {}):
        merged["worker"]["sizes"] = upper["worker"].get("sizes", {})
    return merged


def turns_dill_off(layer: Layer) -> bool:
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
        return None if url is None else registry.by_url(kind, url).name
    except (PluginError, ConfigError):
        return type_ or url
