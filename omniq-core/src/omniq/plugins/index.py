"""Who provides what: every name and URL scheme has one owner."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Literal, NamedTuple, TypeVar

from msgspec.structs import replace

from omniq.plugins.records import PluginRecord
from omniq.plugins.specs import Spec

S = TypeVar("S", bound=Spec)


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
