"""The scalar types that MessagePack lacks, each as one of its extension types."""

from __future__ import annotations

import datetime as dt
import struct
from collections.abc import Callable
from decimal import Decimal
from typing import Any, Final, TypeAlias
from uuid import UUID
from zoneinfo import ZoneInfo

from msgspec.msgpack import Decoder, Encoder, Ext

from omniq.serialization.base import NotCarried, type_name

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
