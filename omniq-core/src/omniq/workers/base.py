"""`Worker`: what every kind of worker is for its users; and `WorkerPool`, a worker on a thread of its own."""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, Self

from omniq.callbacks import CallbackManager
from omniq.clock import Duration, seconds
from omniq.config.loader import worker_config
from omniq.errors import WorkerError
from omniq.events.logger import AsyncEventLogger
from omniq.events.storage import AsyncEventStorage, EventStorage
from omniq.models.config import WorkerConfig
from omniq.models.task import TaskRef
from omniq.outcomes import OutcomeWaiter, results_of
from omniq.plugins.registry import load_class, registry
from omniq.queue.engine import AsyncTaskQueue, TaskQueue
from omniq.results import AsyncResultStorage, ResultStorage
from omniq.sync import Portal, core_of, maybe_core_of, portal, refuse_in_loop
from omniq.workers.execution import Runner
from omniq.workers.pool import AsyncWorkerPool


def _slots(settings_for: Callable[[str], WorkerConfig] | None, kind: str) -> tuple[type[Runner], int, WorkerConfig]:
    """The slots of a kind, how many, and what else they are told. Raises `PluginError` if there is none of it here."""
    worker = load_class(registry().worker(kind).worker_class, Worker)
    config = worker.config_class() if settings_for is None else settings_for(kind)
    return worker.runner, config.max_workers or worker.default_max_workers, config


class Worker:
    """A worker on a task queue.

    `start` and `stop` (or `with`) run it on a thread of its own; `async with` runs it on the running loop.
    `result_store` defaults to where the queue is; without an `event_store` no events are written; `callbacks` default
    to the queue's. The rest are the fields of its `config_class`. Both async components and their blocking facades are
    taken.
    """

    kind: ClassVar[str]
    default_max_workers: ClassVar[int]
    runner: ClassVar[type[Runner]]
    config_class: ClassVar[type[WorkerConfig]] = WorkerConfig
    """The struct that configures it."""

    def __init__(
        self,
        queue: AsyncTaskQueue[Any] | TaskQueue,
        result_store: AsyncResultStorage[Any] | ResultStorage | None = None,
        event_store: AsyncEventStorage[Any] | EventStorage | None = None,
        callbacks: CallbackManager | None = None,
        **config: Any,
    ) -> None:
        self.config = worker_config(config, self.config_class, type(self).__name__)
        results = maybe_core_of(result_store, AsyncResultStorage, "result_store")
        events = maybe_core_of(event_store, AsyncEventStorage, "event_store")
        self._queue = core_of(queue, AsyncTaskQueue, "queue")
        if results is not None or events is not None or callbacks is not None:
            self._queue = self._queue.as_part(
                results=None if results is None else results.store,
                events=None if events is None else AsyncEventLogger(events.store),
                callbacks=callbacks,
            )
        self._results: AsyncResultStorage[Any] | None = None
        self._blocking: WorkerPool | None = None
        self._async: AsyncWorkerPool | None = None

    def pool(self, settings_for: Callable[[str], WorkerConfig] | None = None) -> AsyncWorkerPool:
        """A new engine with this worker's configuration; `settings_for` tells that of other kinds, which tasks may ask
        for."""
        return AsyncWorkerPool(
            self._queue,
            self.runner,
            self.config,
            kind=self.kind,
            max_workers=self.config.max_workers or self.default_max_workers,
            other_kind=partial(_slots, settings_for),
        )

    @property
    def _is_running(self) -> bool:
        in_loop = self._async is not None and self._async.failure is None
        return in_loop or (self._blocking is not None and self._blocking.running)

    # ── blocking ─────────────────────────────────────────────────────────────

    def start(self) -> None:
        """Begin to work on a thread of its own and return. Raises `StoreError`, or `WorkerError` if it runs."""
        refuse_in_loop(f"{type(self).__name__}.start()")
        if self._is_running:
            raise WorkerError("the worker is running already")
        self.stop()  # one that can't go on
        blocking = WorkerPool(self.pool())
        blocking.start()
        self._blocking = blocking

    def stop(self, grace_period: Duration | None = None) -> None:
        """Finish or hand back what this worker holds, and return when it has stopped."""
        blocking, self._blocking = self._blocking, None
        if blocking is not None:
            blocking.stop(seconds("grace_period", grace_period))

    def drain(self) -> None:
        """Wait until the tasks that are due now have been worked off."""
        if self._blocking is None:
            raise WorkerError("the worker isn't running: start() it")
        self._blocking.drain()

    def get_result(self, task_id: TaskRef, timeout: Duration | None = None) -> Any:
        """Wait for a task's value; raises as `OmniQ.get_result` does."""
        refuse_in_loop(f"{type(self).__name__}.get_result()")
        return portal().call(self._outcomes().value(task_id, timeout))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    # ── async ────────────────────────────────────────────────────────────────

    async def __aenter__(self) -> Self:
        if self._is_running:
            raise WorkerError("the worker is running already")
        await self.__aexit__()  # one that can't go on
        pool = self.pool()
        await pool.start()
        self._async = pool
        return self

    async def __aexit__(self, *exc: object) -> None:
        running, self._async = self._async, None
        if running is not None:
            await running.stop()

    def _outcomes(self) -> OutcomeWaiter:
        if self._results is None:
            self._results = results_of(self._queue)
        return OutcomeWaiter(self._queue, self._results)


# ── on a thread of its own ──────────────────────────────────────────────────


class WorkerPool:
    """A worker pool on a thread and an event loop of its own; its methods block."""

    def __init__(self, pool: AsyncWorkerPool) -> None:
        """Raises `WorkerError` for what is no `AsyncWorkerPool`, such as `AsyncOmniQ.worker_pool` makes."""
        from omniq.workers.pool import AsyncWorkerPool  # it imports this module

        if not isinstance(pool, AsyncWorkerPool):
            raise WorkerError(f"pool: expected an AsyncWorkerPool, got {type(pool).__name__}")
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
