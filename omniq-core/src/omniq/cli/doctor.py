"""`omniq plugins doctor`: what is wrong with plugins and the stores, workers and commands that they bring."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
import tempfile
from asyncio import CancelledError
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import chdir
from typing import Any, Final, TypeVar, get_type_hints

import click
from msgspec import Struct
from msgspec.structs import asdict, fields, replace

from omniq.cli.app import COMMANDS
from omniq.config.choices import CONFIGS
from omniq.config.convert import convert
from omniq.errors import PluginError
from omniq.exports import extras
from omniq.models.config import ComponentConfig, WorkerConfig
from omniq.plugins.registry import load_object
from omniq.plugins.specs import APPLICATION, CommandSpec, PluginRecord, Spec, StoreKind, StoreSpec, WorkerSpec
from omniq.storage.base import BaseEventStorage, BaseResultStorage, BaseTaskQueue, Capability, Store
from omniq.storage.documents.base import DocumentStore
from omniq.texts import did_you_mean
from omniq.workers.base import Worker
from omniq.workers.execution import Runner

T = TypeVar("T")

UNRULY: Final = (Exception, SystemExit, CancelledError)
"""What a plugin's own code may raise, other than Ctrl-C."""
FRESH_IMPORT_TIME: Final = 60.0
"""Seconds that a plugin module may take to be imported in a process of its own."""

_WHAT_IT_IMPORTS: Final = """
import importlib.metadata, json, sys
sys.path[:] = json.loads(sys.argv[1])
from omniq.plugins import *
before = set(sys.modules)
plugin = importlib.metadata.EntryPoint("plugin", sys.argv[2], "omniq.plugins").load()
for name in dir(plugin):
    if name.startswith("omniq_") and callable(hook := getattr(plugin, name)):
        list(hook())
print()
print("omniq-doctor", json.dumps(sorted(set(sys.modules) - before)))
"""
_ANSWER: Final = re.compile(r"\nomniq-doctor (.*)\n")


class Finding(Struct, frozen=True):
    """Something that is wrong with a spec, or with what it names."""

    field: str
    """The spec's field; "" where it is the plugin as a whole."""
    what: str
    remedy: str


class Defect(Struct, frozen=True, kw_only=True):
    """A finding, and where it is."""

    distribution: str
    spec: str | None = None
    """Such as "task queue 'shelf'"; None where it is the plugin as a whole."""
    field: str | None = None
    value: str | None = None
    """What the field says, such as an import string."""
    what: str
    remedy: str

    def __str__(self) -> str:
        place = " ".join(word for word in (self.field, self.value) if word)
        where = ", ".join(part for part in (self.spec, place) if part)
        return ": ".join(part for part in (self.distribution, where, self.what) if part) + f"; {self.remedy}"


def defects(record: PluginRecord) -> Iterator[Defect]:
    """All that is wrong with a plugin. One that was disabled on purpose has no defects."""
    if record.status == "active":
        if record.distribution != APPLICATION:  # nobody has to wait for what is there already
            yield from (_in_plugin(record, finding) for finding in _import_findings(record))
        for spec in record.specs:
            yield from (_in_spec(record, spec, finding) for finding in _whatever_happens(spec, record))
    elif record.status != "disabled":
        yield _in_plugin(record, Finding("", f"it is {record.status}: {record.error}", _REMEDIES[record.status]))


_REMEDIES: Final = {
    "broken": "mend its plugin module",
    "incompatible": "install a version of it that was made for this omniq-core",
    "conflict": "uninstall one of the two, or name its plugin in OMNIQ_DISABLE_PLUGINS",
}


def _in_plugin(record: PluginRecord, finding: Finding) -> Defect:
    return Defect(distribution=record.distribution, value=record.value, what=finding.what, remedy=finding.remedy)


def _in_spec(record: PluginRecord, spec: Spec, finding: Finding) -> Defect:
    return Defect(
        distribution=record.distribution,
        spec=f"{spec.title()} {spec.name!r}",
        field=finding.field,
        value=_shown(getattr(spec, finding.field)),
        what=finding.what,
        remedy=finding.remedy,
    )


def _shown(value: object) -> str:
    return value if isinstance(value, str) else ", ".join(map(str, value)) if isinstance(value, tuple) else repr(value)


def _whatever_happens(spec: Spec, record: PluginRecord) -> Iterator[Finding]:
    try:
        yield from _findings(spec, record)
    except UNRULY as error:  # of a class whose attributes are computed, say
        yield Finding(spec.imports[0], f"it can't be looked at: {_told(error)}", "mend it")


def _findings(spec: Spec, record: PluginRecord) -> Iterator[Finding]:
    yield from _name_findings(spec, record.distribution)
    if isinstance(spec, StoreSpec):
        yield from store_findings(spec)
    elif isinstance(spec, WorkerSpec):
        yield from _worker_findings(spec)
    elif isinstance(spec, CommandSpec):
        yield from _command_findings(spec)


# ── the plugin module ────────────────────────────────────────────────────────


def _import_findings(record: PluginRecord) -> Iterator[Finding]:
    """What the plugin module imports though everybody who looks anything up has to wait for it."""
    command = [sys.executable, "-P", "-c", _WHAT_IT_IMPORTS, json.dumps(sys.path), record.value]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=FRESH_IMPORT_TIME, check=True)
    except subprocess.TimeoutExpired:
        yield Finding("", f"importing it takes more than {FRESH_IMPORT_TIME:g} s", "let it import nothing but specs")
    except subprocess.CalledProcessError as error:
        why = (error.stderr.splitlines() or ["it exits"])[-1]
        yield Finding("", f"it can't be imported by a process that imports nothing else: {why}", "mend its imports")
    else:
        printed, *answer = _ANSWER.split(done.stdout)
        if printed or not answer:
            yield Finding("", f"importing it prints {printed!r}", "print nothing: programs read what commands print")
        if answer and (heavy := _heavy(json.loads(answer[0]), record)):
            remedy = "name the stores in specs and import nothing of them: who lists plugins imports this module"
            yield Finding("", f"importing it imports {', '.join(heavy)}", remedy)


def _heavy(imported: list[str], record: PluginRecord) -> list[str]:
    """The plugin's own modules among these that its specs name, else other packages."""
    own = record.value.partition(".")[0]
    named = {path.partition(":")[0] for spec in record.specs for path in _import_strings(spec)}
    named.discard(record.value.partition(":")[0])
    roots = {module.partition(".")[0] for module in imported if not module.startswith("_")}
    others = roots - sys.stdlib_module_names - {own, "omniq"} | roots & {"asyncio"}
    return sorted(named.intersection(imported) or others)


def _import_strings(spec: Spec) -> Iterator[str]:
    for field in spec.imports:
        if path := getattr(spec, field, None):
            yield path


# ── names ────────────────────────────────────────────────────────────────────


def _name_findings(spec: Spec, distribution: str) -> Iterator[Finding]:
    fields: dict[str, object] = {"name": (spec.name,)}
    fields |= {field: getattr(spec, field) for field in ("aliases", "url_schemes") if hasattr(spec, field)}
    for field, words in fields.items():
        if not isinstance(words, tuple):
            what = f"it is of type {type(words).__name__}: the letters of a text are taken for names"
            yield Finding(field, what, 'write a tuple, such as ("shelf",)')
            continue
        for word in words:
            extra = extras(spec.kind).get(word)
            if extra is not None and distribution != f"omniq-{extra}":
                what = f"{word!r} is omniq-{extra}'s, beside which this plugin can't be used"
                yield Finding(field, what, "choose another name")


# ── workers and commands ─────────────────────────────────────────────────────


def loaded(spec: Spec, field: str, base: type[T]) -> Generator[Finding, None, type[T] | None]:
    """The class that a field names, if it is there and a subclass of `base`; else what is wrong with it."""
    found = yield from _loaded(spec, field)
    if found is None or (isinstance(found, type) and issubclass(found, base)):
        return found
    kind = found.__name__ if isinstance(found, type) else f"an object of type {type(found).__name__}"
    yield Finding(
        field, f"{kind} isn't a subclass of {base.__name__}", f"derive it from {base.__module__}:{base.__name__}"
    )
    return None


def _loaded(spec: Spec, field: str) -> Generator[Finding, None, Any]:
    path = getattr(spec, field)
    try:
        return load_object(path)
    except (PluginError, SystemExit, CancelledError) as error:
        cause = error.__cause__ or error
        missing = cause.name if isinstance(cause, ModuleNotFoundError) else None
        own = path.partition(".")[0]
        foreign = missing is not None and missing.partition(".")[0] != own
        remedy = f"install {missing}, and let the distribution depend on it" if foreign else "mend it, or the spec"
        yield Finding(field, f"it can't be loaded: {type(cause).__name__}: {cause}", remedy)
        return None


def _worker_findings(spec: WorkerSpec) -> Iterator[Finding]:
    worker = yield from loaded(spec, "worker_class", Worker)
    if worker is None:
        return
    expected: dict[str, type] = {"kind": str, "default_max_workers": int}
    for name, type_ in expected.items():
        if not isinstance(getattr(worker, name, None), type_):
            yield Finding("worker_class", f"its `{name}` isn't of type {type_.__name__}", "give the class one")
    for name, base in {"runner": Runner, "config_class": WorkerConfig}.items():
        found = getattr(worker, name, None)
        if not isinstance(found, type) or not issubclass(found, base):
            yield Finding("worker_class", f"its `{name}` isn't a subclass of {base.__name__}", "give the class one")


def _command_findings(spec: CommandSpec) -> Iterator[Finding]:
    if spec.name in {own.name for own in COMMANDS}:
        yield Finding("name", "it is hidden by OmniQ's own command", "choose another name")
    command = yield from _loaded(spec, "command")
    if command is not None and not isinstance(command, click.Command):
        what = f"it isn't a click command but of type {type(command).__name__}"
        yield Finding("command", what, "decorate a function with @click.command()")


# ── stores ──────────────────────────────────────────────────────────────────


C = TypeVar("C", bound=ComponentConfig)

CONTRACTS: Final[Mapping[StoreKind, Any]] = {
    "task_queue": BaseTaskQueue,
    "result_store": BaseResultStorage,
    "event_store": BaseEventStorage,
}
PROJECT: Final = "omniq-doctor"
PLACES: Final = ("/doctor", "localhost/doctor", "localhost", "", "/", "localhost:4242/0", "localhost/0")
"""What comes after the scheme of some URL that a store may understand."""
BEYOND_DEFAULTS: Final = {
    Capability.PUSH: "wait",
    Capability.TRANSACTIONAL_ENQUEUE: "add_within",
}
"""What a task queue can't do by the contract's own method."""


def store_findings(spec: StoreSpec) -> Iterator[Finding]:
    """All that is wrong with a store and its configuration."""
    contract: type[Store] = CONTRACTS[spec.kind]
    config = yield from loaded(spec, "config", CONFIGS[spec.kind])
    store = yield from loaded(spec, "store", contract)
    some: ComponentConfig | None = None
    if config is not None:
        yield from _struct_findings(config)
        some = yield from _default(config)
        read = yield from _read_urls(spec, config)
        some = read if some is None else some
    if store is not None:
        yield from _class_findings(store, contract)
        yield from _capability_findings(store)
        if config is not None:
            yield from _constructor_findings(store, config)
        if some is not None and not inspect.isabstract(store):
            yield from _instance_findings(store, some)


# ── the configuration ────────────────────────────────────────────────────────


def _struct_findings(config: type[ComponentConfig]) -> Iterator[Finding]:
    if not config.__struct_config__.frozen:
        yield Finding("config", "it isn't frozen, and what is shared is found by it", "declare the struct frozen=True")
    if not config.__struct_config__.forbid_unknown_fields:
        yield Finding("config", "it passes over misspelt fields", "leave forbid_unknown_fields as it is")
    parameters = inspect.signature(config).parameters.values()
    if positional := [parameter.name for parameter in parameters if parameter.kind is not parameter.KEYWORD_ONLY]:
        yield Finding("config", f"{', '.join(positional)} can be given by position", "declare the struct kw_only=True")


def _default(config: type[C]) -> Generator[Finding, None, C | None]:
    """What it is if nothing is given, unless something must be."""
    if any(field.required for field in fields(config)):
        return None
    try:
        default = config()
        convert(asdict(default), config)  # as every constructor takes them
    except UNRULY as error:
        yield Finding("config", f"it refuses its own defaults: {_told(error)}", "let its fields have defaults it takes")
        return None
    yield from _project_findings(default)
    return default


def _project_findings(config: ComponentConfig) -> Iterator[Finding]:
    try:
        project = replace(config, project_name=PROJECT).project
    except UNRULY as error:
        yield Finding("config", f"it refuses a project_name: {_told(error)}", "let it take every `Name`")
    else:
        if project != PROJECT:
            yield Finding("config", f"its project isn't the project_name but {project!r}", "leave `project` as it is")


def _read_urls(spec: StoreSpec, config: type[C]) -> Generator[Finding, None, C | None]:
    """What it makes of some URL, if of any; each scheme is tried."""
    some = None
    schemes: object = spec.url_schemes
    if not schemes or not isinstance(schemes, tuple):
        return None
    if not inspect.ismethod(config.from_url):
        yield Finding("url_schemes", f"{config.__name__}.from_url isn't a class method", "decorate it by @classmethod")
        return None
    if config.from_url.__func__ is ComponentConfig.from_url.__func__:  # type: ignore[attr-defined]
        yield Finding("url_schemes", f"{config.__name__} has no from_url", "write it, or leave url_schemes out")
        return None
    for scheme in schemes:
        some = yield from _read_scheme(scheme, config)
    return some


def _read_scheme(scheme: str, config: type[C]) -> Generator[Finding, None, C | None]:
    reader = f"{config.__name__}.from_url"
    answers = {url: _read(config, url) for url in (f"{scheme}://{place}" for place in PLACES)}
    for url, answer in answers.items():
        if not isinstance(answer, config | ValueError):
            yield Finding(
                "url_schemes", f"{reader}({url!r}) {_ended(answer)}", "return the struct or raise ConfigError"
            )
            return None
    understood = {url: answer for url, answer in answers.items() if isinstance(answer, config)}
    if not understood:
        first, error = next(iter(answers.items()))
        what = f"{reader} understands no {scheme}:// URL that was tried, such as {first}: {error}"
        yield Finding("url_schemes", what, "let it read those of every scheme, or leave the scheme out")
        return None
    url, some = next(iter(understood.items()))
    if isinstance(_read(config, f"{url}?project_nam=x"), config):
        yield Finding(
            "url_schemes", f"{reader} passes over misspelt options", "read URLs by omniq.config.convert:read_url"
        )
    return some


def _read(config: type[C], url: str) -> object:
    """What it makes of a URL, or the error that it raises."""
    try:
        return config.from_url(url)
    except UNRULY as error:
        return error


def _ended(answer: object) -> str:
    raised = isinstance(answer, BaseException)
    return f"raises {type(answer).__name__}" if raised else f"returns an object of type {type(answer).__name__}"


# ── the class ────────────────────────────────────────────────────────────────


def _class_findings(store: type[Store], contract: type[Store]) -> Iterator[Finding]:
    if missing := ", ".join(sorted(store.__abstractmethods__)):
        yield Finding("store", f"it lacks {missing}", f"write what {contract.__name__} declares abstract")
    for name in ("max_items", "max_bytes"):
        value = getattr(store, name)
        if not isinstance(value, int) or value < 1:
            yield Finding("store", f"its {name} is {value!r}", "let it be a number from 1 on")
    for name, method in vars(contract).items():
        if inspect.iscoroutinefunction(method) and not _takes_what_callers_give(getattr(store, name), method):
            given = ", ".join(inspect.signature(method).parameters)
            yield Finding("store", f"its {name} doesn't take {given}", f"let it take what {contract.__name__}'s takes")


def _takes_what_callers_give(method: Callable[..., Any], declared: Callable[..., Any]) -> bool:
    """Whether it can be called as the contract's method is: by position what can be, the rest by name."""
    parameters = inspect.signature(declared).parameters.values()
    by_name = {parameter.name: None for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY}
    return _can_bind(method, *[None] * (len(parameters) - len(by_name)), **by_name)


def _can_bind(function: Callable[..., Any], *args: object, **kwargs: object) -> bool:
    try:
        inspect.signature(function, follow_wrapped=False).bind(*args, **kwargs)
    except TypeError:
        return False
    return True


def _capability_findings(store: type[Store]) -> Iterator[Finding]:
    declared: object = store.capabilities
    if not isinstance(declared, frozenset):
        what = f"its capabilities are of type {type(declared).__name__}"
        yield Finding("store", what, "let them be a frozenset of Capability")
        return
    for capability in declared:
        if not isinstance(capability, Capability):
            guess = did_you_mean(str(capability), map(str, Capability))
            yield Finding(
                "store", f"it declares the unknown capability {capability!r}{guess}", "name one of Capability"
            )
        elif issubclass(store, BaseTaskQueue) and (method := _left_to_contract(store, capability)):
            what = f"it declares {capability} and has no {method} of its own"
            yield Finding("store", what, "write it, or leave the capability out")


def _left_to_contract(queue: type[BaseTaskQueue], capability: Capability) -> str | None:
    """The method that a capability needs, where it is the contract's own."""
    method = BEYOND_DEFAULTS.get(capability)
    return method if method and getattr(queue, method) is getattr(BaseTaskQueue, method) else None


def _constructor_findings(store: type[Store], config: type[ComponentConfig]) -> Iterator[Finding]:
    remedy = f"let __init__ take one {config.__name__}, and nothing else that has no default"
    if not _can_bind(store, None):
        yield Finding("store", "its constructor can't be called with one config", remedy)
        return
    first = next(iter(inspect.signature(store).parameters))
    expected = _hint(store, first)
    if isinstance(expected, type) and not getattr(expected, "_is_protocol", False) and not issubclass(config, expected):
        yield Finding("store", f"its constructor takes a {expected.__name__} as {first}", remedy)


def _hint(store: type[Store], parameter: str) -> object:
    """The type of a constructor's parameter, as far as it is told."""
    try:
        return get_type_hints(store.__init__).get(parameter)
    except (NameError, AttributeError, TypeError):  # of a name that only type checkers import
        return None


# ── a store that is made, and not connected ──────────────────────────────────


def _instance_findings(make: Callable[..., Store], config: ComponentConfig) -> Iterator[Finding]:
    """In a directory of its own, in case that the constructor already makes files."""
    with tempfile.TemporaryDirectory() as nowhere, chdir(nowhere):
        try:
            store, again = make(config), make(config)
            other = make(replace(config, project_name=PROJECT))
            places = [one.location for one in (store, again, other)]
            results = store.result_storage() if isinstance(store, BaseTaskQueue) else None
        except UNRULY as error:
            yield Finding(
                "store", f"it can't be made: {_told(error)}", "let its constructor only keep what it is given"
            )
            return
        yield from _location_findings(store, places)
        yield from _result_findings(store, results)


def _location_findings(store: Store, places: list[Any]) -> Iterator[Finding]:
    here, again, elsewhere = places
    if not isinstance(here, str) or not here:
        yield Finding("store", f"its location is {here!r}", "let it tell where the data is")
    elif here != again:
        yield Finding(
            "store", f"two of one config have the locations {here} and {again}", "tell the place, not the object"
        )
    elif isinstance(store, DocumentStore) and here == elsewhere:
        what = f"two projects share the documents at {here}"
        yield Finding("store", what, "let each project have a place of its own, and a location")


def _result_findings(store: Store, results: object) -> Iterator[Finding]:
    declared: object = type(store).capabilities
    promises = isinstance(declared, frozenset) and Capability.ATOMIC_RESULTS in declared
    if results is None:
        if promises and isinstance(store, BaseTaskQueue):
            what = f"it declares {Capability.ATOMIC_RESULTS}, and its result_storage() is None"
            yield Finding("store", what, "return the result storage of the same place")
    elif not isinstance(results, BaseResultStorage):
        what = f"its result_storage() is of type {type(results).__name__}"
        yield Finding("store", what, "return a BaseResultStorage or None")
    elif results.location != store.location:
        what = f"its result_storage() is at {results.location}, and it at {store.location}"
        yield Finding("store", what, "return the one at its own location, or None")
    if promises and isinstance(store, DocumentStore) and not store.documents.atomic:
        what = f"it declares {Capability.ATOMIC_RESULTS} on documents that aren't atomic"
        yield Finding("store", what, "leave the capability out, or write groups as one step")


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
