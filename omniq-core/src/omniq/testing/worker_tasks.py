"""Functions that the suite for workers runs as tasks: on loops, on threads, on greenlets and in child processes.

They tell the tests what they do by lines in a file, and wait for files that the tests make.
"""

from __future__ import annotations

import asyncio
import contextvars
import ctypes
import functools
import os
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NoReturn

from omniq.errors import Reject, Retry
from omniq.models.result import TaskResult
from omniq.workers.jobs import current_task

PATIENCE: Final = 30.0
"""Seconds after which a task that waits for a test gives up."""
PAUSE: Final = 0.005


def note(log: str, line: object = "") -> str:
    """Add a line, by default the process's number; returns it. Lines of several processes don't mix."""
    text = str(line or os.getpid())
    with open(log, "a", encoding="utf-8") as file:
        file.write(f"{text}\n")
    return text


def lines(log: Path) -> list[str]:
    """What tasks have noted."""
    return log.read_text("utf-8").splitlines() if log.exists() else []


# ── functions of all kinds ───────────────────────────────────────────────────


def nothing() -> None:
    """Do nothing."""


def add(x: int, y: int) -> int:
    """The sum."""
    return x + y


async def add_async(x: int, y: int) -> int:
    """The sum, after a turn of the loop."""
    await asyncio.sleep(0)
    return x + y


def returns_an_awaitable(x: int, y: int) -> Awaitable[int]:
    """A plain function whose result has to be awaited."""
    return add_async(x, y)


def doubling(function: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator of sync functions."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return 2 * function(*args, **kwargs)

    return wrapper


def passing(function: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator that knows nothing of async functions."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


@doubling
def add_doubled(x: int, y: int) -> int:
    """Twice the sum."""
    return x + y


@passing
async def add_passed(x: int, y: int) -> int:
    """The sum, by an async function behind a plain one."""
    return await add_async(x, y)


@functools.lru_cache
def add_cached(x: int, y: int) -> int:
    """The sum, remembered."""
    return x + y


class Adder:
    """An object that is called."""

    def __init__(self, x: int) -> None:
        self.x = x

    def __call__(self, y: int) -> int:
        return self.x + y

    def add(self, y: int) -> int:
        """A method."""
        return self.x + y

    async def add_async(self, y: int) -> int:
        """An async one."""
        return await add_async(self.x, y)

    @staticmethod
    def sum_of(x: int, y: int) -> int:
        """A static one."""
        return x + y

    @classmethod
    def from_text(cls, text: str) -> int:
        """One of the class."""
        return cls(int(text)).x


class AsyncAdder(Adder):
    """An object that is called and awaited."""

    async def __call__(self, y: int) -> int:  # type: ignore[override]
        return await add_async(self.x, y)


def echo(value: Any) -> Any:
    """The value itself."""
    return value


async def echo_async(value: Any) -> Any:
    """The value itself, on a loop."""
    await asyncio.sleep(0)
    return value


def process_id() -> int:
    """Where it runs."""
    return os.getpid()


def append(log: str, line: str) -> str:
    """Note the line."""
    return note(log, line)


async def append_async(log: str, line: str) -> str:
    """Note the line, and let others have a turn."""
    await asyncio.sleep(0)
    return note(log, line)


# ── ones that take their time ────────────────────────────────────────────────


def wait_for(gate: str, log: str, line: str = "begun") -> str:
    """Note that it runs, and wait for the file."""
    note(log, line)
    deadline = time.monotonic() + PATIENCE
    while not os.path.exists(gate) and time.monotonic() < deadline:
        time.sleep(PAUSE)
    return "done"


async def wait_for_async(gate: str, log: str, line: str = "begun") -> str:
    """The same on a loop; it notes its cancellation."""
    note(log, line)
    deadline = time.monotonic() + PATIENCE
    try:
        while not os.path.exists(gate) and time.monotonic() < deadline:
            await asyncio.sleep(PAUSE)
    except asyncio.CancelledError:
        note(log, "cancelled")
        raise
    return "done"


def overlap(log: str, seconds: float) -> None:
    """Note its beginning and its end."""
    note(log, "+")
    time.sleep(seconds)
    note(log, "-")


def nap(seconds: float) -> str:
    """Sleep where nothing of it can notice anything."""
    time.sleep(seconds)
    return "awake"


def compute_until(gate: str, log: str, seconds: float = 3.0) -> str:
    """Compute without a pause until the file is there, or for so long."""
    note(log, "begun")
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for _ in range(10_000):
            pass
        if os.path.exists(gate):
            break
    return "done"


async def block(log: str, seconds: float) -> str:
    """Keep the loop to itself."""
    note(log)
    time.sleep(seconds)  # noqa: ASYNC251 (that is the point)
    return "done"


async def swallow(gate: str, log: str) -> str:
    """Wait for the file, whoever cancels it."""
    note(log, "begun")
    deadline = time.monotonic() + PATIENCE
    while not os.path.exists(gate) and time.monotonic() < deadline:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(PAUSE)
    return "done"


def look_whether_to_stop(gate: str, log: str) -> str:
    """Run until it is told to stop."""
    note(log, "begun")
    deadline = time.monotonic() + PATIENCE
    while not current_task().cancelled and not os.path.exists(gate) and time.monotonic() < deadline:
        time.sleep(PAUSE)
    note(log, "told" if current_task().cancelled else "not told")
    return "stopped"


def fail_when_told(gate: str, log: str) -> NoReturn:
    """Fail once it is told to stop."""
    look_whether_to_stop(gate, log)
    raise ValueError("cancelled, and no way to end well")


# ── ones that look around ────────────────────────────────────────────────────

variable: contextvars.ContextVar[str] = contextvars.ContextVar("omniq-testing", default="clean")


def stain(value: str) -> str:
    """What the context variable was; sets it."""
    before = variable.get()
    variable.set(value)
    return before


async def stain_async(value: str) -> str:
    """The same on a loop."""
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


async def describe_async() -> dict[str, Any]:
    """The same on a loop."""
    await asyncio.sleep(0)
    return describe()


def _id() -> str:
    return current_task().id


def ids_in_threads() -> list[str]:
    """Its id as threads see it that run in copies of its context."""
    seen: list[str] = []
    context = contextvars.copy_context()
    thread = threading.Thread(target=lambda: seen.append(context.run(_id)))
    thread.start()
    thread.join()
    with ThreadPoolExecutor(1) as pool:
        seen.append(pool.submit(contextvars.copy_context().run, _id).result())
    return [*seen, _id()]


async def ids_in_threads_async() -> list[str]:
    """Its id as its children, and threads beside its loop, see it."""

    async def child() -> str:
        await asyncio.sleep(0)
        return _id()

    return [await asyncio.to_thread(_id), *await asyncio.gather(child(), child()), _id()]


# ── ones that fail ───────────────────────────────────────────────────────────


class Own(Exception):
    """An error of a program's own, with arguments that its text doesn't show."""

    def __init__(self, code: int, *, reason: str) -> None:
        super().__init__(f"{code}: {reason}")


class OwnBase(BaseException):
    """One that `except Exception` doesn't catch."""


class Immovable(Exception):
    """One that can't be pickled."""

    def __init__(self, text: str) -> None:
        super().__init__(text, threading.Lock())

    def __reduce__(self) -> NoReturn:
        raise TypeError("it stays here")

    def __str__(self) -> str:
        return "it can't travel"


class Unprintable(Exception):
    """One whose text can't be had."""

    def __str__(self) -> str:
        raise RuntimeError("no text")

    def __repr__(self) -> str:
        raise RuntimeError("no repr")


def raise_(kind: str) -> NoReturn:
    """Raise one of `ERRORS`."""
    raise ERRORS[kind]()


async def raise_async(kind: str) -> NoReturn:
    """The same on a loop."""
    await asyncio.sleep(0)
    raise ERRORS[kind]()


ERRORS: Final[dict[str, Callable[[], BaseException]]] = {
    "own": lambda: Own(7, reason="no luck"),
    "base": lambda: OwnBase("nobody catches it"),
    "immovable": lambda: Immovable("x"),
    "unprintable": Unprintable,
    "exit": lambda: SystemExit("bye"),
    "interrupt": KeyboardInterrupt,
    "cancelled": asyncio.CancelledError,
    "timeout": lambda: TimeoutError("somebody else's"),
    "group": lambda: ExceptionGroup("both", [ValueError("one"), TypeError("two")]),
    "base group": lambda: BaseExceptionGroup("all", [SystemExit(1), KeyboardInterrupt(), ValueError("three")]),
    "surrogate": lambda: ValueError("half a character: \ud83d"),
}


def fail_with_a_history() -> NoReturn:
    """Fail with a cause, a note, and a group whose members were raised."""
    errors: list[Exception] = [TypeError("two")]
    try:
        raise ValueError("one")
    except ValueError as error:
        errors.insert(0, error)
    try:
        raise KeyError("first")
    except KeyError as error:
        error.add_note("a note")
        raise ExceptionGroup("both", errors) from error


def recurse() -> int:
    """Go too deep."""
    return recurse() + 1


async def recurse_async() -> int:
    """The same on a loop."""
    return await recurse_async() + 1


def return_a_generator(log: str) -> Any:
    """Return what no serializer takes."""
    note(log)
    return (n for n in range(3))


def fail_until(log: str, attempt: int) -> int:
    """Fail before that attempt."""
    note(log)
    if current_task().attempt < attempt:
        raise ValueError(f"attempt {current_task().attempt}")
    return current_task().attempt


def ask_for_a_retry(log: str, delay: Any) -> str:
    """Ask once to be run again, after `delay`."""
    note(log)
    if current_task().attempt == 1:
        raise Retry("come back", delay=delay)
    return "done"


def reject(log: str) -> NoReturn:
    """Fail for good."""
    note(log)
    raise Reject("not for me")


# ── ones that say how they are ───────────────────────────────────────────────


def tell(gate: str, log: str, fraction: float) -> str:
    """Say how far it is, and wait for the file."""
    current_task().progress(fraction, "reading")
    return wait_for(gate, log)


async def tell_async(gate: str, log: str, fraction: float) -> str:
    """The same on a loop."""
    current_task().progress(fraction, "reading")
    return await wait_for_async(gate, log)


def beat(seconds: float) -> str:
    """Give signs of life for a while."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        current_task().heartbeat()
        time.sleep(4 * PAUSE)
    return "done"


async def beat_async(seconds: float) -> str:
    """The same on a loop."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        current_task().heartbeat()
        await asyncio.sleep(4 * PAUSE)
    return "done"


# ── ones that are called back ────────────────────────────────────────────────


def called_back(result: TaskResult) -> None:
    """Note what was told, in the file that the value or the error names."""
    path = str(result.value or result.error_message)
    note(path, f"{result.status}:{result.task_id}")


def fail_naming(log: str) -> NoReturn:
    """Fail with the name of the file."""
    raise ValueError(log)


# ── ones that kill their process ─────────────────────────────────────────────


def die(log: str, how: str) -> NoReturn:
    """Take the process along."""
    note(log, how)
    if how == "exit":
        os._exit(7)
    ctypes.string_at(0)
    sys.exit("the process should be dead")
