"""What a task can change of its thread and process that others would stumble over, and putting it back."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from sys import getprofile, getrecursionlimit, gettrace
from time import monotonic

LOOK_INTERVAL = 0.05
"""Seconds between two looks at what only the system knows."""
STREAMS = ("stdin", "stdout", "stderr")


class ThreadState:
    """A thread as it was before its tasks; what it shares with others of the process, too.

    Put back are the thread's trace and profile functions, its blocked signals, a recursion limit that was
    lowered, and the standard streams and files if they were closed. Everything else that belongs to the process
    stays as a task leaves it: there may be another task that goes by it.
    """

    def __init__(self) -> None:
        self._trace, self._profile = gettrace(), getprofile()
        self._recursion_limit = getrecursionlimit()
        self._streams = [(name, getattr(sys, name)) for name in STREAMS]
        self._signals = signal.pthread_sigmask(signal.SIG_BLOCK, ()) if hasattr(signal, "pthread_sigmask") else None
        self._looked = 0.0

    def restore(self) -> None:
        """After a task."""
        if gettrace() is not self._trace:
            sys.settrace(self._trace)
        if getprofile() is not self._profile:
            sys.setprofile(self._profile)
        if getrecursionlimit() < self._recursion_limit:
            sys.setrecursionlimit(self._recursion_limit)
        if (now := monotonic()) - self._looked > LOOK_INTERVAL:
            self._looked = now
            self._restore_signals()
            self._restore_streams()

    def _restore_signals(self) -> None:
        if self._signals is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, self._signals)

    def _restore_streams(self) -> None:
        for name, stream in self._streams:
            if getattr(getattr(sys, name), "closed", False) and not getattr(stream, "closed", True):
                setattr(sys, name, stream)
        reopen_standard_files()


def reopen_standard_files() -> None:
    """Open the descriptors 0 to 2 where they are closed: the next file or connection would get their number."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            with suppress(OSError):  # none is left: the next look will see to it
                _open_null(number)


def _open_null(number: int) -> None:
    opened = os.open(os.devnull, os.O_RDWR)
    if opened == number:
        os.set_inheritable(number, True)
    else:  # somebody else has got it by now
        os.close(opened)
