"""What a type expects at a path: for messages only."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from msgspec import inspect

_STEP = re.compile(r"\[[^\]]*\]|[^.\[\]]+")


def keys_at(type_: Any, path: str) -> list[str]:
    """The names that the struct or mapping at a path such as `worker.config` knows."""
    return sorted(name for info in _at(type_, path) for name in _keys(info))


def _keys(info: inspect.Type) -> list[str]:
    if isinstance(info, inspect.StructType):
        return [field.encode_name for field in info.fields]
    if isinstance(info, inspect.DictType) and isinstance(info.key_type, inspect.LiteralType):
        return [str(value) for value in info.key_type.values]
    return []


def choices_at(type_: Any, path: str) -> list[object]:
    """The values that are allowed at a path."""
    return [value for info in _at(type_, path) if isinstance(info, inspect.LiteralType) for value in info.values]


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
    elif isinstance(info, inspect.ListType):
        yield from _alternatives(info.item_type)


def _alternatives(info: inspect.Type) -> Iterator[inspect.Type]:
    if isinstance(info, inspect.UnionType):
        for type_ in info.types:
            yield from _alternatives(type_)
    elif isinstance(info, inspect.Metadata):
        yield from _alternatives(info.type)
    else:
        yield info
