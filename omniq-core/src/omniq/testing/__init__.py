"""What tests need: a clock that moves, a store without a server, and the suite that defines a backend.

`omniq.testing.conformance` and `omniq.testing.builders` need pytest (`omniq-core[testing]`); the rest doesn't.
"""

from __future__ import annotations

import datetime as dt
from types import TracebackType
from typing import Final, Self

from omniq import clock
from omniq.clock import Duration
from omniq.storage import wakeups
from omniq.testing.reference import ReferenceEventStore, ReferenceQueueStore, ReferenceResultStore, ReferenceSpace

JOURNAL: Final = "OMNIQ_TEST_PROJECTS"
"""The variable that names the file in which the suite notes its projects, so that none is left behind."""


class VirtualClock:
    """Moves `omniq.clock` while it is entered: leases lapse, delays end and results expire without sleeping.

    Time still passes by itself. Every store adds the clock's offset to its own time, in this process only.
    """

    def __init__(self) -> None:
        self._before: float | None = None

    def __enter__(self) -> Self:
        self._before = clock.offset()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._before is not None:
            clock.set_offset(self._before)
        self._before = None

    def now(self) -> float:
        """Seconds since the epoch, as the stores see them."""
        return clock.now()

    def advance(self, by: Duration) -> None:
        """Move the clock forward by seconds or a `timedelta`, and wake whoever waits for a store.

        Raises `ValueError` for a step back and `RuntimeError` outside of the `with` block.
        """
        if self._before is None:
            raise RuntimeError("advance: enter the clock first (with VirtualClock() as clock)")
        step = by.total_seconds() if isinstance(by, dt.timedelta) else float(by)
        if not step >= 0:
            raise ValueError(f"advance: expected at least 0 seconds, got {step:g}")
        clock.set_offset(clock.offset() + step)
        wakeups.wake_all()


__all__ = ["ReferenceEventStore", "ReferenceQueueStore", "ReferenceResultStore", "ReferenceSpace", "VirtualClock"]
