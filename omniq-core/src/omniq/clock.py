"""The wall clock of this process, which tests can move.

Stores with a clock of their own (a database server) add `offset()` to it, so that
`omniq.testing.VirtualClock` moves every store in the same way. Durations inside a process are
measured with `time.monotonic()` and never jump.
"""

from __future__ import annotations

import time

_offset = 0.0


def now() -> float:
    """Seconds since the epoch, UTC, moved by `offset()`."""
    return time.time() + _offset


def offset() -> float:
    """Seconds by which the clock is ahead of the machine's; zero outside tests."""
    return _offset


def set_offset(seconds: float) -> None:
    """Move the clock; for `omniq.testing.VirtualClock` only."""
    global _offset
    _offset = seconds
