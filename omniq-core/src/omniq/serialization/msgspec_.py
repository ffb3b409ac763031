"""The primary serializer, and the one for OmniQ's own structs. Neither ever runs code that the bytes name."""

from __future__ import annotations

from typing import Any, Generic, TypeVar
from zoneinfo import ZoneInfoNotFoundError

from msgspec import Struct
from msgspec.msgpack import Decoder, Encoder

from omniq.errors import CorruptPayload, SerializationError
from omniq.serialization.base import Format, Serializer
from omniq.serialization.detect import FROZENSET, PAIRS, SET, TUPLE, SerializationDetector
from omniq.serialization.scalars import UNPACK

S = TypeVar("S", bound=Struct)


class MsgspecSerializer(Serializer):
    """Carries what `SerializationDetector` accepts, exactly."""

    format = Format.MSGSPEC

    def __init__(self) -> None:
        self._encode = SerializationDetector().encode
        self._decode = Decoder(ext_hook=_from_extension).decode

    def dumps(self, value: object) -> bytes:
        """The value as MessagePack. Raises `NotCarried` when it wouldn't come back as it is."""
        return self._encode(value)

    def loads(self, data: bytes) -> Any:
        try:
            return self._decode(data)
        except ZoneInfoNotFoundError as error:
            raise SerializationError(f"{error.args[0]}: install tzdata on this machine") from error
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
