"""A terminal on which something is drawn while others write to it."""

from __future__ import annotations

import faulthandler
import os
import re
import select
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from omniq.cli.output import is_terminal

MAX_PENDING: Final = 1024 * 1024
"""Bytes of output that are taken at once, and that wait for it where the system lets them."""
PAUSE: Final = 0.05
"""Seconds between two drawings at least."""
QUIET: Final = 0.2
"""Seconds after which a line that has no end yet is shown as it is."""
_CONTROL: Final = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b.?|[\x00-\x08\x0b-\x1f\x7f]"
)


class Terminal:
    """The terminal at stderr, with an area at its end that is drawn again and again; output goes above it.

    While it is open, what this process and its children write to stderr, and to stdout if that is the same terminal,
    comes through a pipe and is written by `draw`. The cursor isn't hidden and no mode of the terminal changed: it is in
    order however the process ends.
    """

    def __init__(self) -> None:
        here = os.fstat(2).st_rdev
        self._kept = {fd: os.dup(fd) for fd in (1, 2) if fd == 2 or (os.isatty(fd) and os.fstat(fd).st_rdev == here)}
        self._tty = self._kept[2]
        self._read, self._write = os.pipe()
        _enlarge(self._write)
        self._woken, self._wake = os.pipe()
        self._is_open = False
        self._giving_back = threading.Lock()
        self._partial = b""
        self._drawn: Sequence[int] = ()
        """The columns that each line takes which is drawn."""
        os.set_blocking(self._read, False)

    @property
    def size(self) -> os.terminal_size:
        """Its columns and lines."""
        try:
            return os.get_terminal_size(self._tty)
        except OSError:  # it has hung up
            return os.terminal_size((80, 24))

    def open(self) -> None:
        """Take what is written from now on."""
        self._is_open = True
        flush()
        for fd in self._kept:
            os.dup2(self._write, fd)
        os.close(self._write)
        if faulthandler.is_enabled():
            faulthandler.enable(self._tty)  # whoever dies can't read its pipe any more

    def give_back(self) -> None:
        """Let everything be written to the terminal itself again: `draw` what is left in the pipe.

        From any thread, and safe to repeat.
        """
        with self._giving_back:
            if not self._is_open:
                return
            self._is_open = False
            for fd, kept in self._kept.items():
                os.dup2(kept, fd)
            if faulthandler.is_enabled():
                faulthandler.enable()
            os.close(self._wake)

    def wait(self, seconds: float) -> None:
        """Wait until something is written, but not at once; or until it is given back, or the time is up."""
        select.select([self._woken], [], [], PAUSE)
        seconds = min(seconds, QUIET) if self._partial else seconds
        select.select([self._read, self._woken], [], [], seconds - PAUSE)

    def forget(self) -> None:
        """Leave what is drawn where it is: others have written below it."""
        self._drawn = ()

    def draw(self, text: str, widths: Sequence[int]) -> None:
        """Write what was written, and below it the text, whose lines take so many columns."""
        output = self._take()
        if not _in_foreground(self._tty):
            text, widths = "", ()
        columns = max(1, self.size.columns)
        rows = sum(max(1, -(-width // columns)) for width in self._drawn)  # it may have become narrower
        up = f"\r\x1b[{rows}A\x1b[J" if rows else ""
        self._drawn = widths
        self._put((up + output + text).encode("utf-8", "backslashreplace"))

    def _take(self) -> str:
        """The whole lines that were written; the rest too, if it has been all for a while."""
        data = b""
        with suppress(BlockingIOError):
            while len(data) < MAX_PENDING and (more := os.read(self._read, 65536)):
                data += more
        lines, end, rest = (self._partial + data).rpartition(b"\n")
        if self._partial and not data:
            lines, end, rest = self._partial, b"\n", b""
        self._partial = rest
        return shown((lines + end).decode("utf-8", "backslashreplace"))

    def _put(self, data: bytes) -> None:
        with suppress(OSError):  # it has hung up
            while data:
                data = data[os.write(self._tty, data) :]


def _enlarge(pipe: int) -> None:
    """Let a pipe hold `MAX_PENDING`, where that can be had."""
    import fcntl  # which Windows has none of

    if hasattr(fcntl, "F_SETPIPE_SZ"):
        with suppress(OSError):  # there are limits to what a user may have in pipes
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, MAX_PENDING)


def shown(output: str) -> str:
    """What was written, without what would move the cursor; colours stay, and end with it."""
    if output.isprintable() or not output:
        return output
    lines = [line.rstrip("\r").rpartition("\r")[2] for line in output.split("\n")]  # what was drawn over is gone
    text = _CONTROL.sub(
        lambda found: found[0] if found[0][:2] == "\x1b[" and found[0][-1] == "m" else "", "\n".join(lines)
    )
    return text + "\x1b[0m" if "\x1b[" in text else text


def flush() -> None:
    """Write what Python still has of standard output and error."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()


def can_draw() -> bool:
    """Whether stderr is a terminal that can be drawn on, with this process in its foreground, and not a CI's."""
    if os.name != "posix" or not is_terminal(sys.stderr) or os.environ.get("CI", "").lower() not in ("", "0", "false"):
        return False
    return os.environ.get("TERM", "") not in ("", "dumb", "unknown") and _in_foreground(sys.stderr.fileno())


def _in_foreground(terminal: int) -> bool:
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:  # it isn't the one that controls this process, or has hung up
        return False
