"""What a user sees of a schedule."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Final

from msgspec import Meta, Struct

from omniq.models.config import TEN_YEARS

MIN_INTERVAL: Final = 0.001
"""Seconds between two firings, at least."""


class Timing(Struct, frozen=True, kw_only=True):
    """When a schedule fires. Exactly one kind of timing is set."""

    interval: Annotated[float, Meta(ge=MIN_INTERVAL, le=TEN_YEARS)] | None = None
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
    """Without anything where it can't be read."""
    paused: bool
    next_run: dt.datetime | None
    """The next slot; None when there is none left."""
    damage: str | None = None
    """What is wrong with the stored schedule, which doesn't fire then. None for a schedule that is sound."""

    @property
    def state(self) -> str:
        if self.damage is not None:
            return "damaged"
        return "paused" if self.paused else "active"
