"""Time: the clock that tests can move, and durations and moments as users give them."""

from __future__ import annotations

import datetime as dt
import math
import time
from typing import Final, TypeAlias

from omniq.errors import InvalidTask

_offset = 0.0


def now() -> float:
    """Seconds since the epoch, UTC, moved by `offset()`."""
    return time.time() + _offset


def uptime() -> float:
    """Seconds on a clock that nobody sets, and that goes on while the machine sleeps where the system can tell."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def offset() -> float:
    """Seconds by which the clock is ahead of the machine's; zero outside tests."""
    return _offset


def set_offset(seconds: float) -> None:
    """Move the clock; for `omniq.testing.VirtualClock` only."""
    global _offset
    _offset = seconds


# ── durations and moments ───────────────────────────────────────────────────


FIRST_SECOND: Final = -62_135_596_800.0
LAST_SECOND: Final = 253_402_300_799.0
"""Before the year 1 and after the year 9999 there is no `datetime`."""

Duration: TypeAlias = float | int | dt.timedelta
"""Seconds, or a `timedelta`."""

LATEST = dt.datetime.fromtimestamp(LAST_SECOND, dt.UTC)
"""The latest time at which a task can be due."""
EARLIEST = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
"""The earliest one."""
_LATEST_AT, _EARLIEST_AT = LATEST.timestamp(), EARLIEST.timestamp()


def seconds(name: str, value: Duration | None, *, minimum: float = 0.0, maximum: float = math.inf) -> float | None:
    """The duration in seconds; `InvalidTask` names the argument when it is out of range."""
    if value is None:
        return None
    if isinstance(value, dt.timedelta):
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidTask(f"{name}: expected seconds or a timedelta, got {type(value).__name__}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number) or not minimum <= number <= maximum:
        bounds = f"at least {minimum:g}" if maximum == math.inf else f"{minimum:g} to {maximum:.0f}"
        raise InvalidTask(f"{name}: expected {bounds} seconds, got {number:g}")
    return number


def timestamp(name: str, value: dt.datetime | None) -> float | None:
    """The aware datetime as seconds since the epoch."""
    if value is None:
        return None
    if not isinstance(value, dt.datetime):
        raise InvalidTask(f"{name}: expected a datetime, got {type(value).__name__}")
    if value.tzinfo is None:
        raise InvalidTask(f"{name}: expected a datetime with a time zone, such as datetime.now(timezone.utc)")
    return value.timestamp()


def due_time(name: str, value: dt.datetime | None) -> float | None:
    """As `timestamp`, and `InvalidTask` for a time at which nothing can be due."""
    at = timestamp(name, value)
    if at is not None and not _EARLIEST_AT <= at <= _LATEST_AT:
        raise InvalidTask(f"{name}: expected a time from {EARLIEST:%Y-%m-%d} to {LATEST:%Y-%m-%d} UTC, got {value}")
    return at


def as_datetime(value: float | None) -> dt.datetime | None:
    """As `utc`; None stays None."""
    return None if value is None else utc(value)


def utc(value: float) -> dt.datetime:
    """Seconds since the epoch as an aware datetime in UTC; a time before year 1 or after 9999 as the nearest in it."""
    return dt.datetime.fromtimestamp(max(value, FIRST_SECOND) if value < LAST_SECOND else LAST_SECOND, dt.UTC)
