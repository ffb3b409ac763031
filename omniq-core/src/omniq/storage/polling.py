"""Waking those who wait for what other processes write, at a place that can't push but can be looked at cheaply."""

from __future__ import annotations

import fcntl
import math
import os
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from hashlib import sha256
from typing import TypeAlias

from omniq.errors import StoreError
from omniq.logs import get_logger
from omniq.storage.local import make_file
from omniq.storage.wakeups import Wakeups

log = get_logger("omniq.storage")

POLL_INTERVAL, QUIET_INTERVAL, REST_INTERVAL = 0.005, 0.02, 0.04
"""Seconds between two looks, and so the most that a wake-up by another process takes: soon after a change; later; and
long after, or where another process looks for the same tasks."""
LEADERS_TIME = 0.015
"""Seconds for which those who don't look often leave a task that has come to the leader."""
QUIET_AFTER, REST_AFTER = 1.0, 10.0
"""Seconds without a change after which it is quiet, and for long."""
SHARE, MAX_PAUSE = 10.0, 0.25
"""How many times as long as a look the pause after it is, and how many seconds at most: whoever waits for much hears of
it later, and a process that is busy, so that its looks have to wait, isn't kept from its work by them."""

Look: TypeAlias = Callable[[float], bool]
"""Tells who waits of what has changed, but not of tasks that have been due for less than so many seconds: they are left
to whoever looks more often. Returns whether anything has changed since the last look."""


class Leadership:
    """Which of a machine's processes that wait for the same tasks looks often, so that one task doesn't wake them all.

    After the pattern Leader/Followers (Schmidt et al., 2000): the leader holds a lock, which is free as soon as it is
    busy or has ended. Where locks aren't to be had, everybody leads.
    """

    def __init__(self, place: str) -> None:
        name = f"omniq-{sha256(os.fsencode(place)).hexdigest()[:16]}.lock"
        self._path = os.path.join(tempfile.gettempdir(), name)
        self._file: int | None = None
        self._held: int | None = None
        """The byte that it has locked: it stands for the queues."""

    def acquire(self, queues: Sequence[str]) -> bool:
        """Whether this process leads those that wait for tasks of these queues."""
        byte = int.from_bytes(sha256("/".join(sorted(queues)).encode()).digest()[:4])
        if byte != self._held:
            if self._held is not None:
                self.release()
            try:
                self._lock(byte)
            except BlockingIOError:
                return False
            except (OSError, StoreError) as error:
                log.debug("everybody looks for tasks often: %s", error)
            self._held = byte
        return True

    def _lock(self, byte: int) -> None:
        if self._file is None:
            make_file(self._path, trust_owner=False)  # else another user could hold it for ever
            self._file = os.open(self._path, os.O_RDWR | os.O_NOFOLLOW)
        fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)

    def release(self) -> None:
        """Let another one lead; the last to go removes the file. Who has it open still competes with its like."""
        self._held = None
        if self._file is not None:
            with suppress(OSError):
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(self._path)
            os.close(self._file)
            self._file = None


class Poller:
    """Keeps a thread looking while anybody in this process waits; it sleeps otherwise.

    `place` is the same for all processes of the machine that look at the same.
    """

    def __init__(self, wakeups: Wakeups, place: str) -> None:
        self._wakeups = wakeups
        self._place = place
        self._alarm = threading.Event()
        self._stopping = False
        wakeups.on_wait.add(self._alarm.set)
        self._alarm.set()  # somebody may have begun to wait before

    def stop(self) -> None:
        """Let `run` return. Called in any thread."""
        self._stopping = True
        self._wakeups.on_wait.discard(self._alarm.set)
        self._alarm.set()

    def run(self, look: Look) -> None:
        """Look, until `stop`."""
        leadership = Leadership(self._place)
        try:
            self._run(look, leadership)
        finally:
            leadership.release()

    def _run(self, look: Look, leadership: Leadership) -> None:
        changed_at = -math.inf
        while not self._stopping:
            queues, awaits_results = self._wakeups.awaited_queues, self._wakeups.awaits_results
            if not queues:
                leadership.release()
            if not queues and not awaits_results:
                self._alarm.wait()
                self._alarm.clear()
                continue
            looks_often = awaits_results or leadership.acquire(queues)
            began, busy = time.monotonic(), time.thread_time()
            if self._has_changed(look, 0.0 if looks_often else LEADERS_TIME):
                changed_at = time.monotonic()
            took, busy = time.monotonic() - began, time.thread_time() - busy
            pauses = (_interval(looks_often, changed_at), SHARE * busy, min(SHARE * took, REST_INTERVAL))
            time.sleep(min(MAX_PAUSE, max(pauses)))

    @staticmethod
    def _has_changed(look: Look, left_for: float) -> bool:
        try:
            return look(left_for)
        except Exception as error:
            # Waking is a hint: who reads or writes next gets the error. Here, a pause and a fresh start, since the
            # thread is there for all, whatever one of them waits for.
            log.debug("looking for changes failed: %s", error)
            return False


def _interval(looks_often: bool, changed_at: float) -> float:
    unchanged_for = time.monotonic() - changed_at
    if not looks_often or unchanged_for > REST_AFTER:
        return REST_INTERVAL
    return POLL_INTERVAL if unchanged_for < QUIET_AFTER else QUIET_INTERVAL
