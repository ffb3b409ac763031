"""Importing this first patches the standard library of a process in which nothing but tasks runs."""

# ruff: noqa: E402 (nothing may be imported before it is patched)

from gevent import get_hub, monkey

monkey.patch_all()
# A first hub that is made beside another imports what that imports, and both wait for each other.
get_hub()

# isort: split
import asyncio
import errno
from collections.abc import Callable
from functools import wraps
from importlib import import_module
from typing import Any, Final
from weakref import WeakKeyDictionary

import greenlet

_thread_id: Callable[[], int] = monkey.get_original("_thread", "get_ident")
_main = _thread_id()


def _on_greenlets() -> bool:
    """Whether this is the thread whose greenlets run tasks, and not the one of the async tasks."""
    return _thread_id() == _main


# ── scarce descriptors ──────────────────────────────────────────────────────

# A thread of an executor gets a hub when what it runs waits for something. libev ends the process if there is no
# descriptor for that, unless it is told to go on: it tries again then.
RETRY_INTERVAL: Final = 0.02
"""Seconds between two tries."""

_sleep: Callable[[float], None] = monkey.get_original("time", "sleep")


def _failed(message: object, number: int) -> None:
    if number not in (errno.EMFILE, errno.ENFILE):
        _main_loop._handle_syserr(message, number)
        return
    _sleep(RETRY_INTERVAL)


_main_loop: Any = get_hub().loop
_core: Any = import_module("gevent.core")
if hasattr(_core, "set_syserr_cb"):  # libuv raises errors instead
    _core.set_syserr_cb(_failed)


# ── event loops ─────────────────────────────────────────────────────────────

# asyncio knows one running loop and one current task per thread. Greenlets of one thread may each be inside
# `asyncio.run`: what is theirs is put aside when another one's turn comes.
_aside: WeakKeyDictionary[greenlet.greenlet, tuple[Any, Any]] = WeakKeyDictionary()
_loops = 0
_run_forever = asyncio.BaseEventLoop.run_forever
_swap_task = getattr(asyncio.tasks, "_swap_current_task", lambda loop, task: None)  # before 3.12, it is by loop anyway


def _switched(event: str, between: tuple[greenlet.greenlet, greenlet.greenlet]) -> None:
    before, now = between
    if (loop := asyncio._get_running_loop()) is not None:
        _aside[before] = loop, _swap_task(loop, None)
        asyncio._set_running_loop(None)
    if (back := _aside.pop(now, None)) is not None:
        asyncio._set_running_loop(back[0])
        _swap_task(*back)


@wraps(_run_forever)
def _run_forever_apart(self: asyncio.BaseEventLoop) -> None:
    global _loops
    if not _on_greenlets():
        _run_forever(self)
        return
    _loops += 1
    greenlet.settrace(_switched)
    try:
        _run_forever(self)
    finally:
        _loops -= 1
        if not _loops:  # else switching costs all others something
            greenlet.settrace(None)


asyncio.BaseEventLoop.run_forever = _run_forever_apart  # type: ignore[method-assign]
