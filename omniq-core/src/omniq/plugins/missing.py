"""Why nothing was found: the error for a name or URL scheme that no active plugin provides."""

from __future__ import annotations

from collections.abc import Sequence

from omniq.errors import PluginError, UnknownBackend
from omniq.models.redaction import mask_url
from omniq.plugins.firstparty import EXTRAS, distribution
from omniq.plugins.index import Index
from omniq.plugins.records import PluginRecord
from omniq.plugins.specs import Spec, StoreSpec
from omniq.suggest import did_you_mean, install_command


def not_found(type_: type[Spec], word: str, index: Index, records: Sequence[PluginRecord]) -> PluginError:
    """The error for whoever asked for this name or URL scheme.

    A plugin that isn't active has the say if it goes by that name or would provide it.
    """
    for record in records:
        if record.status != "active" and _would_provide(record, type_, word):
            return inactive(record)
    return UnknownBackend(_unknown(type_, word, index))


def inactive(*records: PluginRecord) -> PluginError:
    """The error for whoever asked for something that these plugins would provide."""
    return PluginError("; ".join(f"{record} is {_state(record)}: {record.error}" for record in records))


def _state(record: PluginRecord) -> str:
    return "in conflict" if record.status == "conflict" else record.status


def _would_provide(record: PluginRecord, type_: type[Spec], word: str) -> bool:
    if record.specs:
        return any(word in (*spec.names, *spec.schemes) for spec in record.specs if isinstance(spec, type_))
    extra = EXTRAS[type_.kind].get(word)
    return record.name == word or (extra is not None and record.distribution == distribution(extra))


def _unknown(type_: type[Spec], word: str, index: Index) -> str:
    word = mask_url(word)  # somebody may have put a URL in the place of a name
    names = ", ".join(spec.name for spec in index.all(type_)) or "none"
    if index.knows(word):
        return f"{word!r} provides no {type_.title}; installed: {names}"
    what = "backend" if issubclass(type_, StoreSpec) else type_.title
    extras = EXTRAS[type_.kind]
    if word in extras:
        owner, command = distribution(extras[word]), install_command(extras[word])
        return f"unknown {what} {word!r}, installed: {names}; {owner} provides it: {command}"
    guess = did_you_mean(word, [*index.words(type_), *extras])
    return f"unknown {what} {word!r}{guess or ','} installed: {names}"
