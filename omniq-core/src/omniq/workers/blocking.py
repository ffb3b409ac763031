"""A worker pool for programs that block."""

from __future__ import annotations

import atexit
import os

from omniq.errors import WorkerError
from omniq.sync import Portal, refuse_in_loop
from omniq.workers.pool import AsyncWorkerPool


class WorkerPool:
    """A worker pool on a thread and an event loop of its own; its methods block."""

    def __init__(self, pool: AsyncWorkerPool) -> None:
        self.aio = pool
        self._portal: Portal | None = None

    @property
    def running(self) -> bool:
        """Whether it takes tasks: not when it can't go on, or in a forked child, whose parent has the worker."""
        return self._portal is not None and self._portal.alive and self.aio.running

    def start(self) -> None:
        """Begin to work; returns at once. Raises as `AsyncWorkerPool.start`."""
        refuse_in_loop("start()")
        portal = self._portal = Portal("omniq-worker")
        _started.add(self)
        try:
            portal.call(self.aio.start())
            portal.on_death = self.aio.die
        except BaseException:
            self._end()
            raise

    def stop(self, grace_period: float | None = None) -> None:
        """Stop as `AsyncWorkerPool.stop` does; returns when it has."""
        if self._portal is None:
            return
        if self._portal.alive:
            try:
                self._portal.call(self.aio.stop(grace_period))
            finally:
                self._end()
        else:
            _started.discard(self)
            self._portal = None

    def drain(self) -> None:
        """Wait until the tasks there are have been worked off. Raises `WorkerError` if the worker doesn't run."""
        if self._portal is None or not self.running:
            raise WorkerError("the worker isn't running")
        self._portal.call(self.aio.drain())

    def _end(self) -> None:
        _started.discard(self)
        portal, self._portal = self._portal, None
        if portal is not None:
            try:
                portal.call(self.aio.disconnect())
            finally:
                portal.stop()


_started: set[WorkerPool] = set()


def _after_fork_in_child() -> None:
    _started.clear()  # they are the parent's


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


def _stop_all() -> None:
    """At the interpreter's end: hand back what runs, instead of letting leases run out."""
    for pool in list(_started):
        pool.stop()


atexit.register(_stop_all)
