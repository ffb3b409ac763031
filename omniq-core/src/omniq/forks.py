"""Forks: telling a child from its parent, and ending one that a task has made where the task's own code ends."""

from __future__ import annotations

import os
import sys
import traceback
from typing import NoReturn

count = 0
"""How many forks lie between this process and the one that imported OmniQ: what has another count is the parent's."""


def _after_fork_in_child() -> None:
    global count
    count += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


def end_child(error: BaseException | None = None) -> NoReturn:
    """End this forked child as a program ends that raised `error`, without any of the parent's clean-up.

    Its exit handlers, buffers and finalizers would close what the parent goes on using.
    """
    try:
        _complain(error)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(_exit_code(error))


def _complain(error: BaseException | None) -> None:
    """Say on stderr what Python would say."""
    if isinstance(error, SystemExit):
        if error.code is not None and not isinstance(error.code, int):
            print(error.code, file=sys.stderr)
    elif error is not None:
        traceback.print_exception(error)


def _exit_code(error: BaseException | None) -> int:
    if isinstance(error, SystemExit) and (error.code is None or isinstance(error.code, int)):
        return (error.code or 0) & 0xFF
    return 0 if error is None else 1
