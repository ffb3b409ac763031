"""The configuration by its values: where each comes from, which differ, which may change at run time; its schema."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple, TypeAlias, TypedDict, get_type_hints

import msgspec
from msgspec import Struct
from msgspec.structs import asdict, fields, replace

from omniq.config.choices import CONFIGS
from omniq.config.convert import FromVariable, convert
from omniq.config.loader import ConfigProvider, OmniQConfig, Origin, config_of
from omniq.config.settings import PREFIX, SETTING_PLACES, LogLevel, Settings
from omniq.errors import ConfigError, PluginError
from omniq.models.config import MASK, NOT_BLANK, ComponentConfig, WorkerConfig, is_secret, redact
from omniq.models.event import EventLevel, EventType
from omniq.plugins.registry import load_class, registry
from omniq.plugins.specs import StoreKind
from omniq.texts import did_you_mean

Leaves: TypeAlias = dict[str, Any]
"""Values by their paths, such as "worker.config.lease"."""

# ── values by their paths ───────────────────────────────────────────────────


def leaves(data: object, path: str = "") -> Leaves:
    """The values of a configuration by their paths. An empty mapping has none; a list is one value."""
    if isinstance(data, Struct):
        data = asdict(data)
    if not isinstance(data, Mapping):
        return {path: str(data) if isinstance(data, FromVariable) else data}
    inner: Leaves = {}
    for name, value in data.items():
        inner |= leaves(value, f"{path}.{name}" if path else str(name))
    return inner


def differences(old: OmniQConfig, new: OmniQConfig) -> dict[str, tuple[Any, Any]]:
    """The values that aren't the same: by their paths, the old one and the new one; None where there is none."""
    before, after = leaves(old), leaves(new)
    pairs = {path: (before.get(path), after.get(path)) for path in {**before, **after}}
    return {path: pair for path, pair in pairs.items() if pair[0] != pair[1]}


class Value(NamedTuple):
    """A value of the configuration, and where it comes from."""

    path: str
    value: Any
    origin: str
    """"default", "argument", "code", "environment: OMNIQ_…" or "file: …"."""

    @property
    def shown(self) -> Any:
        """The value; a secret is masked."""
        name = self.path.rpartition(".")[2]
        return MASK if self.value is not None and is_secret(name) else redact(self.value)


def values(provider: ConfigProvider, **arguments: Any) -> list[Value]:
    """Each value that holds, in the order of the structs, and where it comes from. Raises `ConfigError`."""
    config = provider.load(**arguments)
    layers = [(origin, leaves(layer)) for origin, layer in provider.layers(**arguments)]
    return [Value(path, value, _origin(path, value, layers)) for path, value in leaves(config).items()]


def _origin(path: str, value: Any, layers: Sequence[tuple[Origin, Leaves]]) -> str:
    for origin, said in reversed(layers):
        if path in said:
            if origin.kind == "environment":
                return f"environment: {_variable(path)}"
            return f"file: {origin.name}" if origin.kind == "file" else origin.kind
    return "default"


def _variable(path: str) -> str:
    """The variable whose value stands there."""
    longest = max((place for place in _SETTINGS if f"{path}.".startswith(f"{place}.")), key=len)
    return PREFIX + _SETTINGS[longest]


_SETTINGS: Final[Mapping[str, str]] = {place: name for name, place in SETTING_PLACES.items()}
"""The setting at each place."""

# ── what may change at run time ─────────────────────────────────────────────


SECTIONS: Final = ("logging", "events", "defaults")
"""What may change as a whole."""
OF_WORKERS: Final = ("max_workers", "grace_period")
"""What may change of a worker's configuration."""
_WORDS: Final[Mapping[str, str]] = {
    **{name.lower(): place for name, place in SETTING_PLACES.items()},
    **{field.name: f"worker.config.{field.name}" for field in fields(WorkerConfig)},
}
"""Where each word that `configure` knows stands."""


class Changes(TypedDict, total=False):
    """What `OmniQ.configure` takes: the settings that may change at run time, in lower case. Durations are seconds."""

    log_level: LogLevel | None
    """Of the library's loggers in the whole process, as are the next two; child processes follow when replaced."""
    component_log_levels: Mapping[str, LogLevel] | None
    disable_logging: bool
    event_types: Collection[EventType | str] | None
    """The only types of events that are kept; None: all."""
    event_level: EventLevel | str
    event_logging: bool
    event_retention: float | None
    event_buffer: int
    max_workers: int | None
    """Tasks that run at once, whatever kind of worker; those that run are left alone. None: as many as by default."""
    thread_workers: int
    process_workers: int
    gevent_workers: int
    grace_period: float
    task_timeout: float | None
    """What a task gets from now on that says nothing itself, as are the next ones."""
    task_ttl: float | None
    retry_attempts: int
    retry_delay: float
    retry_factor: float
    retry_max_delay: float
    retry_jitter: float
    result_ttl: float | None


CHANGEABLE: Final = tuple(Changes.__annotations__)


class Reloaded(NamedTuple):
    """What has changed in the configuration file, each in a line; secrets are masked."""

    changed: list[str]
    """What holds from now on."""
    restart: list[str]
    """What holds after a restart."""

    @classmethod
    def of(cls, old: OmniQConfig, new: OmniQConfig) -> Reloaded:
        """The differences between two configurations."""
        told = cls([], [])
        for path, pair in differences(old, new).items():
            before, after = (Value(path, value, "").shown for value in pair)
            (told.changed if may_change(path) else told.restart).append(f"{path}: {before!r} → {after!r}")
        return told


def words_of(changes: Mapping[str, Any], section: str) -> list[str]:
    """Those of the changes that are in a section of the configuration, such as "events"."""
    return [word for word in changes if _WORDS[word].partition(".")[0] == section]


def may_change(path: str) -> bool:
    """Whether the value at a path may change at run time."""
    first, _, rest = path.partition(".")
    return first in SECTIONS or (first == "worker" and rest.rpartition(".")[2] in OF_WORKERS)


def changed(config: OmniQConfig, changes: Mapping[str, Any]) -> OmniQConfig:
    """The configuration with these changes. Raises `ConfigError` naming the one that can't be."""
    for word, value in changes.items():
        config = _set(config, _place(word), _value(word, value))
    return config


def adopted(old: OmniQConfig, new: OmniQConfig) -> OmniQConfig:
    """The old configuration, with what may change at run time as in the new one."""
    given = {name: getattr(new.worker.config, name) for name in OF_WORKERS}
    options: dict[str, dict[str, Any]] = {}
    for kind in {**old.worker.options, **new.worker.options}:
        kept = {name: value for name, value in old.worker.options.get(kind, {}).items() if name not in OF_WORKERS}
        said = new.worker.options.get(kind, {})
        options[kind] = kept | {name: said[name] for name in OF_WORKERS if name in said}
    worker = replace(old.worker, config=replace(old.worker.config, **given), options=options)
    return replace(old, worker=worker, **{section: getattr(new, section) for section in SECTIONS})


def _place(word: str) -> str:
    if word in CHANGEABLE:
        return _WORDS[word]
    if word in _WORDS or word in OmniQConfig.__struct_fields__:
        variable = f"{PREFIX}{word.upper()}" if word.upper() in SETTING_PLACES else "another configuration"
        raise ConfigError(f"{word}: it can't change at run time: restart with {variable}")
    guess = did_you_mean(word, _WORDS) or f"; known: {', '.join(CHANGEABLE)}"
    raise ConfigError(f"{word}: unknown name{guess}")


def _value(word: str, value: object) -> object:
    """The value as it is kept. Raises `ConfigError` naming the word."""
    if isinstance(value, str) and word == "log_level":
        value = value.upper()
    elif isinstance(value, set | frozenset | tuple):
        value = list(value)
    types = get_type_hints(Settings, include_extras=True) | get_type_hints(WorkerConfig, include_extras=True)
    return convert(value, types[word.upper() if word.upper() in types else word], word)


def _set(config: OmniQConfig, place: str, value: object) -> OmniQConfig:
    """The configuration with another value at a place; `max_workers` of one kind gives way to that of all."""
    first, *rest = place.split(".")
    if first in SECTIONS:
        section = getattr(config, first)
        value = {} if value is None and rest[0] == "components" else value
        return replace(config, **{first: replace(section, **{rest[0]: value})})
    worker = config.worker
    if rest[0] == "options":
        options = {**worker.options, rest[1]: {**worker.options.get(rest[1], {}), rest[2]: value}}
        return replace(config, worker=replace(worker, options=options))
    options = {
        kind: {name: said for name, said in given.items() if name != rest[1]} for kind, given in worker.options.items()
    }
    return replace(config, worker=replace(worker, config=replace(worker.config, **{rest[1]: value}), options=options))


# ── the schema of a file ────────────────────────────────────────────────────


DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
VARIABLE: Final = {"type": "string", "pattern": r"\$\{"}
"""What may stand for a number, a truth value or one of a few words: `${NAME}`."""
_NULL: Final = {"type": "null"}


def schema() -> dict[str, Any]:
    """The JSON Schema of a configuration file, with what the installed stores and workers take, plugins' too."""
    stores = {kind: _store_structs(kind) for kind in CONFIGS}
    workers = _worker_structs()
    structs = [OmniQConfig, *(struct for found in stores.values() for struct in found.values()), *workers.values()]
    refs, defs = msgspec.json.schema_components(structs, ref_template="#/$defs/{name}")
    ref_of = dict(zip(structs, refs, strict=True))
    for kind, found in stores.items():
        defs[f"{kind}_place"] = _place_schema(defs["ComponentChoice"], {name: ref_of[it] for name, it in found.items()})
        defs["OmniQConfig"]["properties"][kind] = {"$ref": f"#/$defs/{kind}_place"}
    options = {name: {**ref_of[struct]} for name, struct in workers.items()}
    defs["WorkerChoice"]["properties"]["options"] = {"type": "object", "properties": options}
    whole = defs.pop("OmniQConfig")
    whole["properties"]["worker"] = {"anyOf": [whole["properties"]["worker"], {"type": "string"}]}
    whole["properties"] = {name: {"anyOf": [inner, _NULL]} for name, inner in whole["properties"].items()}
    return {"$schema": DIALECT, **_portable(whole), "title": "omniq.yaml", "$defs": _portable(defs)}


def _store_structs(kind: StoreKind) -> dict[str, type[ComponentConfig]]:
    """By their names and aliases. One whose struct can't be loaded is left out: `plugins doctor` tells of it."""
    found: dict[str, type[ComponentConfig]] = {}
    for spec in (registry().store(kind, name) for name in registry().names(kind)):
        with suppress(PluginError):
            found |= dict.fromkeys(spec.names, load_class(spec.config, CONFIGS[kind]))
    return found


def _worker_structs() -> dict[str, type[WorkerConfig]]:
    found: dict[str, type[WorkerConfig]] = {}
    for name in registry().names("worker"):
        with suppress(PluginError):
            found[name] = config_of(name)
    return found


def _place_schema(choice: Mapping[str, Any], configs: Mapping[str, Any]) -> dict[str, Any]:
    """Where a component is: a URL, a name, or type, url and config, whose names those of the type are."""
    kinds = {"anyOf": [{"enum": [*configs]}, VARIABLE]}
    rules = [
        {
            "if": {"properties": {"type": {"const": name}}, "required": ["type"]},
            "then": {"properties": {"config": ref}},
        }
        for name, ref in configs.items()
    ]
    properties = {**choice["properties"], "type": kinds}
    return {
        "anyOf": [{"type": "string", "pattern": NOT_BLANK}, {**choice, "properties": properties, "allOf": rules}, _NULL]
    }


def _portable(node: Any) -> Any:
    """The schema as other languages read it, with variables where they may stand."""
    if isinstance(node, list):
        return [_portable(inner) for inner in node]
    if not isinstance(node, dict):
        return node
    inner = {name: _portable(value) for name, value in node.items()}
    if isinstance(inner.get("pattern"), str):
        inner["pattern"] = inner["pattern"].replace(r"\Z", "$")
    if inner.get("type") in ("integer", "number", "boolean") or ("enum" in inner and "$ref" not in inner):
        kept = {name: inner.pop(name) for name in ("title", "description", "default") if name in inner}
        return {"anyOf": [inner, VARIABLE], **kept}
    return inner
