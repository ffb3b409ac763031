"""A program that ends without closing anything: `python -m tests.core.exits HOW KIND DIRECTORY`."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

from omniq import OmniQ, TaskQueue
from omniq.results import ResultStorage
from omniq.workers import AsyncWorker, GeventPoolWorker, ProcessPoolWorker, ThreadPoolWorker

from tests.core import tasks
from tests.core.support import result_storage, sqlite_place, task_queue, until

WORKERS: dict[str, Any] = {
    "async": AsyncWorker,
    "thread": ThreadPoolWorker,
    "process": ProcessPoolWorker,
    "gevent": GeventPoolWorker,
}
CONFIG: dict[str, Any] = {"max_workers": 1, "lease": 60.0, "grace_period": 0.1}


def through_omniq(kind: str, directory: Path) -> int:
    """Work through the front door."""
    place = sqlite_place(directory)
    oq = OmniQ(task_queue=task_queue(place), result_store=result_storage(place))
    oq.start_worker(kind, **CONFIG)
    value: int = oq.get_result(oq.enqueue(tasks.add, [1, 2]), timeout=10)
    leave_running(oq, directory)
    return value


def through_components(kind: str, directory: Path) -> int:
    """Work with a queue and a worker."""
    place = sqlite_place(directory)
    queue = TaskQueue(task_queue(place))
    worker = WORKERS[kind](queue, ResultStorage(result_storage(place)), **CONFIG)
    worker.start()
    value: int = worker.get_result(queue.enqueue(tasks.add, [1, 2]), timeout=10)
    leave_running(queue, directory)
    return value


def leave_running(queue: OmniQ | TaskQueue, directory: Path) -> None:
    """Let a task run that doesn't end by itself."""
    log = directory / "log"
    queue.enqueue(tasks.wait_for_async, [str(directory / "gate"), str(log)], task_id="left")
    asyncio.run(until(log.exists))


if __name__ == "__main__":
    how = {"omniq": through_omniq, "components": through_components}[sys.argv[1]]
    print(how(sys.argv[2], Path(sys.argv[3])))
