"""What can be told to be wrong with a plugin without a server: for `omniq plugins doctor`."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Generator, Iterator
from typing import Any, Final, TypeVar

import click
from msgspec import Struct

from omniq.cli.app import COMMANDS
from omniq.errors import PluginError
from omniq.exports import extras
from omniq.plugins.registry import load_object
from omniq.plugins.specs import CommandSpec, PluginRecord, Spec, StoreSpec, WorkerSpec
from omniq.workers.base import Worker
from omniq.workers.execution import Runner

T = TypeVar("T")

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
print(json.dumps(sorted(set(sys.modules) - before)))
"""


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
        yield from (_in_plugin(record, finding) for finding in _import_findings(record))
        for spec in record.specs:
            yield from (_in_spec(record, spec, finding) for finding in _findings(spec, record))
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
        spec=f"{spec.title} {spec.name!r}",
        field=finding.field,
        value=_shown(getattr(spec, finding.field)),
        what=finding.what,
        remedy=finding.remedy,
    )


def _shown(value: object) -> str:
    return value if isinstance(value, str) else ", ".join(map(str, value)) if isinstance(value, tuple) else repr(value)


def _findings(spec: Spec, record: PluginRecord) -> Iterator[Finding]:
    yield from _name_findings(spec, record.distribution)
    if isinstance(spec, StoreSpec):
        from omniq.cli.store_defects import store_findings

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
        if heavy := _heavy(json.loads(done.stdout.splitlines()[-1]), record):
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
    kind = found.__name__ if isinstance(found, type) else f"a {type(found).__name__}"
    yield Finding(
        field, f"{kind} isn't a subclass of {base.__name__}", f"derive it from {base.__module__}:{base.__name__}"
    )
    return None


def _loaded(spec: Spec, field: str) -> Generator[Finding, None, Any]:
    path = getattr(spec, field)
    try:
        return load_object(path)
    except (PluginError, SystemExit) as error:
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
    runner = getattr(worker, "runner", None)
    if not isinstance(runner, type) or not issubclass(runner, Runner):
        yield Finding("worker_class", "its `runner` isn't a subclass of Runner", "give the class one")


def _command_findings(spec: CommandSpec) -> Iterator[Finding]:
    if spec.name in {own.name for own in COMMANDS}:
        yield Finding("name", "it is hidden by OmniQ's own command", "choose another name")
    command = yield from _loaded(spec, "command")
    if command is not None and not isinstance(command, click.Command):
        what = f"it isn't a click command but of type {type(command).__name__}"
        yield Finding("command", what, "decorate a function with @click.command()")
