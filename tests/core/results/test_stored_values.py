"""Values as they are stored: what makes them equal, and what they show."""

from __future__ import annotations

import datetime as dt
import math

import msgspec
import pytest
from omniq.models import Progress
from omniq.models.result import StoredValue


def stored(data: bytes, format: str = "json") -> StoredValue:
    return StoredValue(format, data, lambda _, data: msgspec.json.decode(data))


def test_two_are_equal_when_their_bytes_are() -> None:
    assert stored(b"[1]") == stored(b"[1]")
    assert hash(stored(b"[1]")) == hash(stored(b"[1]"))
    assert stored(b"[1]") != stored(b"[ 1]")
    assert stored(b"[1]") != stored(b"[1]", "other")
    assert stored(b"[1]") != [1]


def test_those_that_needn_t_be_rebuilt_are_equal_when_their_values_are() -> None:
    assert StoredValue.of([1]) == StoredValue.of([1])
    assert StoredValue.of([1]) != StoredValue.of([2])
    assert StoredValue.of([1]).get() == [1]


def test_only_their_size_is_shown() -> None:
    assert repr(stored(b'"secret"')) == "<8 bytes>"


def test_a_fraction_is_a_number() -> None:
    with pytest.raises(ValueError, match=r"^fraction: expected 0 to 1, got nan$"):
        Progress(math.nan, "", dt.datetime.now(dt.UTC))
