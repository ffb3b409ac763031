"""Values to bytes and back, with their exact types."""

from __future__ import annotations

import collections
import datetime as dt
import enum
import math
from decimal import Decimal
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from omniq.errors import CorruptPayload, SerializationError
from omniq.serialization import (
    Format,
    MsgspecSerializer,
    NotCarried,
    SerializationDetector,
    SerializationManager,
)

IDS = {"task_id": "t1", "queue_name": "default"}
detector = SerializationDetector()
packer = MsgspecSerializer()


# ── what msgspec carries exactly ─────────────────────────────────────────────

zones = st.sampled_from(
    [
        None,
        dt.UTC,
        dt.timezone(dt.timedelta(hours=-3, microseconds=7)),
        dt.timezone(dt.timedelta(hours=1), "CET"),
        ZoneInfo("Europe/Berlin"),
    ]
)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(min_value=2**62, max_value=2**66),
    st.floats(allow_nan=False),
    st.text(),
    st.text(st.characters(categories=["Cs"]), max_size=3),
    st.binary(),
    st.datetimes(timezones=zones, allow_imaginary=True),
    st.dates(),
    st.times(timezones=zones),
    st.timedeltas(),
    st.decimals(allow_nan=False),
    st.uuids(),
    st.complex_numbers(allow_nan=False),
)
keys = st.recursive(scalars, lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3), max_leaves=4)
values = st.recursive(
    scalars | st.binary().map(bytearray),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(keys, inner, max_size=4),
        st.sets(keys, max_size=4),
        st.frozensets(keys, max_size=4),
    ),
    max_leaves=12,
)


def exact(value: Any) -> Any:
    """A form of the value in which 1, 1.0 and True differ, as do 0.0 and -0.0, and two time zones."""
    kind = type(value)
    if kind in (list, tuple):
        return kind, [exact(item) for item in value]
    if kind in (set, frozenset):
        return kind, sorted(repr(exact(item)) for item in value)
    if kind is dict:
        return kind, [(exact(key), exact(item)) for key, item in value.items()]
    if kind in (dt.datetime, dt.time):
        return kind, repr(value), value.fold
    return kind, repr(value)


@given(values)
def test_native_values_come_back_exactly(value: Any) -> None:
    assert detector.detect(value) is Format.MSGSPEC
    assert exact(packer.loads(packer.dumps(value))) == exact(value)


@pytest.mark.parametrize("text", ["NaN", "sNaN123", "-Infinity", "-0E+7", "1.10"])
def test_decimals_keep_their_digits(text: str) -> None:
    assert str(packer.loads(packer.dumps(Decimal(text)))) == text


def test_a_nan_comes_back_as_one() -> None:
    assert math.isnan(packer.loads(packer.dumps(math.nan)))


def test_native_containers_hold_anything_native_at_the_deepest_level() -> None:
    value: Any = {2**70, "\ud800"}
    for _ in range(63):
        value = [value]
    assert packer.loads(packer.dumps(value)) == value


class Colour(enum.IntEnum):
    RED = 1


class Point(NamedTuple):
    x: int


class Name(str):
    pass


class Record(msgspec.Struct):
    x: int


class Zone(dt.tzinfo):
    def utcoffset(self, _when: dt.datetime | None) -> dt.timedelta:
        return dt.timedelta(hours=2)

    def dst(self, _when: dt.datetime | None) -> None:
        return None

    def tzname(self, _when: dt.datetime | None) -> str:
        return "Zone"

    def __repr__(self) -> str:
        return "Zone()"


LOOKALIKES = [
    Colour.RED,
    Point(1),
    Name("x"),
    Record(1),
    collections.OrderedDict(a=1),
    collections.Counter("ab"),
    dt.datetime(2026, 1, 1, tzinfo=Zone()),
    [1, {"a": (Colour.RED,)}],
    {Colour.RED: 1},
    range(3),
    msgspec.msgpack.Ext(1, b""),
]


@pytest.mark.parametrize("value", LOOKALIKES, ids=lambda value: type(value).__name__)
def test_lookalikes_and_subclasses_go_by_dill_and_keep_their_type(value: Any) -> None:
    manager = SerializationManager()
    format, data = manager.dump_value(value)
    assert format is detector.detect(value) is Format.DILL
    loaded = manager.load_value(format, data)
    assert type(loaded) is type(value)
    assert repr(loaded) == repr(value) or loaded == value


def test_cycles_and_deep_values_are_left_to_dill() -> None:
    cyclic: list[Any] = [1]
    cyclic.extend([cyclic, cyclic])
    deep: list[Any] = []
    for _ in range(80):
        deep = [deep]
    manager = SerializationManager()
    format, data = manager.dump_value(cyclic)
    loaded = manager.load_value(format, data)
    assert (format, loaded[0], loaded[1] is loaded) == (Format.DILL, 1, True)
    assert manager.load_value(*manager.dump_value(deep)) == deep
    with pytest.raises(NotCarried, match="cyclic or nested deeper than 64"):
        packer.dumps(deep)


def bomb(head: bytes, depth: int) -> bytes:
    """Containers or extensions of one item inside each other."""
    data = b"\xc0"
    for _ in range(depth):
        data = head + data if len(head) == 1 else b"\xc9" + len(b"\x91" + data).to_bytes(4, "big") + b"\x01\x91" + data
    return data


@pytest.mark.parametrize(
    "data",
    [
        bomb(b"\x91", 100_000),
        bomb(b"ext", 2_000),
        b"",
        b"\xc1",
        b"\xc0\xc0",
        b"\xdd\xff\xff\xff\xff",
        b"\xd9\x02\xff\xfe",
        b"\xc7\x01\x63\x00",  # an unknown extension
        b"\xc7\x03\x0exyz",  # no decimal
        b"\xc7\x02\x0fxy",  # no uuid
        b"\xc7\x01\x01\x05",  # a tuple that isn't a list inside
        b"\xc7\x03\x02\x91\x91\xc0",  # a set of a list
        b"\xc7\x04\x04\x92\x91\xc0\x90",  # a key without a value
    ],
)
def test_hostile_msgpack_is_corrupt_and_nothing_else(data: bytes) -> None:
    with pytest.raises(CorruptPayload):
        packer.loads(data)


def test_an_unknown_time_zone_says_what_is_missing() -> None:
    data = packer.dumps(dt.time(1, tzinfo=ZoneInfo("Europe/Berlin"))).replace(b"Berlin", b"Atlant")
    with pytest.raises(SerializationError, match="tzdata") as raised:
        packer.loads(data)
    assert not isinstance(raised.value, CorruptPayload)
