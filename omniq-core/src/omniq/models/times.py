"""Durations and times as users give them, turned into seconds."""

from __future__ import annotations

import datetime as dt
import math
from typing import TypeAlias

from omniq.errors import InvalidTask

Duration: TypeAlias = float | int | dt.timedelta
"""Seconds, or a `timedelta`."""


def seconds(name: str, value: Duration | None, *, minimum: float = 0.0) -> float | None:
    """The duration in seconds; `InvalidTask` names the argument when it is out of range."""
    if value is None:
        return None
    if isinstance(value, dt.timedelta):
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidTask(f"{name}: expected seconds or a timedelta, got {type(value).__name__}")
    if not math.isfinite(value) or value < minimum:
        raise InvalidTask(f"{name}: expected at least {minimum:g} seconds, got {value:g}")
    return float(value)


def timestamp(name: str, value: dt.datetime | None) -> float | None:
    """The aware datetime as seconds since the epoch."""
    if value is None:
        return None
    if not isinstance(value, dt.datetime):
        raise InvalidTask(f"{name}: expected a datetime, got {type(value).__name__}")
    if value.tzinfo is None:
        raise InvalidTask(f"{name}: expected a datetime with a time zone, such as datetime.now(timezone.utc)")
    return value.timestamp()


def as_datetime(value: float | None) -> dt.datetime | None:
    """Seconds since the epoch as an aware datetime in UTC."""
    return None if value is None else dt.datetime.fromtimestamp(value, dt.UTC)
