"""Which plugins are installed: read from metadata, without importing any of them."""

from __future__ import annotations

import importlib.metadata
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from msgspec.structs import replace

from omniq.plugins.firstparty import DISTRIBUTIONS
from omniq.plugins.hookspecs import GROUP
from omniq.plugins.records import EntryPoint, PluginRecord

DISABLE = "OMNIQ_DISABLE_PLUGINS"


class Candidate(NamedTuple):
    """An entry point, and the record that it starts with; only an active one may be loaded."""

    entry: EntryPoint
    record: PluginRecord


def installed() -> list[EntryPoint]:
    """The entry points of every distribution on the path."""
    return list(importlib.metadata.entry_points(group=GROUP))


def builtin() -> Candidate:
    """OmniQ's own components, which nobody can shadow."""
    entry = importlib.metadata.EntryPoint("builtin", "omniq.plugins.builtin", GROUP)
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
