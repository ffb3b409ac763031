"""What a task can change of its thread and process that others would stumble over, and putting it back."""

from __future__ import annotations

import signal
import sys
from sys import getprofile, getrecursionlimit, gettrace
from time import monotonic
from typing import Any, TextIO, cast

from omniq.portals import reopen_standard_files

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
            if stream is not None and not is_usable(getattr(sys, name, None)):
                setattr(sys, name, stream if is_usable(stream) else reopened(stream, name))
        reopen_standard_files()


def is_usable(stream: Any) -> bool:
    """Whether it is a stream that is neither closed nor detached: a task may have put there, or done, anything."""
    try:
        return not stream.closed
    except Exception:
        return False


def reopened(stream: TextIO, name: str) -> TextIO:
    """Another stream for the standard file of that name, in place of one that can't be used any more."""
    mode, line_buffered = ("r", -1) if name == "stdin" else ("w", 1)
    encoding, errors = getattr(stream, "encoding", None), getattr(stream, "errors", None)
    return cast("TextIO", open(STREAMS.index(name), mode, line_buffered, encoding, errors, closefd=False))
