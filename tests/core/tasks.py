"""Functions that the tests run as tasks, on loops, on threads and in child processes.

They tell the tests what they do by lines in a file, and wait for files that the tests make.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from omniq import current_task
from omniq.models import TaskResult

PATIENCE = 30.0
"""Seconds after which a task that waits for a test gives up."""


def note(path: str, line: object = "") -> str:
    """Add a line; returns it. Lines of several processes don't mix."""
    text = str(line or os.getpid())
    with open(path, "a") as file:
        file.write(text + "\n")
    return text


# ── small ones ───────────────────────────────────────────────────────────────


def add(x: int, y: int) -> int:
    return x + y


async def add_async(x: int, y: int) -> int:
    await asyncio.sleep(0)
    return x + y


def nothing() -> None:
    """Do nothing."""


async def nothing_async() -> None:
    """Do nothing, on a loop."""


def echo(value: Any) -> Any:
    return value


class Box:
    """Something that only dill carries."""

    def __init__(self, content: Any) -> None:
        self.content = content


def opened(box: Box) -> Any:
    return box.content


def type_names(value: Any) -> list[str]:
    """The types of what is in lists and dicts, keys included, but for those."""
    if isinstance(value, list | tuple):
        return [name for item in value for name in type_names(item)]
    if isinstance(value, dict):
        return [name for item in value.items() for name in type_names(item)]
    return [type(value).__name__]


def echo_noted(log: str, value: Any) -> Any:
    note(log)
    return value


def count_lines(log: str) -> int:
    """Add a line; returns how many there are."""
    note(log)
    with open(log) as file:
        return len(file.readlines())


def process_id() -> int:
    return os.getpid()


def fail(message: str = "no luck") -> NoReturn:
    raise ValueError(message)


async def fail_async(message: str = "no luck") -> NoReturn:
    raise ValueError(message)


def append(path: str, line: str) -> str:
    """Note the line, to tell in which order tasks were run."""
    return note(path, line)


def append_or(path: str, line: str) -> str:
    """Note the line, and do what it says if it is "die" or "sleep"."""
    note(path, line)
    if line == "die":
        os._exit(7)
    if line == "sleep":
        time.sleep(PATIENCE)
    return line


# ── ones that take long ──────────────────────────────────────────────────────


def spin(log: str, seconds: float) -> str:
    """Compute in pure Python without a pause."""
    end = time.monotonic() + seconds
    note(log)
    while time.monotonic() < end:
        sum(range(1000))
    return "done"


async def spin_async(log: str, seconds: float) -> str:
    """Compute on a loop, without letting anything else onto it."""
    return spin(log, seconds)


def wait_for(path: str, log: str) -> str:
    """Note that it runs, and wait for the file."""
    note(log)
    deadline = time.monotonic() + PATIENCE
    while not os.path.exists(path) and time.monotonic() < deadline:
        time.sleep(0.005)
    return "done"


def wait_if(log: str, path: str) -> None:
    """Note the path or that there is none, and wait for the file if there is one."""
    note(log, path or "short")
    if path:
        deadline = time.monotonic() + PATIENCE
        while not os.path.exists(path) and time.monotonic() < deadline:
            time.sleep(0.005)


def fail_without(path: str, log: str) -> str:
    """Fail if there is no such file."""
    note(log)
    if not os.path.exists(path):
        raise ValueError("no such file")
    return "done"


def wait_and_fail(path: str, log: str) -> NoReturn:
    wait_for(path, log)
    raise ValueError("late")


async def wait_for_async(path: str, log: str) -> str:
    """Note that it runs, and wait for the file; a cancellation is noted, too."""
    note(log)
    deadline = time.monotonic() + PATIENCE
    try:
        while not os.path.exists(path) and time.monotonic() < deadline:
            await asyncio.sleep(0.005)
    except asyncio.CancelledError:
        note(log, "cancelled")
        raise
    return "done"


def wait_until_cancelled(log: str) -> NoReturn:
    """Look whether it should stop, as a long task on a thread does."""
    note(log)
    deadline = time.monotonic() + PATIENCE
    while not current_task().cancelled and time.monotonic() < deadline:
        time.sleep(0.005)
    note(log, "cancelled")
    raise asyncio.CancelledError


async def stay(log: str, seconds: float) -> None:
    """Wait so long, whatever anybody says."""
    note(log)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(0.01)
    note(log)


async def stay_away(log: str) -> None:
    """Wait where a cancellation ends it."""
    note(log)
    await asyncio.sleep(PATIENCE)


async def clean_up(log: str, seconds: float) -> None:
    """Take some time after a cancellation, and note when all is clean."""
    note(log)
    try:
        await asyncio.sleep(PATIENCE)
    finally:
        await asyncio.sleep(seconds)
        note(log, "clean")


def fail_once_cancelled(log: str) -> NoReturn:
    """Look whether it should stop, and fail then."""
    note(log)
    deadline = time.monotonic() + PATIENCE
    while not current_task().cancelled and time.monotonic() < deadline:
        time.sleep(0.005)
    raise ValueError("cancelled, and no way to end well")


def sleep(seconds: float) -> None:
    time.sleep(seconds)


def sleep_in_process(seconds: float) -> int:
    """Sleep; returns where."""
    time.sleep(seconds)
    return os.getpid()


def sleep_in_c(log: str) -> None:
    """Sleep where no Python runs that could notice anything."""
    note(log)
    time.sleep(PATIENCE)


def loop_for_ever(log: str) -> NoReturn:
    """Never end, and never give up the interpreter of one's own accord."""
    note(log)
    while True:
        pass


# ── ones that look at their surroundings ─────────────────────────────────────

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="clean")


def stain(value: str) -> str:
    """What the context variable was; sets it."""
    before = variable.get()
    variable.set(value)
    return before


async def stain_async(value: str) -> str:
    return stain(value)


def describe() -> dict[str, Any]:
    """What `current_task()` says."""
    task = current_task()
    left = task.time_left
    return {
        "id": task.id,
        "queue_name": task.queue_name,
        "attempt": task.attempt,
        "max_retries": task.max_retries,
        "epoch": task.epoch,
        "metadata": task.metadata,
        "schedule_id": task.schedule_id,
        "cancelled": task.cancelled,
        "has_time_left": left is not None and 0 < left <= 60,
    }


async def names() -> tuple[str, str, bool]:
    """Its id, the name of the `asyncio` task that runs it, and whether `current_task()` stays the same."""
    before = current_task()
    await asyncio.sleep(0)
    running = asyncio.current_task()
    assert running is not None
    return before.id, running.get_name(), {before} == {current_task()}


async def describe_async() -> dict[str, Any]:
    await asyncio.sleep(0)
    return describe()


# ── callbacks ────────────────────────────────────────────────────────────────


def called_back(result: TaskResult) -> None:
    """Note what was told, where the task's value or error says."""
    path, _, text = str(result.value or result.error_message).partition("|")
    note(path, f"{result.status}:{result.task_id}:{text}")


told: list[TaskResult] = []
"""What `tell` was called with: callbacks run in the worker's own process."""


def tell(result: TaskResult) -> None:
    told.append(result)


async def called_back_async(result: TaskResult) -> None:
    called_back(result)


def fail_as_callback(result: TaskResult) -> NoReturn:
    note(str(result.value or result.error_message))
    raise ValueError("the callback failed")


async def wait_as_callback(result: TaskResult) -> None:
    await asyncio.sleep(PATIENCE)


def exit_as_callback(result: TaskResult) -> NoReturn:
    note(str(result.value or result.error_message))
    sys.exit("the callback exits")


# ── ones that use OmniQ themselves ───────────────────────────────────────────


def enqueue_another(directory: str) -> str:
    """Enqueue through a blocking front door; returns the id."""
    from tests.core.support import blocking_door, sqlite_place  # which few tasks need

    with blocking_door(sqlite_place(Path(directory))) as oq:
        return oq.enqueue(add, [1, 2])


async def enqueue_another_async(directory: str) -> str:
    return enqueue_another(directory)


async def leave_a_slow_coroutine(log: str) -> None:
    """Note that it runs, with a coroutine beside it that takes a while to end."""

    async def linger() -> None:
        try:
            await asyncio.sleep(PATIENCE)
        finally:
            await asyncio.sleep(0.1)

    lingering = asyncio.create_task(linger())
    await asyncio.sleep(0)
    note(log)
    await asyncio.shield(lingering)
