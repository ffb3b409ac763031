"""The callbacks of single tasks: `on_success` and `on_failure`."""

from __future__ import annotations

import asyncio
import functools
import inspect
import time
from collections.abc import Coroutine
from typing import Any, Final

from omniq.batching import within
from omniq.callbacks import harmless
from omniq.loops import end_task, in_callback, spawn
from omniq.models.task import TaskState
from omniq.queue.engine import AsyncTaskQueue
from omniq.storage.records import Change
from omniq.texts import get_logger, qualified_name
from omniq.threads import on_thread
from omniq.workers.jobs import Job

log = get_logger("omniq.worker")


CALLBACK_TIMEOUT: Final = 60.0
"""Seconds that one callback may take, its wait for a thread included."""
MAX_CALLBACKS: Final = 10_000
"""Callbacks that run, or wait for a thread, at once."""
MAX_CALLBACK_THREADS: Final = 32
"""Sync callbacks that run at once."""
MAX_HUNG_CALLBACKS: Final = 32
"""Callbacks that go on running though they were given up."""
TELL_DROPPED: Final = 10.0
"""Seconds between two warnings of callbacks that aren't called."""


class TaskCallbacks:
    """Calls `on_success` and `on_failure` on the worker that ended the task, with its `TaskResult`.

    At most once: a worker that dies between a task's end and its callback doesn't call it. What must
    happen belongs into a task that depends on it. A callback that raises, or takes too long, is logged and changes
    nothing. Where callbacks are slower than tasks, those that are too many aren't called, which is counted and logged:
    tasks and their leases never wait for them.
    """

    def __init__(self, queue: AsyncTaskQueue[Any]) -> None:
        self._stores = queue.stores
        self._calls: set[asyncio.Task[None]] = set()
        self._threads = asyncio.Semaphore(MAX_CALLBACK_THREADS)
        self._hung: set[asyncio.Task[Any]] = set()
        """Those that go on though they were given up."""
        self.dropped = 0
        """How many weren't called, since there were too many."""
        self._told_at = -TELL_DROPPED

    def ended(self, job: Job, change: Change) -> None:
        """A task has ended: call what it asked for."""
        succeeded = change.to is TaskState.SUCCESS
        reference = job.call.on_success if succeeded else job.call.on_failure
        if reference is None:
            return
        if len(self._calls) >= MAX_CALLBACKS:
            self._drop()
        else:
            id_ = job.record.id
            call = spawn(self._call(reference, id_, change), name=f"{reference} of task {id_}")
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)

    async def close(self, patience: float) -> None:
        """Wait for the callbacks that have begun, at most `patience` seconds; cancel those that don't end."""
        if not self._calls:
            return
        _, pending = await asyncio.wait(set(self._calls), timeout=patience)
        for call in pending:
            log.warning("a callback is given up, since its worker stops: %s", call.get_name())
            end_task(call)

    async def _call(self, reference: str, id_: str, change: Change) -> None:
        in_callback.set(True)  # it has no more rights than the task
        call = functools.partial(self._made, reference, change)
        try:
            await within(CALLBACK_TIMEOUT, harmless(call, functools.partial(self._complain, reference, id_)))
        except TimeoutError:
            log.error("task %s: its callback %s takes too long and is given up", id_, reference)

    async def _made(self, reference: str, change: Change) -> None:
        function, result = self._stores.serialization.resolve(reference), self._stores.result_of(change)
        answer: Any = None
        if inspect.iscoroutinefunction(function):
            answer = function(result)
        else:
            async with self._threads:
                if len(self._hung) >= MAX_HUNG_CALLBACKS:
                    self._drop()
                    return
                answer = await self._counted(on_thread(functools.partial(function, result), "omniq-callback"))
        if inspect.iscoroutine(answer):
            await self._counted(answer, cancel=True)
        elif inspect.isawaitable(answer):  # as of an async function that something wraps
            await answer

    async def _counted(self, work: Coroutine[Any, Any, Any], *, cancel: bool = False) -> Any:
        """What becomes of it. If it is given up, it counts as hung until it has ended; `cancel`: let that be soon."""
        task = asyncio.ensure_future(_caught(work))
        try:
            answer, error = await asyncio.shield(task)
        except asyncio.CancelledError:
            self._hung.add(task)
            task.add_done_callback(self._hung.discard)
            if cancel:
                task.cancel()
            raise
        if error is not None:
            raise error
        return answer

    def _drop(self) -> None:
        self.dropped += 1
        if time.monotonic() - self._told_at >= TELL_DROPPED:
            self._told_at = time.monotonic()
            log.warning("%d callbacks of tasks weren't called so far: they take too long", self.dropped)

    @staticmethod
    def _complain(reference: str, id_: str, error: BaseException) -> None:
        # Neither its text nor a traceback, which may hold what the task returned.
        log.error("task %s: its callback %s raised %s", id_, reference, qualified_name(type(error)))


async def _caught(work: Coroutine[Any, Any, Any]) -> tuple[Any, BaseException | None]:
    """What the work returns, or raises: a `SystemExit` that leaves a task takes the loop along."""
    try:
        return await work, None
    except BaseException as error:
        return None, error
