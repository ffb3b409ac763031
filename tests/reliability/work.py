"""The tasks that a run under test consists of. Each logs itself in the run's history."""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

from omniq import current_task

from tests.reliability.history import History


class Refusal(Exception):
    """What a task raises that is made to fail."""


@functools.cache
def history() -> History:
    """This process's log, opened once."""
    return History.from_environment()


@contextmanager
def recorded() -> Iterator[str]:
    """Log the start and the end of the task that runs here; gives the value that it must return."""
    task, log = current_task(), history()
    log.start(task.id, task.epoch)
    value = f"{task.id}:{task.epoch}"
    try:
        yield value
    except Exception:  # not a cancellation: that is no failure of the task
        log.failed(task.id, task.epoch)
        raise
    log.done(task.id, task.epoch, value)


async def nap(seconds: float) -> str:
    """Wait on the event loop."""
    with recorded() as value:
        await asyncio.sleep(seconds)
    return value


def work(seconds: float) -> str:
    """Wait on a thread or in a process."""
    with recorded() as value:
        time.sleep(seconds)
    return value


async def hog(seconds: float) -> str:
    """Compute on the event loop, which nothing else can use meanwhile."""
    with recorded() as value:
        _compute(seconds)
    return value


def compute(seconds: float) -> str:
    """Compute on a thread or in a process."""
    with recorded() as value:
        _compute(seconds)
    return value


def stumble(failures: int) -> str:
    """Fail in the first `failures` attempts."""
    with recorded() as value:
        if current_task().attempt <= failures:
            raise Refusal(f"attempt {current_task().attempt} of {failures} that fail")
    return value


async def node(taken: dict[str, str | None], fails: bool, seconds: float) -> str:
    """A task of a graph: it looks at the results that it takes from others, by their ids, and may fail."""
    with recorded() as value:
        await asyncio.sleep(seconds)
        if fails:
            raise Refusal("as it was told to")
        for task_id, result in taken.items():
            assert result is None or result.partition(":")[0] == task_id, "these are the results of other tasks"
    return value


def die() -> str:
    """Kill the process that runs this, as a bug in a C extension would."""
    with recorded() as value:
        os.kill(os.getpid(), signal.SIGKILL)
    return value


def _compute(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sum(range(1000))
