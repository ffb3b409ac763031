"""From what is installed to what is provided: finding the plugins, loading each apart, and who owns which name."""

from __future__ import annotations

import importlib.metadata
import inspect
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Literal, NamedTuple, TypeVar

import pluggy
from msgspec.structs import replace

from omniq.plugins import hookspecs
from omniq.plugins.hookspecs import API_VERSION, GROUP, HOOKS, PROJECT
from omniq.plugins.registry import DISTRIBUTIONS
from omniq.plugins.specs import EntryPoint, PluginRecord, Spec

DISABLE = "OMNIQ_DISABLE_PLUGINS"

S = TypeVar("S", bound=Spec)


class Candidate(NamedTuple):
    """An entry point, and the record that it starts with; only an active one may be loaded."""

    entry: EntryPoint
    record: PluginRecord


def installed() -> list[EntryPoint]:
    """The entry points of every distribution on the path."""
    return list(importlib.metadata.entry_points(group=GROUP))


def builtin() -> Candidate:
    """OmniQ's own components, which nobody can shadow."""
    entry = importlib.metadata.EntryPoint("builtin", "omniq.workers.plugin", GROUP)
    version = importlib.metadata.version("omniq-core")
    record = PluginRecord(name=entry.name, distribution="omniq-core", version=version, value=entry.value)
    return Candidate(entry, record)


def candidates(entries: Iterable[EntryPoint], environ: Mapping[str, str]) -> list[Candidate]:
    """All of them in the order in which they are loaded, with name conflicts and disabled ones marked."""
    disabled = {name.strip() for name in environ.get(DISABLE, "").split(",")}
    found = [
        _mark(candidate, rivals, disabled) for rivals in _by_name(entries).values() for candidate in rivals.values()
    ]
    return sorted(found, key=_precedence)


def _by_name(entries: Iterable[EntryPoint]) -> dict[str, dict[str, Candidate]]:
    by_name: defaultdict[str, dict[str, Candidate]] = defaultdict(dict)
    for entry in entries:
        record = _record(entry)
        by_name[entry.name].setdefault(record.distribution, Candidate(entry, record))
    return by_name


def _record(entry: EntryPoint) -> PluginRecord:
    if entry.dist is None:
        return PluginRecord(name=entry.name, distribution=entry.value, version="?", value=entry.value)
    return PluginRecord(name=entry.name, distribution=entry.dist.name, version=entry.dist.version, value=entry.value)


def _mark(candidate: Candidate, rivals: Mapping[str, Candidate], disabled: set[str]) -> Candidate:
    record = candidate.record
    if record.name in disabled:
        record = replace(record, status="disabled", error=f"it is named in {DISABLE}")
    elif len(rivals) > 1:
        others = " and ".join(sorted(rivals.keys() - {record.distribution}))
        record = replace(record, status="conflict", error=f"{others} has a plugin of that name too: uninstall one")
    return Candidate(candidate.entry, record)


def _precedence(candidate: Candidate) -> tuple[bool, str, str]:
    """By name, but OmniQ's own distributions first, so that the alphabet lets nobody take their names."""
    record = candidate.record
    return record.distribution not in DISTRIBUTIONS, record.name, record.distribution


# ── loading one, so that whatever goes wrong stays with it ────────────────────


class _Incompatible(Exception):
    """The plugin was written for another version of the hooks."""


def load(candidate: Candidate) -> PluginRecord:
    """The record of the plugin, active with its specs, or with what is wrong with it. Never raises an error.

    A plugin that calls `sys.exit` is broken too, and doesn't end the process.
    """
    entry, record = candidate
    if record.status != "active":
        return record
    try:
        plugin = entry.load()
        _check_version(plugin)
        return replace(record, specs=tuple(_specs(plugin, record.name)))
    except _Incompatible as error:
        return replace(record, status="incompatible", error=str(error))
    except (Exception, SystemExit) as error:
        return replace(record, status="broken", error=f"{type(error).__name__}: {error}")


def _check_version(plugin: object) -> None:
    version = getattr(plugin, "omniq_api_version", API_VERSION)
    ours = f"this omniq-core has version {_dotted(API_VERSION)} of the plugin API"
    if not isinstance(version, tuple) or not version or not all(isinstance(part, int) for part in version):
        raise _Incompatible(f"its omniq_api_version isn't a tuple such as (1, 0); {ours}")
    if version[0] != API_VERSION[0]:
        raise _Incompatible(f"it was written for version {_dotted(version)}; {ours}")


def _dotted(version: Iterable[int]) -> str:
    return ".".join(map(str, version))


def _specs(plugin: object, name: str) -> Iterable[Spec]:
    """What its hooks yield. A manager of its own keeps it from disturbing, or hiding, any other plugin."""
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(hookspecs)
    manager.register(plugin, name)
    manager.check_pending()  # only this finds misspelt hooks
    if not manager.get_hookcallers(plugin):
        raise TypeError("it implements no hook; is @hookimpl missing?")
    for hook in HOOKS:
        for answer in getattr(manager.hook, hook)():
            yield from _checked(hook, answer)


def _checked(hook: str, answer: object) -> Iterable[Spec]:
    if inspect.iscoroutine(answer):
        answer.close()  # else Python warns, much later, that it was never awaited
        raise TypeError(f"hook {hook} is async; hooks are plain functions")
    if isinstance(answer, str) or not isinstance(answer, Iterable):
        raise TypeError(f"hook {hook} gave {type(answer).__name__}; expected {HOOKS[hook].__name__}s")
    for spec in answer:
        if not isinstance(spec, HOOKS[hook]):
            raise TypeError(f"hook {hook} yielded {type(spec).__name__}; expected {HOOKS[hook].__name__}")
        yield spec


# ── who provides what: every name and URL scheme has one owner ───────────────


class _Claim(NamedTuple):
    type: type[Spec]
    by: Literal["name", "URL scheme"]
    word: str

    def __str__(self) -> str:
        return f"the {self.type.title} {self.by} {self.word!r}"


class Index:
    """The specs of the active plugins by all their names."""

    def __init__(self) -> None:
        self._owners: dict[_Claim, tuple[Spec, PluginRecord]] = {}
        self._specs: defaultdict[type[Spec], list[Spec]] = defaultdict(list)

    def add(self, record: PluginRecord) -> PluginRecord:
        """Enter an active plugin's specs: all of them, or none if one of its names is taken."""
        if record.status != "active":
            return record
        mine: dict[_Claim, tuple[Spec, PluginRecord]] = {}
        for claim, spec in _claims(record):
            if claim in mine:
                return replace(record, status="conflict", error=f"it provides {claim} twice")
            if claim in self._owners:
                owner = self._owners[claim][1]
                return replace(record, status="conflict", error=f"{owner} provides {claim} already")
            mine[claim] = (spec, record)
        self._owners |= mine
        for spec in record.specs:
            self._specs[type(spec)].append(spec)
        return record

    def named(self, type_: type[S], name: str) -> S | None:
        """The spec of that name or alias."""
        return self._get(type_, _Claim(type_, "name", name))

    def by_scheme(self, type_: type[S], scheme: str) -> S | None:
        """The spec that understands URLs of that scheme."""
        return self._get(type_, _Claim(type_, "URL scheme", scheme))

    def _get(self, type_: type[S], claim: _Claim) -> S | None:
        spec, _ = self._owners.get(claim, (None, None))
        return spec if isinstance(spec, type_) else None

    def all(self, type_: type[S]) -> list[S]:
        """All specs of a kind by name."""
        return sorted((spec for spec in self._specs[type_] if isinstance(spec, type_)), key=lambda spec: spec.name)

    def knows(self, word: str) -> bool:
        """Whether a spec of any kind has that name, alias or scheme."""
        return any(claim.word == word for claim in self._owners)

    def words(self, type_: type[Spec]) -> list[str]:
        """Every name, alias and scheme of a kind."""
        return [claim.word for claim in self._owners if claim.type is type_]


def _claims(record: PluginRecord) -> Iterator[tuple[_Claim, Spec]]:
    for spec in record.specs:
        for name in spec.names:
            yield _Claim(type(spec), "name", name), spec
        for scheme in spec.schemes:
            yield _Claim(type(spec), "URL scheme", scheme), spec
