"""MessagePack where it is exact: values that it keeps as they are or needs help with, and the serializer."""

from __future__ import annotations

import datetime as dt
import operator
import struct
from collections.abc import Callable, Iterable
from decimal import Decimal
from typing import Any, Final, Generic, TypeAlias, TypeVar
from uuid import UUID
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from msgspec import Struct
from msgspec.msgpack import Decoder, Encoder, Ext

from omniq.errors import CorruptPayload, ResultError, SerializationError
from omniq.models.task import KnownTaskId, TaskId
from omniq.serialization.base import DILL, MSGSPEC, Format, NotCarried, Serializer, type_name
from omniq.serialization.parents import ResultOf, fill

# ── values beyond JSON's ────────────────────────────────────────────────────


# Stored with the data: a code keeps its meaning for ever.
_INT: Final = 10
_TEXT: Final = 11
_COMPLEX: Final = 12
_BYTEARRAY: Final = 13
_DECIMAL: Final = 14
_UUID: Final = 15
_DATETIME: Final = 20
_DATE: Final = 21
_TIME: Final = 22
_TIMEDELTA: Final = 23
_RESULT_OF: Final = 30

_Zone: TypeAlias = str | tuple[int, str | None] | None
"""A key of the time zone database, or an offset in microseconds and a name, or none."""

_encode = Encoder().encode
_decode_datetime = Decoder(tuple[tuple[int, int, int, int, int, int, int], int, _Zone]).decode
_decode_date = Decoder(int).decode
_decode_time = Decoder(tuple[tuple[int, int, int, int], int, _Zone]).decode
_decode_timedelta = Decoder(tuple[int, int, int]).decode
_MICROSECOND = dt.timedelta(microseconds=1)
_COMPLEX_PARTS = struct.Struct(">dd")


def _pack_int(value: int) -> int | Ext:
    if -(2**63) <= value < 2**64:
        return value
    return Ext(_INT, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))


def _unpack_int(data: bytes) -> int:
    return int.from_bytes(data, "big", signed=True)


def _pack_text(value: str) -> str | Ext:
    try:
        value.encode()
    except UnicodeEncodeError:
        return Ext(_TEXT, value.encode("utf-8", "surrogatepass"))
    return value


def _unpack_text(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass")


def _pack_complex(value: complex) -> Ext:
    return Ext(_COMPLEX, _COMPLEX_PARTS.pack(value.real, value.imag))


def _unpack_complex(data: bytes) -> complex:
    return complex(*_COMPLEX_PARTS.unpack(data))


def _pack_bytearray(value: bytearray) -> Ext:
    return Ext(_BYTEARRAY, bytes(value))


def _pack_decimal(value: Decimal) -> Ext:
    return Ext(_DECIMAL, str(value).encode())


def _unpack_decimal(data: bytes) -> Decimal:
    return Decimal(data.decode("ascii"))


def _pack_uuid(value: UUID) -> Ext:
    return Ext(_UUID, value.bytes)


def _unpack_uuid(data: bytes) -> UUID:
    return UUID(bytes=data)


def _pack_zone(zone: dt.tzinfo | None) -> _Zone:
    if zone is None:
        return None
    if type(zone) is dt.timezone:
        offset, name = zone.utcoffset(None), zone.tzname(None)
        return offset // _MICROSECOND, None if dt.timezone(offset).tzname(None) == name else name
    if type(zone) is ZoneInfo and zone.key is not None:
        return zone.key
    raise NotCarried(f"can't serialize a time zone of type {type_name(zone)} by msgspec")


def _unpack_zone(zone: _Zone) -> dt.tzinfo | None:
    if zone is None:
        return None
    if isinstance(zone, str):
        return ZoneInfo(zone)
    offset, name = dt.timedelta(microseconds=zone[0]), zone[1]
    return dt.timezone(offset) if name is None else dt.timezone(offset, name)


def _pack_datetime(value: dt.datetime) -> Ext:
    date = (value.year, value.month, value.day)
    time = (value.hour, value.minute, value.second, value.microsecond)
    return Ext(_DATETIME, _encode(((*date, *time), value.fold, _pack_zone(value.tzinfo))))


def _unpack_datetime(data: bytes) -> dt.datetime:
    parts, fold, zone = _decode_datetime(data)
    return dt.datetime(*parts, tzinfo=_unpack_zone(zone), fold=fold)


def _pack_date(value: dt.date) -> Ext:
    return Ext(_DATE, _encode(value.toordinal()))


def _unpack_date(data: bytes) -> dt.date:
    return dt.date.fromordinal(_decode_date(data))


def _pack_time(value: dt.time) -> Ext:
    parts = (value.hour, value.minute, value.second, value.microsecond)
    return Ext(_TIME, _encode((parts, value.fold, _pack_zone(value.tzinfo))))


def _unpack_time(data: bytes) -> dt.time:
    parts, fold, zone = _decode_time(data)
    return dt.time(*parts, tzinfo=_unpack_zone(zone), fold=fold)


def _pack_timedelta(value: dt.timedelta) -> Ext:
    return Ext(_TIMEDELTA, _encode((value.days, value.seconds, value.microseconds)))


def _unpack_timedelta(data: bytes) -> dt.timedelta:
    return dt.timedelta(*_decode_timedelta(data))


PACK: Final[dict[type, Callable[[Any], object]]] = {
    int: _pack_int,
    str: _pack_text,
    TaskId: str.__str__,  # as text like any other
    KnownTaskId: str.__str__,
    complex: _pack_complex,
    bytearray: _pack_bytearray,
    Decimal: _pack_decimal,
    UUID: _pack_uuid,
    dt.datetime: _pack_datetime,
    dt.date: _pack_date,
    dt.time: _pack_time,
    dt.timedelta: _pack_timedelta,
}
"""By exact type: the value as something that MessagePack carries."""

UNPACK: Final[dict[int, Callable[[bytes], object]]] = {
    _INT: _unpack_int,
    _TEXT: _unpack_text,
    _COMPLEX: _unpack_complex,
    _BYTEARRAY: bytearray,
    _DECIMAL: _unpack_decimal,
    _UUID: _unpack_uuid,
    _DATETIME: _unpack_datetime,
    _DATE: _unpack_date,
    _TIME: _unpack_time,
    _TIMEDELTA: _unpack_timedelta,
}
"""By extension code: the value again. They raise what hostile bytes make them raise."""


# ── what is exact ───────────────────────────────────────────────────────────


MAX_DEPTH: Final = 64
"""Containers inside containers; a deeper value, or a cyclic one, is left to dill."""

# Stored with the data, like those in `scalars`.
TUPLE: Final = 1
SET: Final = 2
FROZENSET: Final = 3
PAIRS: Final = 4

_ATOMS: Final = frozenset({type(None), bool, int, float, str, bytes})


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


def _pack_result_of(value: ResultOf) -> Ext:
    return Ext(_RESULT_OF, _encode([_careful.lower(part) for part in value.packed]))


def _unpack_result_of(data: bytes) -> object:
    return fill(*_decode_items(data))


PACK[ResultOf] = _pack_result_of
UNPACK[_RESULT_OF] = _unpack_result_of


class SerializationDetector:
    """Decides by exact type who serializes a value."""

    def detect(self, value: object) -> Format:
        """The format for the value: msgspec's whenever it carries it exactly, else dill's."""
        try:
            _careful.lower(value)
        except NotCarried:
            return DILL
        return MSGSPEC


# ── the serializer ──────────────────────────────────────────────────────────


S = TypeVar("S", bound=Struct)


class MsgspecSerializer(Serializer):
    """Carries what `SerializationDetector` accepts, exactly."""

    format = MSGSPEC

    def __init__(self) -> None:
        self._decode = Decoder(ext_hook=_from_extension).decode

    def dumps(self, value: object) -> bytes:
        """The value as MessagePack, exactly. Raises `NotCarried` when `detect` would say dill."""
        try:
            return _encode(value if type(value) in _ATOMS else _quick.lower(value))
        except (OverflowError, UnicodeEncodeError):
            return _encode(_careful.lower(value))

    def loads(self, data: bytes) -> Any:
        try:
            return self._decode(data)
        except ZoneInfoNotFoundError as error:
            raise SerializationError(f"{error.args[0]}: install tzdata on this machine") from error
        except ResultError:  # of a parent whose value isn't there
            raise
        except Exception as error:  # hostile bytes can make any constructor fail in its own way
            raise CorruptPayload(f"these bytes aren't a value that OmniQ wrote: {error}") from error


class StructSerializer(Generic[S]):
    """Carries structs of one type."""

    def __init__(self, kind: type[S]) -> None:
        self._name = kind.__name__
        self._encode = Encoder().encode
        self._decode = Decoder(kind).decode

    def dumps(self, struct: S) -> bytes:
        return self._encode(struct)

    def loads(self, data: bytes) -> S:
        """The struct. Raises `CorruptPayload`."""
        try:
            return self._decode(data)
        except (ValueError, RecursionError) as error:
            raise CorruptPayload(f"these bytes aren't a {self._name} that OmniQ wrote: {error}") from error


def _from_extension(code: int, data: memoryview) -> object:
    """The value of one extension type; the items of a container may be extension types again."""
    if scalar := UNPACK.get(code):
        return scalar(bytes(data))
    if code == TUPLE:
        return tuple(_decode_items(data))
    if code == SET:
        return set(_decode_items(data))
    if code == FROZENSET:
        return frozenset(_decode_items(data))
    if code == PAIRS:
        keys, values = _decode_pairs(data)
        return dict(zip(keys, values, strict=True))
    raise CorruptPayload(f"unknown extension type {code}")


_decode_items = Decoder(list[Any], ext_hook=_from_extension).decode
_decode_pairs = Decoder(tuple[list[Any], list[Any]], ext_hook=_from_extension).decode
