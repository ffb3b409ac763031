"""Wake-ups inside one process: whoever writes tells whoever waits, per location.

Hints only shorten waits; nothing depends on them. They cross threads and event loops.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress

from omniq.loops import PerLoop

_lock = threading.Lock()
_task_waiters: defaultdict[str, set[_Waiter]] = defaultdict(set)
_result_waiters: defaultdict[str, dict[str, set[_Waiter]]] = defaultdict(dict)


def _after_fork() -> None:
    """The parent's waiters are not the child's, and the lock may have been held."""
    global _lock
    _lock = threading.Lock()
    _task_waiters.clear()
    _result_waiters.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class _Waiter:
    """An event of one loop that any thread can set."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()
        _loops.get()

    @property
    def is_over(self) -> bool:
        """Its loop was closed before it could stop waiting."""
        return self._loop.is_closed()

    def wake(self) -> None:
        with suppress(RuntimeError):  # its loop was closed
            self._loop.call_soon_threadsafe(self._event.set)

    async def wait(self, timeout: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._event.wait()


def _prune(_: object) -> None:
    """A loop has ended: nobody there waits any more."""
    over: list[_Waiter] = []  # they live on until the lock is free, which whoever ends with them may want
    with _lock:
        by_id = [waiters for of_place in list(_result_waiters.values()) for waiters in of_place.values()]
        for waiters in [*list(_task_waiters.values()), *by_id]:
            over += [waiter for waiter in waiters if waiter.is_over]
            waiters.difference_update(over)


_loops = PerLoop(object, _prune)


def tasks_added(location: str) -> None:
    """Tell everybody who waits for tasks there."""
    if _task_waiters.get(location):
        with _lock:
            waiters = list(_task_waiters[location])
        for waiter in waiters:
            waiter.wake()


def results_stored(location: str, ids: Iterable[str]) -> None:
    """Tell everybody who waits for one of these results."""
    if _result_waiters.get(location):
        with _lock:
            waiting = _result_waiters[location]
            waiters = {waiter for id_ in ids for waiter in waiting.get(id_, ())}
        for waiter in waiters:
            waiter.wake()


def wake_all() -> None:
    """Tell everybody: the virtual clock has moved."""
    with _lock:
        waiters = {w for ws in _task_waiters.values() for w in ws}
        waiters |= {w for by_id in _result_waiters.values() for ws in by_id.values() for w in ws}
    for waiter in waiters:
        waiter.wake()


async def wait_for_tasks(location: str, timeout: float) -> None:
    """Return at the next `tasks_added` there, or after `timeout` seconds."""
    with waiting_for_tasks(location) as waiter:
        await waiter.wait(timeout)


async def wait_for_results(location: str, ids: Sequence[str], timeout: float) -> None:
    """Return at the next `results_stored` of one of these ids, or after `timeout` seconds."""
    with waiting_for_results(location, ids) as waiter:
        await waiter.wait(timeout)


@contextmanager
def waiting_for_tasks(location: str) -> Iterator[_Waiter]:
    """A waiter that hears every `tasks_added` from here on."""
    waiter = _Waiter()
    with _lock:
        _task_waiters[location].add(waiter)
    try:
        yield waiter
    finally:
        with _lock:
            _task_waiters[location].discard(waiter)


@contextmanager
def waiting_for_results(location: str, ids: Sequence[str]) -> Iterator[_Waiter]:
    """A waiter that hears every `results_stored` of these ids from here on."""
    waiter = _Waiter()
    waiting = _result_waiters[location]
    with _lock:
        for id_ in ids:
            waiting.setdefault(id_, set()).add(waiter)
    try:
        yield waiter
    finally:
        with _lock:
            for id_ in ids:
                waiting[id_].discard(waiter)
                if not waiting[id_]:
                    del waiting[id_]
