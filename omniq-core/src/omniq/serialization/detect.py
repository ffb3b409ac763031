"""Which values msgspec's format carries exactly: with the same types, and equal after the round trip.

By themselves, MessagePack and msgspec turn a tuple into a list, a `Decimal` into text and an `IntEnum`
into an int. Here a value's exact type decides: what MessagePack has goes as it is, what can be
rebuilt exactly goes as an extension type, and any other type, every subclass among them, is left to dill.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from typing import Any, Final

from msgspec.msgpack import Encoder, Ext

from omniq.serialization.base import Format, NotCarried, type_name
from omniq.serialization.scalars import PACK

MAX_DEPTH: Final = 64
"""Containers inside containers; a deeper value, or a cyclic one, is left to dill."""

# Stored with the data, like those in `scalars`.
TUPLE: Final = 1
SET: Final = 2
FROZENSET: Final = 3
PAIRS: Final = 4

_ATOMS: Final = frozenset({type(None), bool, int, float, str, bytes})
_encode = Encoder().encode


class _Lowering:
    """Rewrites values in terms of what MessagePack carries; `atoms` are the types that it needn't look into."""

    def __init__(self, atoms: frozenset[type]) -> None:
        self._are_atoms = atoms.issuperset
        self._atoms = atoms
        self._containers: dict[type, Callable[[Any, int], object]] = {
            list: self._list,
            dict: self._dict,
            tuple: self._tuple,
            set: self._set,
            frozenset: self._frozenset,
        }

    def lower(self, value: object, depth: int = MAX_DEPTH) -> object:
        """The value, or its equivalent. Raises `NotCarried`."""
        kind = type(value)
        if kind in self._atoms:
            return value
        if scalar := PACK.get(kind):
            return scalar(value)
        container = self._containers.get(kind)
        if container is None:
            raise NotCarried(f"can't serialize {type_name(value)} by msgspec")
        if not depth:
            raise NotCarried(f"can't serialize by msgspec what is cyclic or nested deeper than {MAX_DEPTH} levels")
        return container(value, depth - 1)

    def _items(self, values: Iterable[object], depth: int) -> list[object]:
        atoms = self._atoms
        return [value if type(value) in atoms else self.lower(value, depth) for value in values]

    def _list(self, value: list[object], depth: int) -> list[object]:
        return value if self._are_atoms(map(type, value)) else self._items(value, depth)

    def _dict(self, value: dict[object, object], depth: int) -> object:
        if not value:
            return value
        if not self._are_atoms(map(type, value)):
            keys = self._items(value, depth)
            if not all(map(operator.is_, keys, value)):
                return Ext(PAIRS, _encode([keys, self._items(value.values(), depth)]))
        if self._are_atoms(map(type, value.values())):
            return value
        return {key: self.lower(item, depth) for key, item in value.items()}

    def _tuple(self, value: tuple[object, ...], depth: int) -> Ext:
        return Ext(TUPLE, _encode(self._items(value, depth)))

    def _set(self, value: set[object], depth: int) -> Ext:
        return Ext(SET, _encode(self._items(value, depth)))

    def _frozenset(self, value: frozenset[object], depth: int) -> Ext:
        return Ext(FROZENSET, _encode(self._items(value, depth)))


# Nearly all ints have 64 bits and nearly all text is UTF-8, so the first pass doesn't look at either.
_quick = _Lowering(_ATOMS)
_careful = _Lowering(_ATOMS - {int, str})


class SerializationDetector:
    """Decides by exact type who serializes a value."""

    def detect(self, value: object) -> Format:
        """The format for the value: msgspec's whenever it carries it exactly, else dill's."""
        try:
            _careful.lower(value)
        except NotCarried:
            return Format.DILL
        return Format.MSGSPEC

    def encode(self, value: object) -> bytes:
        """The value as MessagePack, exactly. Raises `NotCarried` when `detect` would say dill."""
        try:
            return _encode(value if type(value) in _ATOMS else _quick.lower(value))
        except (OverflowError, UnicodeEncodeError):
            return _encode(_careful.lower(value))
