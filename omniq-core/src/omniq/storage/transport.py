"""What event loops raise, beside `OSError`, when a connection is gone or can't be made."""

from __future__ import annotations

import asyncio
import re

_WORDS = re.compile(
    r"handler is closed|transport closed|transport is clos|used by transport|can't start new thread", re.IGNORECASE
)
"""Of uvloop, asyncio and TLS: the connection is closed, its descriptor was closed by others, threads have run out."""


def is_transport_error(error: BaseException) -> bool:
    """Whether it tells of the connection, not of the program: the same call may succeed on another one."""
    if isinstance(error, asyncio.CancelledError):
        return _is_stray(asyncio.current_task())
    if isinstance(error, RuntimeError):
        return _WORDS.search(str(error)) is not None
    return isinstance(error, OSError | EOFError)


def _is_stray(task: asyncio.Task[object] | None) -> bool:
    """Whether nobody has cancelled the task: a driver has let the end of a task of its own slip out."""
    return task is not None and task.cancelling() == 0
