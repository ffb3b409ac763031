"""Calling a task's own callbacks after it has ended."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

from msgspec.structs import replace

from omniq import clock
from omniq.background import end_task, in_callback, spawn
from omniq.logs import get_logger
from omniq.models.state import TaskState
from omniq.queue.engine import AsyncTaskQueue
from omniq.results.view import task_result
from omniq.serialization.manager import SerializationManager
from omniq.storage.records import Change
from omniq.workers.describing import qualified_name
from omniq.workers.job import Job

log = get_logger("omniq.worker")


class CallbackManager:
    """Calls `on_success` and `on_failure` on the worker that ended the task, with its `TaskResult`.

    At most once: a worker that dies between a task's end and its callback doesn't call it. What must
    happen belongs into a task that depends on it. A callback that raises is logged and changes nothing.
    """

    def __init__(self, queue: AsyncTaskQueue[Any]) -> None:
        self._serialization: SerializationManager = queue.serialization
        self._calls: set[asyncio.Task[None]] = set()

    def ended(self, job: Job, change: Change) -> None:
        """A task has ended: call what it asked for."""
        succeeded = change.to is TaskState.SUCCESS
        reference = job.call.on_success if succeeded else job.call.on_failure
        if reference is not None:
            name = f"{reference} of task {job.record.id}"
            call = spawn(self._call(reference, job, change), name=name)
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

    async def _call(self, reference: str, job: Job, change: Change) -> None:
        assert change.result is not None
        in_callback.set(True)  # it has no more rights than the task
        try:
            function = self._serialization.resolve(reference)
            result = task_result(replace(change.result, finished_at=clock.now()), self._serialization)
            if inspect.iscoroutinefunction(function):
                await function(result)
            else:
                await asyncio.to_thread(function, result)
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # a SystemExit would take the worker's loop along
            # Neither its text nor a traceback, which may hold what the task returned.
            log.error("task %s: its callback %s raised %s", job.record.id, reference, qualified_name(type(error)))
