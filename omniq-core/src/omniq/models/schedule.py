"""What a user sees of a schedule."""

from __future__ import annotations

import datetime as dt

from msgspec import Struct


class Timing(Struct, frozen=True, kw_only=True):
    """When a schedule fires. Exactly one kind of timing is set."""

    interval: float | None = None
    """Seconds between two firings."""

    def after(self, slot: float) -> float:
        """The slot that follows `slot` (seconds since the epoch)."""
        assert self.interval is not None
        return slot + self.interval

    def latest(self, slot: float, now: float) -> float:
        """The last slot that isn't after `now`, at least `slot`: what a late scheduler catches up with."""
        assert self.interval is not None
        return slot + max(0.0, (now - slot) // self.interval) * self.interval


class Schedule(Struct, frozen=True, kw_only=True):
    """A recurring task and its timing."""

    id: str
    func: str
    queue_name: str
    timing: Timing
    paused: bool
    next_run: dt.datetime | None
    """The next slot; None when there is none left."""

    @property
    def state(self) -> str:
        return "paused" if self.paused else "active"
