"""The worker whose tasks run on threads."""

from __future__ import annotations

from omniq.workers.base import Worker
from omniq.workers.desk import Desk
from omniq.workers.execution import Execution
from omniq.workers.job import End, Job
from omniq.workers.runner import Runner
from omniq.workers.threads import ThreadSlots, give_up_all


class ThreadRunner(Runner):
    """Every task gets a thread; an async one runs in that thread's event loop."""

    def __init__(self, desk: Desk, execution: Execution, *, max_workers: int) -> None:
        super().__init__(desk, execution, max_workers=max_workers)
        self._slots = ThreadSlots(
            execution, size=max_workers, take=desk.take, waiting=lambda: desk.buffered, done=desk.done
        )

    @property
    def blocked(self) -> bool:
        return self._slots.blocked

    async def open(self) -> None:
        self._slots.on_start, self._slots.on_failure = self.on_start, self.on_failure

    def wake(self) -> None:
        self._slots.wake()

    def stop_job(self, job: Job, why: End) -> None:
        self._slots.stop_job(job, why)

    async def close(self) -> None:
        await give_up_all(self._slots)


class ThreadPoolWorker(Worker):
    """Runs tasks on `max_workers` threads: for blocking code that waits more than it computes."""

    kind = "thread"
    default_max_workers = 16
    runner = ThreadRunner
