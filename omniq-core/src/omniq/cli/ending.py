"""The end of a worker's process: signals ask for it, and a deadline sees to it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from queue import Empty, SimpleQueue
from types import FrameType
from typing import Final, NamedTuple, NoReturn, Self

from omniq.cli.exits import SIGNALLED
from omniq.texts import escaped

SIGNALS: Final = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name))
AT_ONCE: Final = 0.9
"""Seconds within which the process is gone after a second signal."""
MARGIN: Final = 3.0
"""Seconds beyond the grace period that are left for handing back and settling."""
TOO_LATE: Final = "the worker didn't stop in time and is ended; what it held runs again when the leases are over"


class Deadline(NamedTuple):
    """When the process ends at the latest, with which exit code and last words."""

    at: float
    """On `time.monotonic()`'s clock."""
    code: int
    note: str

    @property
    def left(self) -> float:
        """Seconds until then."""
        return max(0.0, self.at - time.monotonic())


class LastResort:
    """Ends the process at a deadline, whatever still runs in it: a thread, or an event loop that is stuck."""

    def __init__(self) -> None:
        self._orders: SimpleQueue[Deadline | None] = SimpleQueue()
        threading.Thread(target=self._watch, name="omniq-last-resort", daemon=True).start()

    def within(self, seconds: float, code: int, note: str = "") -> None:
        """Be gone in that time, or at an earlier deadline if there is one. May be called by a signal handler."""
        # A `SimpleQueue`'s put takes no lock that the interrupted code could hold.
        self._orders.put(Deadline(time.monotonic() + seconds, code, note))

    def call_off(self) -> None:
        """Forget the deadline."""
        self._orders.put(None)

    def _watch(self) -> None:
        deadline: Deadline | None = None
        while True:
            try:
                order = self._orders.get(timeout=None if deadline is None else deadline.left)
            except Empty:
                assert deadline is not None
                end_now(deadline.code, deadline.note)
            if deadline is not None and order is not None:
                order = order._replace(at=min(deadline.at, order.at))
            deadline = order


class StopSignals:
    """Notes SIGTERM, SIGINT and SIGHUP, while entered, and lets a loop know of them.

    The handlers run between any two instructions of the main thread, so also while a task blocks the loop.
    Once a signal has come they stay: more of them mustn't disturb the end. A SIGHUP that is ignored stays so: that is
    what `nohup` is for.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, last_resort: LastResort) -> None:
        self._loop = loop
        self._last_resort = last_resort
        self.count = 0
        self.exit_code = 0
        """What a process exits with that was ended by the last signal."""
        self.patience = 0.0
        """Seconds that the first signal leaves to what runs."""
        self.first = asyncio.Event()
        self.second = asyncio.Event()

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._received) for number in SIGNALS if _is_heard(number)}
        return self

    def __exit__(self, *exc: object) -> None:
        if not self.count:
            for number, handler in self._before.items():
                signal.signal(number, handler)

    def _received(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        self.exit_code = SIGNALLED + number
        seconds = self.patience + MARGIN if self.count == 1 else AT_ONCE
        self._last_resort.within(seconds, self.exit_code, TOO_LATE)
        with suppress(RuntimeError):  # the loop is closed: the end is near
            self._loop.call_soon_threadsafe(self._tell)

    def _tell(self) -> None:
        self.first.set()
        if self.count > 1:
            self.second.set()


def _is_heard(number: int) -> bool:
    return number != getattr(signal, "SIGHUP", None) or signal.getsignal(number) is not signal.SIG_IGN


def end_now(code: int, note: str = "") -> NoReturn:
    """End the process without waiting for anything in it, once what it printed is out."""
    talking = threading.Thread(target=_last_words, args=(note,), daemon=True)
    talking.start()
    talking.join(0.1)  # whoever reads our output may be stuck
    os._exit(code)


def _last_words(note: str) -> None:
    with suppress(OSError, ValueError):
        sys.stdout.flush()
        if note:
            print(f"error: {escaped(note)}", file=sys.stderr)
        sys.stderr.flush()
