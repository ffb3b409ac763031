"""Functions that run as tasks and say how far they have come, or whether they are alive."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

from omniq import current_task
from omniq.errors import InvalidTask
from omniq.models import Progress, TaskResult
from omniq.models.result import Outcome

from tests.core.tasks import PATIENCE, note, wait_for, wait_for_async


def tell(log: str, gate: str, fraction: float = 0.4, message: str = "reading") -> str:
    """Tell how far it is, and wait for the file."""
    current_task().progress(fraction, message)
    return wait_for(gate, log)


async def tell_async(log: str, gate: str, fraction: float = 0.4, message: str = "reading") -> str:
    """The same on a loop."""
    current_task().progress(fraction, message)
    return await wait_for_async(gate, log)


async def tell_when_asked(log: str, begin: str, gate: str) -> str:
    """Wait for one file, tell how far it is, and wait for another."""
    await wait_for_async(begin, log)
    return await tell_async(log, gate)


def tell_from_a_thread(log: str, gate: str) -> str:
    """Tell it on a thread of the task's own, many times, and the end of it last."""
    task = current_task()

    def count() -> None:
        for number in range(1000):
            task.progress(number / 1000)
        task.progress(0.4, "reading")

    thread = threading.Thread(target=count)
    thread.start()
    thread.join()
    return wait_for(gate, log)


def tell_nonsense(fraction: Any, message: Any) -> str:
    """What is said of progress that is none."""
    try:
        current_task().progress(fraction, message)
    except InvalidTask as error:
        return str(error)
    return "taken"


def tell_and_end(fraction: float) -> str:
    """Tell it and end at once."""
    current_task().progress(fraction)
    current_task().heartbeat()
    return "done"


async def tell_often(seconds: float, pause: float) -> int:
    """Tell it again and again; returns how often."""
    end, count = time.monotonic() + seconds, 0
    while (left := end - time.monotonic()) > 0:
        current_task().progress(1 - left / seconds, f"step {count}")
        count += 1
        await asyncio.sleep(pause)
    return count


def beat(log: str, seconds: float, pause: float) -> str:
    """Give signs of life for a while."""
    note(log)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        current_task().heartbeat()
        time.sleep(pause)
    return "done"


async def beat_async(log: str, seconds: float, pause: float) -> str:
    """The same on a loop, by telling progress."""
    note(log)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        current_task().progress(0.5)
        await asyncio.sleep(pause)
    return "done"


def be_silent(log: str) -> str:
    """Give one sign of life, and no other."""
    note(log)
    current_task().heartbeat()
    end = time.monotonic() + PATIENCE
    try:
        while time.monotonic() < end and not current_task().cancelled:
            time.sleep(0.005)
    finally:  # a greenlet is interrupted
        note(log, "cancelled")
    return "late"


async def be_silent_async(log: str) -> str:
    """The same on a loop."""
    note(log)
    current_task().heartbeat()
    try:
        await asyncio.sleep(PATIENCE)
    except asyncio.CancelledError:
        note(log, "cancelled")
        raise
    return "late"


async def be_stubborn(log: str, gate: str) -> str:
    """Give no sign of life, whoever cancels it."""
    while True:
        try:
            return await wait_for_async(gate, log)
        except asyncio.CancelledError:
            continue


async def compute(seconds: float) -> None:
    """Keep the loop to itself."""
    time.sleep(seconds)  # noqa: ASYNC251 (that is the point)


def outcome(fraction: float | None) -> Outcome:
    """What a worker stores of a task that has come so far."""
    return Outcome(progress=None if fraction is None else Progress.of(fraction))


ends: list[TaskResult] = []
"""What `note_end` was told."""


def note_end(result: TaskResult) -> None:
    """Be the callback of a task."""
    ends.append(result)


async def _note_end(result: TaskResult) -> None:
    ends.append(result)


def note_end_later(result: TaskResult) -> object:
    """The same as an async function that something wraps."""
    return _note_end(result)


released = threading.Event()
"""Lets callbacks end that hang."""


def hang_after_end(result: TaskResult) -> None:
    """Be a callback that hangs."""
    released.wait(PATIENCE)


async def hang_after_end_async(result: TaskResult) -> None:
    """Be one on a loop, and note that it is cancelled."""
    try:
        await asyncio.sleep(PATIENCE)
    finally:
        note_end(result)


async def time_out_after_end(result: TaskResult) -> None:
    """Be one that bounds its own time."""
    try:
        async with asyncio.timeout(0.01):
            await asyncio.sleep(PATIENCE)
    except TimeoutError:
        note_end(result)
