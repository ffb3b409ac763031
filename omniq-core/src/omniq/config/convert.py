"""Where untyped data becomes typed: `msgspec.convert`, with errors that name the path; URLs, bounds, layers."""

from __future__ import annotations

import datetime as dt
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, TypeAlias, TypeVar, get_args
from urllib.parse import SplitResult, parse_qs, parse_qsl, unquote, urlsplit

import msgspec
from msgspec import NODEFAULT, Struct, inspect
from msgspec.structs import FieldInfo, fields

from omniq.errors import ConfigError, PluginError
from omniq.models.config import IMPORT_STRING, NAME, NOT_BLANK, mask_url
from omniq.plugins.registry import Registry
from omniq.plugins.specs import StoreKind
from omniq.texts import did_you_mean, encodable

T = TypeVar("T")

MAX_DEPTH: Final = 64
"""Mappings and lists inside one another."""
MAX_ITEMS: Final = 100_000
"""Keys and values, those that are shared counted at each place where they stand."""

_SCALARS: Final[Mapping[type, Any]] = {
    inspect.IntType: int,
    inspect.FloatType: float,
    inspect.BoolType: bool,
    inspect.NoneType: type(None),
}
"""What text from a variable may stand for."""

_MESSAGE = re.compile(r"(?P<what>.*?)(?: - at `(?P<key>key` in `)?\$\.?(?P<path>[^`]*)`)?", re.DOTALL)
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(.*)`")
_ENUM = re.compile(r"Invalid enum value (.*)", re.DOTALL)
_OWN_PATH = re.compile(r"\w+: ")
_ONLY_COLON = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+):(?P<rest>[^:].*)")
_STEP = re.compile(r"\[[^\]]*\]|[^.\[\]]+")


def convert(data: object, type_: type[T], where: str = "", *, strict: bool = True, keep_variables: bool = False) -> T:
    """The data as that type. Raises `ConfigError`, such as `where.port: expected int, got str`.

    `where` is the path of the data itself. Values aren't shown, unless one of a few words is expected. What contains
    itself, or stands for more than it should, is refused too. With `keep_variables`, what comes from variables still
    tells so where anything is allowed: somebody else will say what is expected there.
    """
    check_bounds(data, where)
    plain = _typed(_plain(data), type_, keep=keep_variables)
    try:
        return msgspec.convert(plain, type_, strict=strict)
    except msgspec.ValidationError as error:
        message = _with_key(str(error), plain, type_, strict=strict)
        raise ConfigError(mask_url(describe(message, type_, where))) from None
    except UnicodeEncodeError:
        path = next(_unencodable(plain), "")
        raise ConfigError(_joined(_join(where, path), "expected text, got half of a character")) from None


def _with_key(message: str, data: object, type_: Any, *, strict: bool) -> str:
    """msgspec's message, in which the key of a mapping stands where it says `[...]`, if that is fit to be shown."""
    match = _MESSAGE.fullmatch(message)
    before, dots, _ = ((match and match["path"]) or "").partition("[...]")
    key = next(_culprits(message, data, _STEP.findall(before), type_, strict), None) if dots else None
    if not isinstance(key, str) or not NAME.fullmatch(key):
        return message
    return message.replace(f"{before}[...]", f"{before}.{key}", 1)


def _culprits(message: str, data: object, steps: Sequence[str], type_: Any, strict: bool) -> Iterator[object]:
    """The keys of the mapping at the end of these steps which, alone in it, bring the message about."""
    for key in _keys_in(data, steps):
        try:
            msgspec.convert(_only(data, steps, key), type_, strict=strict)
        except msgspec.ValidationError as error:
            if str(error) == message:
                yield key


def _keys_in(data: Any, steps: Sequence[str]) -> Iterable[object]:
    for step in steps:
        data = data[int(step[1:-1])] if step.startswith("[") else data[step]
    return tuple(data) if isinstance(data, Mapping) else ()


def _only(data: Any, steps: Sequence[str], key: object) -> object:
    """The data, with nothing but that key in the mapping at the end of these steps."""
    if not steps:
        return {key: data[key]}
    step, *others = steps
    if step.startswith("["):
        number = int(step[1:-1])
        return [*data[:number], _only(data[number], others, key), *data[number + 1 :]]
    return {**data, step: _only(data[step], others, key)}


def _unencodable(data: object, path: str = "") -> Iterator[str]:
    """The paths of texts that UTF-8 can't carry."""
    if isinstance(data, Mapping):
        for key, value in data.items():
            yield from _unencodable(value, _join(path, str(key)))
    elif isinstance(data, list | tuple):
        for number, value in enumerate(data):
            yield from _unencodable(value, f"{path}[{number}]")
    elif isinstance(data, str) and encodable(data) != data:
        yield path


def _plain(data: object) -> object:
    """Paths as text and durations as seconds, also as the values of a mapping: what arguments may be."""
    if isinstance(data, Mapping):
        return {key: _plain(value) if not isinstance(value, Mapping) else value for key, value in data.items()}
    if isinstance(data, os.PathLike):
        return os.fspath(data)
    return data.total_seconds() if isinstance(data, dt.timedelta) else data


class FromVariable(str):
    """Text that a file has from a variable: it becomes a number or a truth value where one is expected."""


def _typed(data: object, type_: Any, path: str = "", *, keep: bool = False) -> object:
    """The data, in which what came from variables is of the type that is expected where it stands."""
    if isinstance(data, FromVariable):
        return _typed_text(data, _at(type_, path), keep=keep)
    if isinstance(data, Mapping):
        return {key: _typed(value, type_, f"{path}.{key}", keep=keep) for key, value in data.items()}
    if isinstance(data, list):
        return [_typed(value, type_, f"{path}[0]", keep=keep) for value in data]
    return data


def _typed_text(text: FromVariable, expected: Sequence[inspect.Type], *, keep: bool) -> object:
    """The text, or the value that it stands for, where that is expected and text isn't."""
    if keep and any(isinstance(info, inspect.AnyType) for info in expected):
        return text
    is_scalar = all(type(info) in _SCALARS for info in expected)
    for kind in [_SCALARS[type(info)] for info in expected] if is_scalar else ():
        with suppress(msgspec.ValidationError):
            return msgspec.convert(text.strip(), kind, strict=False)
    return str(text)


def given_fields(struct: Struct) -> dict[str, Any]:
    """The fields of a struct that differ from their defaults."""
    values = {field.name: (getattr(struct, field.name), _default(field)) for field in fields(struct)}
    return {name: value for name, (value, default) in values.items() if value != default}


def _default(field: FieldInfo) -> object:
    return field.default if field.default_factory is NODEFAULT else field.default_factory()


# ── URLs that say where a store is: what all stores' have in common ────────────


def url_scheme(url: str) -> str:
    """The scheme of a URL, in lower case. Raises `ConfigError` if it isn't one."""
    check_url(url)
    scheme, separator, _ = url.partition("://")
    if not separator or not scheme:
        expected = f"url: expected a URL such as sqlite:///path/to/file.db, got {mask_url(url)!r}"
        raise ConfigError(expected + did_you_mean_url(url))
    return scheme.lower()


def did_you_mean_url(text: str) -> str:
    """A guess at the URL that is meant by one without slashes, such as "sqlite:orders.db"."""
    match = _ONLY_COLON.fullmatch(text)
    if match is None:
        return ""
    scheme, rest = match["scheme"].lower(), match["rest"].lstrip("/")
    slashes = ":////" if match["rest"].startswith("/") else ":///"
    is_file = scheme in ("sqlite", "file")
    return f", did you mean {mask_url(scheme + (slashes if is_file else '://') + rest)!r}?"


def check_url(url: object) -> None:
    """Raise `ConfigError` unless that is text."""
    if not isinstance(url, str):
        raise ConfigError(f"url: expected text such as 'sqlite:///data/shop.db', got {type(url).__name__}")


def checked_mapping(config: object) -> Mapping[str, Any]:
    """The dict that a configuration is given as. Raises `ConfigError` for anything else."""
    if not isinstance(config, Mapping):
        raise ConfigError(f"config: expected a mapping, got {type(config).__name__}")
    if not all(isinstance(name, str) for name in config):
        raise ConfigError("config: keys must be text")
    return config


def check_path(path: object) -> None:
    """Raise `ConfigError` unless that can be the path of a file."""
    if not isinstance(path, str | os.PathLike) or not isinstance(os.fspath(path), str):
        raise ConfigError(f"path: expected that of a file, got {type(path).__name__}")
    if not os.fspath(path):
        raise ConfigError("path: expected that of a file, and it is empty")


def read_url(url: str, config: type[T], place_of: Callable[[SplitResult], dict[str, Any]]) -> T:
    """The configuration: what `place_of` reads of the URL's parts, and its query as further fields.

    Raises `ConfigError`, such as `url.timout: unknown name, did you mean 'timeout'?`.
    """
    url_scheme(url)
    try:
        parts = urlsplit(url, allow_fragments=False)
        options = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
        return convert({**place_of(parts), **options}, config, "url", strict=False)
    except ConfigError:
        raise
    except ValueError:  # of the standard library: it may quote a piece of the password
        raise ConfigError("url: the host, port or query can't be read") from None


def user_of(parts: SplitResult) -> dict[str, Any]:
    """`username` and `password`, as far as they are given."""
    username, _, password = parts.netloc.rpartition("@")[0].partition(":")
    given = {"username": unquote(username), "password": unquote(password)}
    return {name: value for name, value in given.items() if value}


def hosts_of(parts: SplitResult) -> str:
    """The host, or hosts, with their ports, as they are written."""
    return parts.netloc.rpartition("@")[2]


# ── how large and how deep: a small file can't stand for an endless one ────────


def check_bounds(data: object, where: str = "") -> None:
    """Raise `ConfigError` if the data is too large, is nested too deeply, or contains itself."""
    if _size(data, {}, MAX_DEPTH, where) > MAX_ITEMS:
        raise ConfigError(_joined(where, f"it has more than {MAX_ITEMS} items: what is shared counts at each place"))


def _size(data: object, known: dict[int, int], depth: int, where: str) -> int:
    """How many items there are, shared ones counted as often as they occur, but looked at once."""
    inner = _parts(data)
    if inner is None:
        return 1
    if id(data) not in known:
        if not depth:
            raise ConfigError(_joined(where, f"it is nested deeper than {MAX_DEPTH} levels, or contains itself"))
        known[id(data)] = 1 + sum(_size(item, known, depth - 1, where) for item in inner)
    return known[id(data)]


def _parts(data: object) -> Iterable[object] | None:
    if isinstance(data, Mapping):
        return (part for item in data.items() for part in item)
    return data if isinstance(data, list | tuple | set | frozenset) else None


# ── layers, laid over one another ──────────────────────────────────────────────


Layer: TypeAlias = dict[str, Any]
"""Plain data in the shape of `OmniQConfig`."""
STORE_KINDS: Final[tuple[StoreKind, ...]] = get_args(StoreKind)
COMMON: Final[Mapping[StoreKind, frozenset[str]]] = {
    "task_queue": frozenset({"project_name", "queues", "serializer", "max_body"}),
    "result_store": frozenset({"project_name"}),
    "event_store": frozenset({"project_name"}),
}
"""What the configurations of all stores of a kind have."""

PLACES: Final = frozenset({"base_dir", "path", "host", "nodes", "servers", "unix_socket_path"})
"""The fields of our stores that say where one is."""


def from_source(source: Mapping[str, Any] | Struct) -> Layer:
    """A dict, a struct or arguments as a layer: what is None isn't given, "redis://…" and "redis" are short forms."""
    check_bounds(source)
    layer = {key: value for key, value in _as_plain(source).items() if value is not None}
    for kind in STORE_KINDS:
        if isinstance(text := layer.get(kind), str):
            layer[kind] = {"url": text} if ":" in text else {"type": text}
    if isinstance(text := layer.get("worker"), str):
        layer["worker"] = {"type": text}
    return layer


def _as_plain(value: Any) -> Any:
    """Mappings as dicts, structs as dicts of what differs from their defaults."""
    if isinstance(value, Struct):
        return _as_plain(given_fields(value))
    if isinstance(value, Mapping):
        return {key: _as_plain(item) for key, item in value.items()}
    return value


def merge(lower: Layer, upper: Layer, registry: Registry) -> Layer:
    """Both, with the upper one's word where they disagree. Each must be valid on its own."""
    if "max_workers" in upper.get("worker", {}).get("config", {}):
        lower = _without_sizes(lower)
    merged = _merge(lower, upper)
    for kind in STORE_KINDS:
        if kind in lower and kind in upper:
            merged[kind] = _component(kind, lower[kind], upper[kind], registry)
    return merged


def _without_sizes(layer: Layer) -> Layer:
    """The layer without the `max_workers` of one kind of worker: what is laid over it says it for all."""
    worker = layer.get("worker", {})
    options = {kind: {**given} for kind, given in worker.get("options", {}).items()}
    for given in options.values():
        given.pop("max_workers", None)
    return {**layer, "worker": {**worker, "options": options}}


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
    """A URL, or another backend, replaces the choice below; of its configuration, only what all stores have stays.

    Who says in other words where the store is replaces the URL below, with the password in it.
    """
    below = _backend(kind, lower, registry)
    if upper.get("url") is not None or _differ(below, _backend(kind, upper, registry)):
        config = lower.get("config", {})
        lower = {"config": {key: config[key] for key in config.keys() & COMMON[kind]}}
    elif not PLACES.isdisjoint(upper.get("config", {})) and lower.get("url") is not None:
        lower = {"type": below, "config": lower.get("config", {})}
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


# ── errors in our words ────────────────────────────────────────────────────────


def describe(message: str, type_: Any, where: str = "") -> str:
    """msgspec's message about data of that type, in our words: the path comes first."""
    match = _MESSAGE.fullmatch(message)
    assert match is not None  # it matches any text
    inside, what = match["path"] or "", match["what"]
    if unknown := _UNKNOWN.fullmatch(what) or (match["key"] and _ENUM.fullmatch(what)):
        name, colon, _ = unknown[1].strip("'").partition(":")
        if colon:  # what follows was meant as a value, and may be a secret
            return _join(where, inside, name) + ": a space is missing after the colon"
        return _join(where, inside, name) + ": unknown name" + _known(name, type_, inside)
    if missing := _MISSING.fullmatch(what):
        return _join(where, inside, missing[1]) + ": missing"
    if _OWN_PATH.match(what):  # from a struct's own `__post_init__`
        return _join(where, inside, what)
    words = "keys must be text" if match["key"] else _words(what, type_, inside)
    return _joined(_join(where, inside), words)


def _joined(where: str, words: str) -> str:
    return ": ".join(filter(None, (where, words)))


def _join(*parts: str) -> str:
    return ".".join(part for part in parts if part).replace(".[", "[")


def _known(name: str, type_: Any, inside: str) -> str:
    keys = _keys_at(type_, inside)
    return did_you_mean(name, keys) or f"; known: {', '.join(keys)}"


def _words(what: str, type_: Any, inside: str) -> str:
    if invalid := _ENUM.fullmatch(what):
        choices = _choices_at(type_, inside)
        meant = did_you_mean(invalid[1].strip("'"), choices)
        return f"expected one of {', '.join(map(repr, choices))}, got {invalid[1]}{meant}"
    if NAME.pattern in what:
        return "expected a name: up to 64 letters, digits, '_', '-' and '.', which doesn't come first"
    if what.endswith(repr(IMPORT_STRING)):
        return "expected a reference such as 'package.module:function'"
    if what.endswith(repr(NOT_BLANK)):
        return "it is empty; leave it out where nothing is meant"
    if what in ("Number out of range", "Integer value out of range"):
        return "expected a smaller number: it doesn't fit into 64 bits"
    if what.startswith("Expected `"):
        words = what.replace("`", "").replace(" | null", "").replace("E", "e", 1)
        return words.replace("object", "mapping").replace("array", "list")
    return what


# ── what a type expects at a path: for messages only ───────────────────────────


def _keys_at(type_: Any, path: str) -> list[str]:
    """The names that the struct or mapping at a path such as `worker.config` knows."""
    return sorted(name for info in _at(type_, path) for name in _keys(info))


def _keys(info: inspect.Type) -> list[str]:
    if isinstance(info, inspect.StructType):
        return [field.encode_name for field in info.fields]
    if isinstance(info, inspect.DictType) and isinstance(info.key_type, inspect.LiteralType):
        return [str(value) for value in info.key_type.values]
    return []


def _choices_at(type_: Any, path: str) -> list[str]:
    """The words that are allowed at a path."""
    return [str(word) for info in _at(type_, path) for word in _choices(info)]


def _choices(info: inspect.Type) -> Iterable[object]:
    if isinstance(info, inspect.EnumType):
        return info.cls.__members__
    return info.values if isinstance(info, inspect.LiteralType) else ()


def _at(type_: Any, path: str) -> list[inspect.Type]:
    found = list(_alternatives(inspect.type_info(type_)))
    for step in _STEP.findall(path):
        found = [inner for info in found for inner in _inside(info, step)]
    return found


def _inside(info: inspect.Type, step: str) -> Iterator[inspect.Type]:
    if isinstance(info, inspect.StructType):
        for field in info.fields:
            if field.encode_name == step:
                yield from _alternatives(field.type)
    elif isinstance(info, inspect.DictType):
        yield from _alternatives(info.value_type)
    elif isinstance(info, inspect.ListType | inspect.VarTupleType):
        yield from _alternatives(info.item_type)


def _alternatives(info: inspect.Type) -> Iterator[inspect.Type]:
    if isinstance(info, inspect.UnionType):
        for type_ in info.types:
            yield from _alternatives(type_)
    elif isinstance(info, inspect.Metadata):
        yield from _alternatives(info.type)
    else:
        yield info
