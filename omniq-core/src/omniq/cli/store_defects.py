"""What can be told to be wrong with a store from its classes alone. Nothing is connected."""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import chdir
from typing import Any, Final, TypeVar, get_type_hints

from msgspec.structs import asdict, fields, replace

from omniq.build import CONFIGS
from omniq.cli.defects import Finding, loaded
from omniq.config.convert import convert
from omniq.models.config import ComponentConfig
from omniq.plugins.specs import StoreKind, StoreSpec
from omniq.storage.base import BaseEventStorage, BaseResultStorage, Capability, Store
from omniq.storage.documents.base import DocumentStore
from omniq.storage.queue import BaseTaskQueue
from omniq.texts import did_you_mean

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
    except Exception as error:
        yield Finding("config", f"it refuses its own defaults: {_told(error)}", "let its fields have defaults it takes")
        return None
    yield from _project_findings(default)
    return default


def _project_findings(config: ComponentConfig) -> Iterator[Finding]:
    try:
        project = replace(config, project_name=PROJECT).project
    except Exception as error:
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
    if isinstance(_read(config, f"{url}?omniq_doctor=1"), config):
        yield Finding(
            "url_schemes", f"{reader} passes over misspelt options", "read URLs by omniq.config.convert:read_url"
        )
    return some


def _read(config: type[C], url: str) -> object:
    """What it makes of a URL, or the error that it raises."""
    try:
        return config.from_url(url)
    except Exception as error:
        return error


def _ended(answer: object) -> str:
    raised = isinstance(answer, Exception)
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
        except Exception as error:
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
    promises = Capability.ATOMIC_RESULTS in store.capabilities
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


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
