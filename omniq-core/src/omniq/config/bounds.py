"""How large and how deep untyped configuration may be, so that a small file can't stand for an endless one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from omniq.errors import ConfigError

MAX_DEPTH: Final = 64
"""Mappings and lists inside one another."""
MAX_ITEMS: Final = 100_000
"""Keys and values, those that are shared counted at each place where they stand."""


def check_bounds(data: object, where: str = "") -> None:
    """Raise `ConfigError` if the data is too large, is nested too deeply, or contains itself."""
    if _size(data, {}, MAX_DEPTH, where) > MAX_ITEMS:
        raise ConfigError(_at(where, f"it has more than {MAX_ITEMS} items: what is shared counts at each place"))


def _size(data: object, known: dict[int, int], depth: int, where: str) -> int:
    """How many items there are, shared ones counted as often as they occur, but looked at once."""
    inner = _inner(data)
    if inner is None:
        return 1
    if id(data) not in known:
        if not depth:
            raise ConfigError(_at(where, f"it is nested deeper than {MAX_DEPTH} levels, or contains itself"))
        known[id(data)] = 1 + sum(_size(item, known, depth - 1, where) for item in inner)
    return known[id(data)]


def _inner(data: object) -> Iterable[object] | None:
    if isinstance(data, Mapping):
        return (part for item in data.items() for part in item)
    return data if isinstance(data, list | tuple | set | frozenset) else None


def _at(where: str, message: str) -> str:
    return f"{where}: {message}" if where else message
