"""What the tasks of one process share, kept as it was before the first of them."""

from __future__ import annotations

import fcntl
import io
import os
import resource
import signal
import sys
import time
from collections.abc import Iterable
from typing import Final, TextIO

from omniq.workers.thread_state import is_usable, reopened

MANY: Final = 0.75
"""The part of the descriptors it may have after whose use a process is given up: innocent tasks need some too."""

CHECK: Final = 0.001
"""Seconds after which descriptors are put back though none seems to be closed: a task may have led them elsewhere."""


class ProcessState:
    """Puts back what a task has changed for those behind it, as far as that goes.

    That is: descriptors 0 to 2, `sys.stdout` and `sys.stderr`, the working directory, the umask, blocked signals, an
    alarm and the recursion limit. The environment, modules and `sys.path` are left alone: much code sets them, for
    good, when it is first imported.
    """

    def __init__(self, vital: Iterable[int]) -> None:
        """`vital` are descriptors without which the process has to end."""
        self._vital = {descriptor: _identity(descriptor) for descriptor in vital}
        self._standard = [(kept, number) for number in range(3) if (kept := _duplicate(number)) is not None]
        self._output, self._errors = _by_line(sys.stdout), _by_line(sys.stderr)
        self._directory = _working_directory()
        self._umask = os.umask(0)
        os.umask(self._umask)
        self._blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        self._recursion_limit = sys.getrecursionlimit()
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._most_descriptors = sys.maxsize if limit == resource.RLIM_INFINITY else int(MANY * limit)
        self._lowest = _lowest_free()
        self._check_at = 0.0

    def restore(self) -> bool:
        """Put everything back, and out what was printed; returns whether the process is fit for another task."""
        sys.setrecursionlimit(self._recursion_limit)
        try:
            os.umask(self._umask)
            signal.alarm(0)
            signal.pthread_sigmask(signal.SIG_SETMASK, self._blocked)
            if self._directory is not None:
                os.fchdir(self._directory)
            flushed, now, lowest = self.flush(), time.monotonic(), _lowest_free()
            if not flushed or lowest != self._lowest or now > self._check_at:
                self._check_at = now + CHECK
                self._restore_descriptors()
        except (OSError, ValueError):
            return False
        sys.stdout, sys.stderr = self._output, self._errors
        return self._lowest < self._most_descriptors

    def flush(self) -> bool:
        """Put out what was printed, to where it would go now; returns whether that could be done."""
        try:
            if self._output is not None:
                self._output.flush()
            if self._errors is not None:
                self._errors.flush()
        except (OSError, ValueError):  # nobody reads it, or a task has closed it
            return False
        return True

    def _restore_descriptors(self) -> None:
        for descriptor, identity in self._vital.items():
            if _identity(descriptor) != identity:
                os._exit(1)
        for kept, number in self._standard:
            os.dup2(kept, number)
        self._lowest = _lowest_free()
        if not self.flush():
            self._output, self._errors = _usable(self._output, "stdout"), _usable(self._errors, "stderr")


def _identity(descriptor: int) -> tuple[int, ...] | None:
    """Device and number of the file; None when it is closed."""
    try:
        return os.fstat(descriptor)[1:3]
    except OSError:
        return None


def _lowest_free() -> int:
    """The number that the next descriptor gets: it changes when one is closed or left open; without any it is huge."""
    try:
        lowest = os.dup(0)
    except OSError:
        return sys.maxsize
    os.close(lowest)
    return lowest


def _duplicate(descriptor: int) -> int | None:
    try:
        return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)
    except OSError:  # the worker has none
        return None


def _by_line(stream: TextIO | None) -> TextIO | None:
    """The stream, now putting out each line at once: the process may be killed before the next one."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(line_buffering=True)
    return stream


def _usable(stream: TextIO | None, name: str) -> TextIO | None:
    """The stream, or another one in its place if a task has closed or detached it."""
    return stream if stream is None or is_usable(stream) else reopened(stream, name)


def _working_directory() -> int | None:
    try:
        return os.open(".", getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:  # it may not be read
        return None
