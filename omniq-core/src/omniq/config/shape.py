"""What a type expects at a path: for messages only."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from msgspec import inspect

_STEP = re.compile(r"\[[^\]]*\]|[^.\[\]]+")


def keys_at(type_: Any, path: str) -> list[str]:
    """The names that the struct at a path such as `worker.config` knows."""
    structs = (info for info in _at(type_, path) if isinstance(info, inspect.StructType))
    return sorted(field.encode_name for struct in structs for field in struct.fields)


def choices_at(type_: Any, path: str) -> list[object]:
    """The values that are allowed at a path."""
    return [value for info in _at(type_, path) if isinstance(info, inspect.LiteralType) for value in info.values]


def _at(type_: Any, path: str) -> list[inspect.Type]:
    found = list(_alternatives(inspect.type_info(type_)))
    for step in _STEP.findall(path):
        found = [inner for info in found for inner in _inside(info, step)]
    return found


def _inside(info: inspect.Type, step: str) -> Iterator[inspect.Type]:
    if isinstance(info, inspect.StructType | inspect.DataclassType):
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
