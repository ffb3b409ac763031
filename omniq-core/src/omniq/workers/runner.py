"""What the engine asks of the part that runs tasks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from omniq.workers.desk import Desk
from omniq.workers.execution import Execution
from omniq.workers.job import End, Job


class Runner(ABC):
    """Slots that take jobs from the desk, run them, and hand in what came of them."""

    isolates = False
    """Whether a task that kills its process leaves the worker and the other tasks alive."""

    def __init__(self, desk: Desk, execution: Execution, *, max_workers: int) -> None:
        self.desk = desk
        self.execution = execution
        self.max_workers = max_workers
        self.on_start: Callable[[Job], None] = lambda job: None
        """Told, on the running thread, when a job starts."""
        self.on_failure: Callable[[Exception], None] = lambda error: None
        """Told, on the worker's loop, when tasks can't be run any more: the worker ends."""

    @property
    def blocked(self) -> bool:
        """Whether no slot can take a job at present, for lack of threads or processes: nothing is claimed then."""
        return False

    @property
    def slots(self) -> int:
        """How many jobs can run at once as things are, the running ones included; at 0 nothing is claimed."""
        return self.max_workers

    @abstractmethod
    async def open(self) -> None:
        """Start what running tasks takes. Raises `WorkerError`."""

    @abstractmethod
    def wake(self) -> None:
        """There are jobs on the desk: let free slots take them. On the worker's loop."""

    @abstractmethod
    def stop_job(self, job: Job, why: End) -> None:
        """Make a running job end soon, as `why` says. On the worker's loop."""

    @abstractmethod
    async def close(self) -> None:
        """Stop everything that still runs, and wait for what can be waited for."""
