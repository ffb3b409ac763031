"""The blocking task queue and scheduler."""

from __future__ import annotations

from concurrent.futures import Future
from contextvars import Context
from typing import Any

from omniq.backend.base import BaseBackend
from omniq.queue.engine import AsyncTaskQueue
from omniq.queue.scheduler import AsyncScheduler
from omniq.sync import Blocking, blocking, portal


class TaskQueue(Blocking[AsyncTaskQueue[Any]]):
    """A task queue whose methods block; `aio` is its async core."""

    @classmethod
    def from_backend(cls, backend: BaseBackend, **overrides: Any) -> TaskQueue:
        """A backend's task queue; `overrides` are fields of its config, such as `queues`."""
        return TaskQueue(AsyncTaskQueue.from_backend(backend, **overrides))

    enqueue = blocking(AsyncTaskQueue.enqueue)
    enqueue_many = blocking(AsyncTaskQueue.enqueue_many)
    get_task = blocking(AsyncTaskQueue.get_task)
    cancel = blocking(AsyncTaskQueue.cancel)
    requeue = blocking(AsyncTaskQueue.requeue)
    list_tasks = blocking(AsyncTaskQueue.list_tasks)
    list_dead = blocking(AsyncTaskQueue.list_dead)
    stats = blocking(AsyncTaskQueue.stats)
    guarantees = blocking(AsyncTaskQueue.guarantees)
    pause_queue = blocking(AsyncTaskQueue.pause_queue)
    resume_queue = blocking(AsyncTaskQueue.resume_queue)
    schedule = blocking(AsyncTaskQueue.schedule)
    get_schedule = blocking(AsyncTaskQueue.get_schedule)
    list_schedules = blocking(AsyncTaskQueue.list_schedules)
    pause_schedule = blocking(AsyncTaskQueue.pause_schedule)
    resume_schedule = blocking(AsyncTaskQueue.resume_schedule)
    delete_schedule = blocking(AsyncTaskQueue.delete_schedule)

    @property
    def queues(self) -> tuple[str, ...]:
        """The declared queues in order of priority; "default" is among them."""
        return self.aio.queues


class Scheduler(Blocking[AsyncScheduler]):
    """Fires the schedules of a task queue on a thread of the background, without a worker.

    Every worker fires schedules already; this is for a process that does nothing else.
    """

    def __init__(self, queue: Blocking[AsyncTaskQueue[Any]]) -> None:
        super().__init__(queue.aio.scheduler)
        self._running: Future[None] | None = None

    fire_due = blocking(AsyncScheduler.fire_due)

    def start(self) -> None:
        """Begin to fire and return."""
        if self._running is None:
            self.connect()
            self._running = Context().run(portal().submit, self.aio.run())

    def stop(self) -> None:
        """Fire no more."""
        running, self._running = self._running, None
        if running is not None:
            running.cancel()

    def close(self) -> None:
        """Fire no more, and give back the queue's connections."""
        self.stop()
        super().close()
